"""Comparisons go on where they were interrupted; a difference that is found again is the same finding."""

from __future__ import annotations

from datetime import UTC, datetime

import polars as pl
import pytest

from airlock.ledger import Ledger, LedgerError
from airlock.ledger.columns import ComparisonKind, FindingKind
from airlock.ledger.comparisons import FINDINGS, FOUND, OPEN_FINDINGS, Comparison

VANISHED, FOREIGN = FindingKind.VANISHED, FindingKind.FOREIGN_IN_STORE
SCOPE = {"uri": "s3://archive/in/"}
LONG_AGO = datetime(2000, 1, 1, tzinfo=UTC)


def begin(ledger: Ledger, pipeline: str | None = "nightly", datastore_id: str | None = None) -> Comparison:
    return ledger.begin_comparison(
        ComparisonKind.SWEEP, SCOPE, pipeline=pipeline, datastore_id=datastore_id, is_dry=False, asked_by="ada"
    )


def found(*subjects: str, kind: FindingKind = VANISHED, saw: str | None = None) -> pl.DataFrame:
    rows = [(kind.value, subject, saw) for subject in subjects]
    return pl.DataFrame(rows, schema={"kind": pl.String, "subject": pl.String, "found": pl.String}, orient="row")


def all_of(ledger: Ledger, **given: object) -> pl.DataFrame:
    return pl.concat([FINDINGS.to_frame(), *ledger.find_findings(**given)]).sort("found_at", "subject")  # type: ignore[arg-type]


def test_a_comparison_is_what_its_beginner_said(ledger: Ledger) -> None:
    begun = begin(ledger)
    assert (begun.kind, begun.pipeline, begun.datastore_id) == (ComparisonKind.SWEEP, "nightly", None)
    assert (begun.scope, begun.is_dry, begun.asked_by) == (SCOPE, False, "ada")
    assert (begun.position, begun.counts, begun.ended_at) == (None, None, None)
    assert ledger.comparison(begun.number) == begun
    assert ledger.comparison(begun.number + 1) is None


def test_an_interrupted_comparison_goes_on_at_its_position(ledger: Ledger) -> None:
    ledger.advance_comparison(begin(ledger), {"after": "b/ü"}, {"listed": 2})
    again = ledger.last_comparison(ComparisonKind.SWEEP, pipeline="nightly", has_ended=False)
    assert again is not None
    assert (again.position, again.counts) == ({"after": "b/ü"}, {"listed": 2})
    ended = ledger.end_comparison(ledger.advance_comparison(again, {"after": "c"}, {"listed": 3}), {"listed": 4})
    assert ended.counts == {"listed": 4}
    assert ended.ended_at is not None
    assert ledger.last_comparison(ComparisonKind.SWEEP, has_ended=False) is None
    assert ledger.last_comparison(ComparisonKind.SWEEP, has_ended=True) == ended


def test_of_two_processes_with_one_comparison_the_second_is_refused(ledger: Ledger) -> None:
    begun = begin(ledger)
    ledger.advance_comparison(begun, {"after": "a"}, {})
    with pytest.raises(LedgerError, match="another process has gone on"):
        ledger.advance_comparison(begun, {"after": "b"}, {}, found("x"))
    with pytest.raises(LedgerError, match="another process has gone on"):
        ledger.end_comparison(begun, {})
    assert all_of(ledger).is_empty()


def test_an_ended_comparison_does_not_go_on(ledger: Ledger) -> None:
    ended = ledger.end_comparison(begin(ledger), {})
    with pytest.raises(LedgerError, match="has ended"):
        ledger.advance_comparison(ended, {"after": "a"}, {})


def test_the_last_comparison_is_by_kind_pipeline_and_store(ledger: Ledger) -> None:
    first, second = begin(ledger, "nightly", "store"), begin(ledger, "other")
    assert ledger.last_comparison(ComparisonKind.SWEEP) == second
    assert ledger.last_comparison(ComparisonKind.SWEEP, pipeline="nightly") == first
    assert ledger.last_comparison(ComparisonKind.SWEEP, datastore_id="store") == first
    assert ledger.last_comparison(ComparisonKind.RECONCILE) is None


def test_a_difference_that_is_found_again_is_the_same_row(ledger: Ledger) -> None:
    first = ledger.end_comparison(begin(ledger), {}, found("a", "a", "b", saw="1"))
    before = all_of(ledger)
    assert before["subject"].to_list() == ["a", "b"]
    second = ledger.end_comparison(begin(ledger), {}, found("b", "c", saw="2"))
    after = all_of(ledger)
    assert after["subject"].to_list() == ["a", "b", "c"]
    assert after["id"].to_list()[:2] == before["id"].to_list()
    assert after["found"].to_list() == ["1", "2", "2"]
    assert after["comparison_id"].to_list() == [first.number, second.number, second.number]
    assert after["found_at"].to_list()[:2] == before["found_at"].to_list()


def test_findings_about_other_pipelines_stores_and_kinds_are_other_rows(ledger: Ledger) -> None:
    for pipeline, store in (("nightly", None), ("nightly", "s"), (None, "s"), ("other", "s")):
        ledger.end_comparison(begin(ledger, pipeline, store), {}, found("a"))
    ledger.end_comparison(begin(ledger), {}, found("a", kind=FOREIGN))
    assert all_of(ledger).height == 5
    assert all_of(ledger, pipeline="nightly").height == 3
    assert all_of(ledger, datastore_id="s").height == 3
    assert pl.concat(ledger.find_findings(FOREIGN)).height == 1


def test_findings_are_counted_by_kind(ledger: Ledger) -> None:
    ledger.end_comparison(begin(ledger), {}, pl.concat([found("a", "b"), found("a", kind=FOREIGN)]))
    counted = ledger.count_findings(pipeline="nightly")
    assert counted.schema == OPEN_FINDINGS
    assert counted.select("kind", "findings").rows() == [(FOREIGN, 1), (VANISHED, 2)]
    assert ledger.count_findings(pipeline="other").is_empty()


def test_what_a_whole_comparison_no_longer_finds_is_closed(ledger: Ledger) -> None:
    ledger.end_comparison(begin(ledger), {}, pl.concat([found("a", "b"), found("a", kind=FOREIGN)]))
    ledger.end_comparison(begin(ledger, "other"), {}, found("a"))
    last = ledger.end_comparison(begin(ledger), {}, found("b"))
    assert ledger.close_unseen(last, VANISHED, closed_by="ada") == 1
    left = all_of(ledger, pipeline="nightly").select("kind", "subject").rows()
    assert set(left) == {(VANISHED.value, "b"), (FOREIGN.value, "a")}
    closed = all_of(ledger, pipeline="nightly", closed_since=LONG_AGO)
    assert closed.select("subject", "closed_by").rows() == [("a", "ada")]


def test_a_closed_difference_that_comes_back_is_another_row(ledger: Ledger) -> None:
    ledger.end_comparison(begin(ledger), {}, found("a", "b"))
    about = {"pipeline": "nightly", "datastore_id": None}
    assert ledger.close_findings(pl.Series(["a", "x"]), VANISHED, **about, closed_by="run") == 1
    assert all_of(ledger)["subject"].to_list() == ["b"]
    last = ledger.end_comparison(begin(ledger), {}, found("a"))
    assert all_of(ledger, comparison=last.number)["subject"].to_list() == ["a"]
    assert pl.concat([all_of(ledger), all_of(ledger, closed_since=LONG_AGO)]).height == 3


def test_a_finding_has_the_facts_that_were_given(ledger: Ledger) -> None:
    facts = {"study_key": "s", "arrival_id": "a", "image_set_id": "i", "expected": "1", "found": None}
    given = pl.DataFrame([{"kind": VANISHED.value, "subject": "x"} | facts], schema=FOUND)
    ledger.end_comparison(begin(ledger), {}, given)
    assert all_of(ledger).select(FOUND.names()).to_dicts() == given.to_dicts()
