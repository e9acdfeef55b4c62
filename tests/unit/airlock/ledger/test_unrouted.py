from __future__ import annotations

import polars as pl
import pytest

from airlock.ledger import Ledger, LedgerError
from airlock.ledger.outbox import MESSAGES
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, begin

TO = f"s3://contracts/{STORE}/"


def messages(*rows: tuple[str, int]) -> pl.DataFrame:
    full = [(key, revision, f"{key}-{revision}", f"s3://workspace/{key}-{revision}.json") for key, revision in rows]
    return pl.DataFrame(full, schema=MESSAGES, orient="row")


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    begin(ledger, "a", "b")
    return ledger


def keep(ledger: Ledger, *rows: tuple[str, int], rules: str = "old", run: str = "a") -> None:
    ledger.record_unrouted(NIGHTLY, run, STORE, rules, messages(*rows))


def kept(ledger: Ledger, except_rules: str = "new", limit: int = 10) -> list[tuple[str, int]]:
    return ledger.unrouted(NIGHTLY, STORE, except_rules, limit).select("subject_key", "revision").rows()


def test_what_is_kept_is_found_once_per_subject_with_its_latest_revision(opened: Ledger) -> None:
    keep(opened, ("k1", 1), ("k1", 2), ("k2", 1))
    keep(opened, ("k1", 1), ("k2", 3), run="b")
    assert kept(opened) == [("k1", 2), ("k2", 3)]
    assert opened.count_unrouted(NIGHTLY) == 2
    assert opened.count_unrouted("weekly") == 0


def test_the_same_rules_are_not_asked_twice(opened: Ledger) -> None:
    keep(opened, ("k1", 1), ("k2", 1))
    opened.mark_unrouted(NIGHTLY, STORE, "new", messages(("k1", 1), ("k2", 9)))
    assert kept(opened) == [("k2", 1)], "another revision of k2 was looked at"
    assert kept(opened, "old") == [("k1", 1)]
    assert kept(opened, "newest", limit=1) == [("k1", 1)]
    assert opened.count_unrouted(NIGHTLY) == 2


def test_what_is_routed_with_this_revision_or_a_later_one_is_forgotten(opened: Ledger) -> None:
    keep(opened, ("k1", 1), ("k2", 2), ("k3", 3))
    opened.drop_unrouted(NIGHTLY, STORE, messages(("k1", 2), ("k2", 2), ("k3", 2)))
    assert kept(opened) == [("k3", 3)]


def test_an_older_revision_of_what_was_routed_is_not_kept(opened: Ledger) -> None:
    """A cleared task of an older run meets it again."""
    opened.enqueue(NIGHTLY, "b", TO, messages(("k1", 2)))
    keep(opened, ("k1", 1), ("k2", 1))
    assert kept(opened) == [("k2", 1)]
    keep(opened, ("k1", 3))
    assert kept(opened) == [("k1", 3), ("k2", 1)]


def test_a_run_that_was_never_opened_keeps_nothing(opened: Ledger) -> None:
    with pytest.raises(LedgerError):
        keep(opened, ("k1", 1), run="nobody")
    assert opened.count_unrouted(NIGHTLY) == 0
