"""Two pipelines over the same objects, both at once on the real scheduler, night by night: each study once."""

from __future__ import annotations

import csv
import io
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from airlock.run import run_key
from tests.dicom_files import ct, study_uid
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(2400), pytest.mark.usefixtures("first_run")]

SOURCES = ("main", "mirror")
FIRST = 2_000  # the number of the first study
# The studies that each source has in each night; in the last one both take what the other had claimed before.
NIGHTS = (
    (range(4), range(2, 6)),
    (range(4, 8), [0, 1, 8]),
    (range(8, 10), [6, 7, 9]),
    ([], []),
)


def deliver(machine: Machine, source: str, studies: list[int]) -> None:
    files = {f"{study}/{n}.dcm": ct(FIRST + study, 1, n) for study in studies for n in (1, 2)}
    machine.put(files, f"{source}/")


def run_both(machine: Machine) -> dict[str, str]:
    """Start a run of each source at once and return the runs' ids when both have ended."""
    with machine.api() as api:
        for source in SOURCES:
            until("the DAG is there", lambda source=source: api.dag(source))
            api.unpause(source)
        started = {source: api.trigger(source, {}) for source in SOURCES}
        for source, run in started.items():
            until("the run ends", lambda source=source, run=run: api.run_state(source, run) == "success", 600)
    return started


def dispositions(machine: Machine, source: str, run: str) -> list[tuple[str, str]]:
    """Return disposition and reason of the files of a run that are not simply released."""
    key = f"runs/{source}/{run_key(source, run)}/audit/dispositions.csv"
    text = machine.s3().get_object(Bucket="airlock-workspace", Key=key)["Body"].read().decode()
    return [(row["disposition"], row["reason"]) for row in csv.DictReader(io.StringIO(text))]


def test_each_study_is_released_and_sent_once_and_nothing_is_held(machine: Machine) -> None:
    words = Counter[str]()
    claimed = 0
    for night in NIGHTS:
        for source, studies in zip(SOURCES, night, strict=True):
            deliver(machine, source, list(studies))
        runs = run_both(machine)
        for source, run in runs.items():
            report = machine.report(source, run_key(source, run))
            assert report["balanced"]
            claimed += report["reasons"].get("instance_claimed", {}).get("arrivals", 0)
            words.update(report["dispositions"])
    assert words["released"] == words["duplicate"] == 20
    assert words["held"] == 0
    assert words["quarantined"] == claimed  # for the run that came second, which took them again
    sent = machine.contracts("overlap/")
    assert Counter(contract["StudyInstanceUID"] for contract in sent) == {
        study_uid(FIRST + study): 1 for study in range(10)
    }
    assert {contract["revision"] for contract in sent} == {1}
