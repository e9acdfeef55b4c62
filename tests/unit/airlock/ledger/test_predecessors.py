"""Arrivals of earlier runs under the same key: the study that they name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.reasons import Reason
from tests.unit.airlock.ledger.samples import NIGHTLY, begin, content, dispositions, uids

if TYPE_CHECKING:
    from airlock.ledger import Ledger


def settle(
    ledger: Ledger, run: str, rows: pl.DataFrame, word: tuple[str, str | None], study: str | None = "1.study"
) -> None:
    ledger.claim(NIGHTLY, run, rows)
    words = dispositions("x", word=word[0], study_uid=study).with_columns(
        rows.select("arrival_id", "key"), reason=pl.lit(word[1], pl.String)
    )
    ledger.settle(NIGHTLY, run, words)


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    begin(ledger, "a", "b", "c")
    return ledger


def found(ledger: Ledger, *keys: str, run: str = "c") -> list[tuple[str, str | None, int]]:
    reasons = [Reason.ACCESS_DENIED]
    rows = ledger.find_predecessors(NIGHTLY, "archive", uids(*(f"in/{key}" for key in keys)), run, reasons)
    return rows.filter(pl.col("StudyInstanceUID").is_not_null() | (pl.col("tries") > 0)).drop("own").rows()


def test_a_key_without_earlier_arrivals_has_no_row(opened: Ledger) -> None:
    opened.claim(NIGHTLY, "c", content("1", 1))
    assert found(opened, "1", "2") == []


def test_the_latest_arrival_with_a_study_names_it(opened: Ledger) -> None:
    settle(opened, "a", content("1", 1), ("released", None), "1.old")
    settle(opened, "b", content("1", 2), ("quarantined", "truncated"), "1.new")
    settle(opened, "c", content("1", 3), ("quarantined", "empty_object"), None)
    assert found(opened, "1", run="d") == [("in/1", "1.new", 0)]
    assert found(opened, "1", run="b") == [("in/1", "1.old", 0)]


def test_earlier_arrivals_with_a_counted_reason_are_counted(opened: Ledger) -> None:
    settle(opened, "a", content("1", 1), ("quarantined", "access_denied"), None)
    settle(opened, "b", content("1", 2), ("quarantined", "access_denied"), "")
    assert found(opened, "1") == [("in/1", None, 2)]


def test_other_pipelines_say_nothing(opened: Ledger) -> None:
    begin(opened, "x", pipeline="other")
    opened.claim("other", "x", content("1", 1))
    assert found(opened, "1") == []


def test_the_study_that_the_run_itself_has_found_is_named_apart(opened: Ledger) -> None:
    settle(opened, "a", content("1", 1), ("quarantined", "access_denied"), "1.own")
    rows = opened.find_predecessors(NIGHTLY, "archive", uids("in/1"), "a", [Reason.ACCESS_DENIED])
    assert rows.rows() == [("in/1", None, "1.own", 0)]
