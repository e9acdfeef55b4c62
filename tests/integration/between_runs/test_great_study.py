"""A study of 50,000 instances: whole through every stage, with a stated time and memory for each."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from benchmarks.loopback_s3 import loopback_s3
from benchmarks.machine import peak_rss_mib

from tests.chain import BUCKETS, DATASTORE, ROLE, pipeline
from tests.dicom_files import ct
from tests.integration.between_runs.runs import by_hand
from tests.integration.conftest import place_beside
from tests.ledger_rows import count_arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.chain import Place

pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(3600)]

INSTANCES, SERIES = 50_000, 10
MOST_MIB = 2_048  # of this process, which has the emulator too


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    """Servers with a quick S3 of plain files, in a process of its own; what it serves is not this process's memory."""
    for bucket in BUCKETS:
        (tmp_path / "s3" / bucket).mkdir(parents=True)
    with (
        loopback_s3(tmp_path / "s3") as endpoint,
        place_beside(endpoint, tmp_path, monkeypatch) as made,
    ):
        yield made


def deliver(archive: Path) -> None:
    """Write the slices, a folder for each series, as they lie in the archive."""
    for number in range(INSTANCES):
        series = number % SERIES
        file = archive / f"in/great/{series}/{number:05}.dcm"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(ct(1, series, number, NumberOfStudyRelatedInstances=INSTANCES))


def test_it_is_released_whole_in_one_contract(place: Place, tmp_path: Path) -> None:
    deliver(tmp_path / "s3/archive")
    imaging = {
        "datastore_id": DATASTORE,
        "data_access_role_arn": ROLE,
        "output_uri": "s3://output/imports/",
        "region_name": "us-east-1",
        "poll_seconds": 1,
        "job_timeout_minutes": 60,
    }
    audit = {"manifest_wait_seconds": 120, "read_back_fraction": 0.0001}
    staging = {"uri": "s3://staging/batches/", "mode": "in_place"}
    chain = by_hand(place, "great", line=pipeline(healthimaging=imaging, audit=audit, staging=staging))
    figures = []
    for stage in (task for task in chain.dag.topological_sort() if task.task_id != "next_wave"):
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # begins the peak anew
        began = time.monotonic()
        chain.stage(stage.task_id)
        figures.append((stage.task_id, time.monotonic() - began, peak_rss_mib()))
        sys.stdout.write(f"\n{stage.task_id:10}{figures[-1][1]:8.1f} s{figures[-1][2]:8.0f} MiB\n")
        sys.stdout.flush()
    report = chain.report
    assert report["balanced"]
    assert report["dispositions"] == {"released": INSTANCES}
    (contract,) = place.contracts()
    assert (contract["completeness"]["state"], contract["completeness"]["released"]) == ("unknown", INSTANCES)
    assert sum(len(series["instances"]) for series in contract["series"]) == INSTANCES
    with place.ledger() as ledger:
        assert count_arrivals(ledger, "nightly") == {"released": INSTANCES}
    assert max(memory for _, _, memory in figures) < MOST_MIB
