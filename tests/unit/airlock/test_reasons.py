"""The closed list of reason codes, and its table in the docs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from airlock.imaging.validate import IGNORED_REASONS, PATIENT_CONFLICTS, SERIES_ELEMENTS, STUDY_ELEMENTS
from airlock.pipelines import SOFT_REASONS, Validate
from airlock.reasons import PARSE_REASONS, SENTENCES, Reason
from airlock.records import Disposition, Stage

PAGE = Path(__file__).parents[3] / "docs" / "reasons.md"
ROWS = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in PAGE.read_text(encoding="utf-8").splitlines()
    if line.startswith("| `")
]
TABLE = {code.strip("`"): (stage, words.split(", "), sentence) for code, stage, words, sentence in ROWS}


def test_the_docs_list_every_code_once_in_order_with_its_sentence() -> None:
    assert [row[0].strip("`") for row in ROWS] == [str(reason) for reason in Reason]
    assert {code: sentence for code, (_, _, sentence) in TABLE.items()} == SENTENCES


@pytest.mark.parametrize("reason", Reason)
def test_a_text_says_what_is_wrong_and_then_what_to_do(reason: Reason) -> None:
    assert re.fullmatch(r"[A-Z].*[^.]\. [A-Z].*[^.]\.", reason.sentence), reason.sentence
    assert "|" not in reason.sentence


@pytest.mark.parametrize("reason", Reason)
def test_a_code_is_a_plain_word_that_carries_no_data(reason: Reason) -> None:
    assert re.fullmatch(r"[a-z]+(_[a-z]+)*", reason)
    assert Reason(str(reason)) is reason
    assert f"{reason}" == reason.value


@pytest.mark.parametrize("code", TABLE)
def test_the_docs_name_stages_and_dispositions_of_the_design(code: str) -> None:
    stage, words, _ = TABLE[code]
    assert stage in [*Stage]
    assert words
    assert set(words) <= {*Disposition}


def test_the_docs_agree_with_the_rules_about_who_finds_what() -> None:
    by_stage = {stage: {code for code, row in TABLE.items() if row[0] == stage} for stage in Stage}
    assert by_stage["parse"] == {str(reason) for reason in PARSE_REASONS}
    assert {*STUDY_ELEMENTS.values(), *SERIES_ELEMENTS.values()} <= by_stage["validate"]
    ignored = {code for code, (_, words, _) in TABLE.items() if words == ["ignored"]}
    of_redrives = Reason.IMAGE_SET_DELETED, Reason.NEWER_CONTENT
    assert ignored == {str(reason) for reason in (*IGNORED_REASONS, *of_redrives)}
    # A reason that may be waved through is found on released arrivals too.
    waved = {
        code for code, (stage, words, _) in TABLE.items() if stage in {"parse", "validate"} and "released" in words
    }
    assert waved == {str(reason) for reason in SOFT_REASONS} | {
        code for code in TABLE if code.endswith("_conflict") and code not in PATIENT_CONFLICTS
    } | {
        "series_in_two_studies",  # with validation.grouping_conflict: accept
        "no_pixel_data",  # stops nothing
        "order_unknown",  # where a later clock orders
        "dangling_reference",  # stops nothing
    }
    assert set(Validate().warn_only) <= SOFT_REASONS
