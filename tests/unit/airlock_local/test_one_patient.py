"""The sample of one patient has each outcome, before and after its late records."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from boto3 import Session
from pydicom import dcmread

from airlock.imaging.matching import Head, Matcher
from airlock.ledger import Ledger
from airlock.pipelines import ImagingPipeline
from airlock.pipelines.files import load_pipeline
from airlock.run import Run
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from airlock_local.one_patient import _STEPS, list_meetings
from airlock_local.sample.one_patient import IMAGES, LATE, RECORDS, Meeting, write_one_patient_sample
from tests.servers.ledger import new_ledger
from tests.unit.airlock.imaging.fhir.studies import STUDY, study
from tests.unit.airlock.imaging.lake import Lake

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.imaging.contracts import StudyContract

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("one-patient")


@pytest.fixture(scope="module")
def meetings(folder: Path) -> list[Meeting]:
    return write_one_patient_sample(folder)


def shipped() -> ImagingPipeline:
    found = load_pipeline(ROOT / "include/pipelines/one-patient.yaml")
    assert isinstance(found, ImagingPipeline)
    return found


def put(lake: Lake, folder: Path) -> None:
    """Write the records of a folder to a data store."""
    for file in sorted(folder.glob("*.ndjson")):
        for line in file.read_text(encoding="utf-8").splitlines():
            lake.put(json.loads(line))


def read_studies(folder: Path) -> dict[str, StudyContract]:
    """Return a contract of each study with what its first file says."""
    found: dict[str, StudyContract] = {}
    for file in sorted((folder / IMAGES).rglob("*.dcm")):
        header = dcmread(file, stop_before_pixels=True)
        said: dict[str, Any] = {name: str(header.get(name) or "") or None for name in STUDY if name in header}
        found.setdefault(str(header.StudyInstanceUID), study(**said))
    return found


def match(ledger: Ledger, lake: Lake, studies: dict[str, StudyContract]) -> dict[str, tuple[str, str | None]]:
    line = shipped()
    session = Session("testing", "testing", region_name="us-east-1")
    nowhere = S3(session, session.client("s3"))  # without a crosswalk it is asked nothing
    run = Run(line, "manual__1", None, S3Uri.parse(line.source.uri), nowhere, ledger)
    decided = Matcher.of(run, lake).match([Head(one, "") for one in studies.values()])
    return {one.head.contract.StudyInstanceUID: (str(one.match.outcome), one.match.patient) for one in decided}


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(new_ledger(tmp_path / "ledger.db")) as found:
        yield found


def test_each_study_has_the_outcome_that_the_sample_says(ledger: Ledger, folder: Path, meetings: list[Meeting]) -> None:
    lake, studies = Lake(), read_studies(folder)
    assert studies.keys() == {one.study for one in meetings}
    put(lake, folder / RECORDS)
    found = match(ledger, lake, studies)
    assert {uid: outcome for uid, (outcome, _) in found.items()} == {one.study: one.outcome for one in meetings}
    outcomes = {one.outcome for one in meetings}
    assert outcomes == {"matched", "none", "ambiguous", "unguarded", "contradicted"}
    put(lake, folder / LATE)
    found = match(ledger, lake, studies)
    later = {one.study: (one.later, one.patient and f"Patient/{one.patient}") for one in meetings}
    assert found == later
    assert [one.outcome for one in meetings if one.later != one.outcome] == ["none"]


def test_the_steps_deliver_each_part_and_look_again_at_the_end(meetings: list[Meeting]) -> None:
    assert [part for _, part, _ in _STEPS] == [RECORDS, IMAGES, LATE, IMAGES]
    lines = list(list_meetings(meetings, {one.study: (one.outcome, None) for one in meetings}))
    assert len(lines) == 1 + len(meetings)
