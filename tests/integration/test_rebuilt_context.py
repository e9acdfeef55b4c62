"""A ledger is rebuilt while resources wait, and after people have decided whose studies are."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.chain import Chain, clinical_pipeline
from tests.clinical_files import observation, patient
from tests.dicom_files import ct
from tests.integration.test_late_context import encounter
from tests.integration.test_late_context import night as records
from tests.integration.test_one_patient import (
    BORN,
    airlock,
    lake,
    latest,
    line,
    night,
    put_order,
    put_patient,
    questions,
    subject_of,
)
from tests.integration.test_rebuild import rebuilt

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from tests.chain import Place

pytestmark = pytest.mark.slow
__all__ = ["airlock", "lake"]


def test_what_waits_is_in_a_rebuilt_ledger_and_comes_in(place: Place, tmp_path: Path) -> None:
    records(place, 1, observation("o1", encounter={"reference": "Encounter/e1"}))
    records(place, 2, encounter(), observation("o2", subject={"reference": "Patient?identifier=urn:mrn|7"}))
    place.take("archive")
    rebuilt(place, tmp_path, Chain(place, clinical_pipeline(), run_id="x"))
    records(place, 3, patient())
    rebuilt(place, tmp_path, Chain(place, clinical_pipeline(), run_id="x"))
    report = records(place, 4).report
    assert report["dispositions"] == {"released": 2, "parked": 1}
    rebuilt(place, tmp_path, Chain(place, clinical_pipeline(), run_id="x"))
    assert place.stored("Observation/o1")


def test_what_people_decided_is_there_after_a_rebuild(
    lake: Place, airlock: Callable[..., Result], tmp_path: Path
) -> None:
    put_patient(lake, "ada", "PID-1")
    put_patient(lake, "bert", "PID-2")
    put_order(lake, "o2", "ACC-2", "bert")
    same = BORN | {"PatientID": "PID-1"}
    lake.put({"1.dcm": ct(1, 1, 1, **same), "2.dcm": ct(2, 1, 1, **same)})
    night(lake)
    (asked,) = questions(lake)
    said = airlock("patient", "answer", str(asked["id"]), "--patient", "Patient/bert", "--why", "the paper")
    assert said.exit_code == 0, said.stderr
    rebuilt(lake, tmp_path, Chain(lake, line(), run_id="x"))
    night(lake)
    assert (subject_of(lake, 1), subject_of(lake, 2), questions(lake)) == ("Patient/ada", "Patient/bert", [])
    split = airlock("patient", "split", "--study", latest(lake, 2)["study_key"], "--why", "it was not")
    assert split.exit_code == 0, split.stderr
    again = airlock("patient", "split", "--study", latest(lake, 2)["study_key"], "--why", "it was not")
    assert again.exit_code != 0
    rebuilt(lake, tmp_path, Chain(lake, line(), run_id="x"))
    night(lake)
    assert subject_of(lake, 1) == "Patient/ada", "a split takes one study away"
    assert re.fullmatch("Patient/[0-9a-f]{32}", subject_of(lake, 2))
