"""report.html: the same numbers as report.json in one file that loads nothing and names nobody."""

from __future__ import annotations

import re
from typing import Any

import pytest

from airlock.stages.pages.report_file import make_page
from airlock.stages.pages.run_view import view_run

REPORT: dict[str, Any] = {
    "schema": "airlock.report/1",
    "pipeline": "nightly",
    "run_id": "scheduled__2026-11-29T02:00:00+00:00",
    "run_key": "scheduled-2026-11-29-0123abcd",
    "window": ["2026-11-28T02:00:00+00:00", "2026-11-29T02:00:00+00:00"],
    "arrivals": 10,
    "bytes": 2048,
    "verdicts": {"accept": 7, "quarantine": 2, "duplicate": 1},
    "outcomes": {"imported": 7},
    "dispositions": {"released": 5, "held": 2, "quarantined": 2, "duplicate": 1},
    "reasons": {
        "truncated": {"arrivals": 2, "sentence": "The file is cut off. Ask the sender to send it again."},
        "study_incomplete": {"arrivals": 2, "sentence": "Another file of the study was not imported."},
    },
    "studies": {"released": 3, "held": 1, "stopped": 0},
    "held": [{"study_key": "58d41ecb4acff67e", "reason": "truncated"}],
    "overrides": [{"study_key": "58d41ecb4acff67e", "overridden_by": "kim", "override_reason": "Rita Doe, by phone"}],
    "redrive": {"asked_by": "kim", "why": "Rita Doe again", "choice": {}},
    "jobs": [
        {"batch_id": "b1" * 16, "job_id": "j1", "files": 7, "bytes": 2048, "generation": 0, "status": "COMPLETED"}
        | {"discrepancies": []}
    ],
    "balanced": True,
    "problems": [],
    "undated": 0,
    "owed": {"waiting": 0, "overdue": 0, "untold": 0, "reasons": {}},
}
CLINICAL: dict[str, Any] = {name: value for name, value in REPORT.items() if name not in {"studies", "redrive"}} | {
    "kind": "clinical",
    "arrivals": 2,
    "resources": 10,
    "reasons": {"not_json": {"units": 2, "sentence": "The line is not JSON."}},
    "patients": {"released": 3, "held": 1},
    "files": {"released": 1, "held": 1},
    "validation_level": "strict",
    "held": [{"subject_key": "58d41ecb4acff67e", "reason": "not_json"}],
}


def test_each_sum_has_a_tick_if_it_adds_up() -> None:
    assert [(one.number, one.expected, one.adds_up) for one in view_run(REPORT).sums] == [
        (10, 10, True),
        (7, 7, True),
        (10, 10, True),
    ]
    wrong = view_run(REPORT | {"outcomes": {"imported": 6}})
    assert [one.adds_up for one in wrong.sums] == [True, False, True]
    assert "&#10007; not the 7 files accepted for import" in make_page(REPORT | {"outcomes": {"imported": 6}})


def test_a_clinical_run_is_counted_in_units() -> None:
    view = view_run(CLINICAL)
    assert (view.unit, [one.adds_up for one in view.sums]) == ("units", [True, True, True])
    assert [name for name, _ in view.subjects] == ["patients", "files"]
    assert ("validation level", "strict") in view.facts


def test_what_was_listed_and_left_to_others_is_a_fact() -> None:
    listed = {"listed_too": {"settled": 12_000, "claimed_elsewhere": 40}}
    assert ("listed besides", "12,000 settled by earlier runs, 40 held by other runs") in view_run(
        REPORT | listed
    ).facts
    assert "listed besides" not in dict(view_run(REPORT | {"listed_too": {"settled": 0}}).facts)
    assert "listed besides" not in dict(view_run(REPORT).facts), "a report of an earlier version"


def test_what_is_known_of_the_studies_is_a_fact_where_it_is_counted() -> None:
    known = {"completeness": {"unknown": 5, "partial": 1}, "declared": {"fewer": 1, "findings": []}}
    facts = dict(view_run(REPORT | known | {"patient_match": {"matched": 6, "looked": 2}}).facts)
    assert facts["completeness of released studies"] == "partial 1, unknown 5"
    assert facts["declared numbers of instances"] == "fewer 1"
    assert facts["whose the studies are"] == "matched 6"
    assert "completeness of released studies" not in dict(view_run(REPORT | {"completeness": {}}).facts)


def test_a_reason_is_unusual_above_three_times_its_median() -> None:
    usual = {
        one.code: one.is_unusual for one in view_run(REPORT, {"truncated": 0.06, "study_incomplete": 0.19}).reasons
    }
    assert usual == {"truncated": True, "study_incomplete": False}
    assert not any(one.is_unusual for one in view_run(REPORT).reasons)  # too few nights say nothing


@pytest.mark.parametrize(
    "report", [REPORT, CLINICAL, REPORT | {"balanced": False, "problems": ["x: 1 arrivals"]}], ids="abc"
)
def test_the_page_loads_nothing_and_runs_nothing(report: dict[str, Any]) -> None:
    page = make_page(report)
    assert not re.search(r"<script|<link|<img|<iframe|@import|url\(|\son\w+=", page)
    assert set(re.findall(r"https?://[^\"' ]+", page)) == {"http://www.w3.org/2000/svg"}


def test_the_page_has_no_text_of_a_person_and_no_study() -> None:
    page = make_page(REPORT)
    for hidden in ("Rita", "kim", "58d41ecb4acff67e"):
        assert hidden not in page


def test_books_that_do_not_balance_are_said_first() -> None:
    page = make_page(REPORT | {"balanced": False, "problems": ["outcomes: 1 arrivals are missing"]})
    assert (
        page.index("BOOKS DO NOT BALANCE") < page.index("outcomes: 1 arrivals are missing") < page.index("<h2>Balance")
    )


def test_an_empty_run_is_a_page_too() -> None:
    nothing: dict[str, Any] = {name: {} for name in ("verdicts", "outcomes", "dispositions", "reasons", "studies")}
    assert "No job was started." in make_page(REPORT | nothing | {"arrivals": 0, "jobs": []})
