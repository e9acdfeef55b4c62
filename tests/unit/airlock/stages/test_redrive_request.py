from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airlock.ledger import Resolution
from airlock.stages.redrive_request import RedriveError, read_request
from tests.unit.airlock.clinical.books import CCDA
from tests.unit.airlock.clinical.books import pipeline as clinical_pipeline
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalPipeline

IMAGES = pipeline()

WHY = {"redrive_why": "cured"}


def test_params_of_other_runs_ask_for_no_redrive() -> None:
    assert read_request({"prefix": "in/", "redrive_run": None, "redrive_reasons": []}, "ada", IMAGES) is None


def test_a_site_narrows_the_other_conditions_and_is_none_by_itself() -> None:
    asked = read_request(WHY | {"redrive_reasons": ["truncated"], "redrive_site": " lakeview "}, "ada", IMAGES)
    assert asked is not None
    assert (asked.site, asked.choice["site"]) == ("lakeview", "lakeview")
    with pytest.raises(RedriveError, match="selects nothing"):
        read_request(WHY | {"redrive_site": "lakeview"}, "ada", IMAGES)
    for other in ({"redrive_csv": "s3://bucket/a.csv"}, {"redrive_findings": True}):
        with pytest.raises(RedriveError, match="redrive_site narrows"):
            read_request(WHY | other | {"redrive_site": "lakeview"}, "ada", IMAGES)


def test_a_request_has_who_and_why() -> None:
    params = WHY | {"redrive_run": "r", "redrive_reasons": ["truncated", "truncated"], "redrive_non_primary": "delete"}
    asked = read_request(params, "ada", IMAGES)
    assert asked is not None
    assert (asked.asked_by, asked.why, asked.reasons) == ("ada", "cured", ("truncated",))
    assert asked.choice == {"run": "r", "reasons": ["truncated"], "non_primary": "delete"}
    assert asked.non_primary == Resolution.DELETE


@pytest.mark.parametrize(
    ("signed", "person", "asked_by"),
    [
        (None, "ada", "ada"),
        ("ada", "ada", "ada"),
        ("grace", "ada", "grace (by ada)"),
        ("grace", None, "grace"),
        (None, None, "unknown"),
    ],
)
def test_whoever_signs_is_named_beside_whoever_started_the_run(
    signed: str | None, person: str | None, asked_by: str
) -> None:
    asked = read_request(WHY | {"redrive_run": "r", "redrive_by": signed}, person, IMAGES)
    assert asked is not None
    assert asked.asked_by == asked_by


@pytest.mark.parametrize(
    ("params", "fault"),
    [
        ({"redrive_run": "r"}, "redrive_why is missing"),
        ({"redrive_run": "r", "redrive_why": "  "}, "redrive_why is missing"),
        ({"redrive_run": "r", "redrive_why": "\u200b"}, "redrive_why is missing"),
        (
            {"redrive_run": "r", "redrive_why": "cured\0"},
            "redrive_why has characters that cannot be stored: write it without",
        ),
        ({"redrive_run": "r", "redrive_why": "x" * 2001}, "redrive_why has 2001 characters: write 2000 at most"),
        (WHY | {"redrive_run": "r", "redrive_by": "a\x1b[2J"}, "redrive_by has characters that cannot be stored"),
        (WHY, "selects nothing"),
        (WHY | {"redrive_non_primary": "delete"}, "selects nothing"),
        (WHY | {"redrive_study": "1.2.840.1"}, "redrive_study is not a study key"),
        (WHY | {"redrive_reasons": ["no_such"]}, "redrive_reasons has 1 codes that do not exist"),
        (WHY | {"redrive_reasons": "truncated"}, "redrive_reasons is not a list"),
        (WHY | {"redrive_csv": "file:///edited.csv"}, "redrive_csv is not the address"),
        (WHY | {"redrive_csv": "s3://archive/edited.xlsx"}, "redrive_csv is not the address"),
        (WHY | {"redrive_run": 7}, "redrive_run is not text"),
        (
            WHY | {"redrive_run": "r", "redrive_non_primary": "keep"},
            "redrive_non_primary is not one of promote",
        ),
        (WHY | {"redrive_run": "r", "prefix": "in/"}, "prefix cannot go with a redrive"),
    ],
)
def test_a_wrong_request_names_the_param(params: dict[str, Any], fault: str) -> None:
    with pytest.raises(RedriveError, match=fault):
        read_request(params, "ada", IMAGES)


@pytest.mark.parametrize("line", [clinical_pipeline(), clinical_pipeline(**CCDA)], ids=str)
@pytest.mark.parametrize("given", [{"redrive_study": "0" * 16}, {"redrive_run": "r", "redrive_non_primary": "delete"}])
def test_what_is_about_studies_is_for_images(line: ClinicalPipeline, given: dict[str, Any]) -> None:
    assert read_request(WHY | given | {"redrive_run": "r"}, "ada", IMAGES) is not None
    with pytest.raises(
        RedriveError, match=rf"{list(given)[-1]} is for pipelines of kind imaging, .* of kind {line.kind}\."
    ):
        read_request(WHY | given, "ada", line)
    assert read_request(WHY | {"redrive_run": "r"}, "ada", line) is not None


def test_a_wrong_value_is_not_repeated() -> None:
    with pytest.raises(RedriveError) as error:
        read_request(WHY | {"redrive_study": "1.2.840.1"}, "ada", IMAGES)
    assert "1.2.840" not in str(error.value)
