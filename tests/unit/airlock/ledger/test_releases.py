from __future__ import annotations

import polars as pl
import pytest

from airlock.ledger import Ledger, LedgerError
from airlock.ledger.outbox import MESSAGES
from airlock.ledger.releases import MATCHED
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, begin

TO = f"s3://contracts/{STORE}/"


def messages(*rows: tuple[str, int]) -> pl.DataFrame:
    full = [(key, revision, f"{key}-{revision}", f"s3://workspace/{key}-{revision}.json") for key, revision in rows]
    return pl.DataFrame(full, schema=MESSAGES, orient="row")


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    begin(ledger, "a", "b")
    return ledger


def release(ledger: Ledger, *rows: tuple[str, int], run: str = "a") -> int:
    return ledger.record_releases(NIGHTLY, run, STORE, messages(*rows))


def unmatched(ledger: Ledger, rules: str = "new", limit: int = 10) -> list[tuple[str, int]]:
    return ledger.open_releases(NIGHTLY, STORE, rules, limit).select("subject_key", "revision").rows()


def match(ledger: Ledger, *rows: tuple[str, int, int], rules: str = "old") -> None:
    """Record how many routes take a revision of a subject."""
    ledger.mark_matched(NIGHTLY, STORE, rules, pl.DataFrame(rows, schema=MATCHED, orient="row"))


def test_a_release_is_open_with_its_latest_revision_and_the_run_that_brought_it(opened: Ledger) -> None:
    assert release(opened, ("k1", 1), ("k1", 2), ("k2", 1)) == 2
    assert release(opened, ("k1", 1), ("k2", 3), run="b") == 1
    found = opened.open_releases(NIGHTLY, STORE, "any", 10)
    assert found.select("subject_key", "revision", "run_key").rows() == [("k1", 2, "a"), ("k2", 3, "b")]
    assert opened.open_releases("weekly", STORE, "any", 10).is_empty()
    assert opened.open_releases(NIGHTLY, "elsewhere", "any", 10).is_empty()


def test_what_a_route_has_taken_is_closed_for_good(opened: Ledger) -> None:
    """A cleared audit of the same run, or of an older one, releases it again."""
    release(opened, ("k1", 2))
    match(opened, ("k1", 2, 1))
    assert release(opened, ("k1", 2), ("k1", 1)) == 0
    assert release(opened, ("k1", 1), run="b") == 0
    assert unmatched(opened) == []
    assert opened.count_unrouted(NIGHTLY) == 0


def test_what_no_route_takes_is_matched_with_other_rules_only(opened: Ledger) -> None:
    release(opened, ("k1", 1), ("k2", 1))
    assert opened.count_unrouted(NIGHTLY) == 0, "nobody has looked at it yet"
    match(opened, ("k1", 1, 0), ("k2", 1, 2))
    assert unmatched(opened, "old") == []
    assert unmatched(opened, "new") == [("k1", 1)]
    assert (opened.count_unrouted(NIGHTLY), opened.count_unrouted("weekly")) == (1, 0)


def test_a_later_revision_is_open_whatever_became_of_the_earlier_one(opened: Ledger) -> None:
    release(opened, ("k1", 1), ("k2", 1))
    match(opened, ("k1", 1, 1), ("k2", 1, 0))
    release(opened, ("k1", 2), ("k2", 2), run="b")
    assert unmatched(opened, "old") == [("k1", 2), ("k2", 2)]


def test_a_revision_that_comes_while_the_earlier_one_is_matched_stays_open(opened: Ledger) -> None:
    release(opened, ("k1", 1))
    release(opened, ("k1", 2), run="b")
    match(opened, ("k1", 1, 1))
    assert unmatched(opened, "old") == [("k1", 2)]


def test_the_limit_takes_the_first(opened: Ledger) -> None:
    release(opened, ("k2", 1), ("k1", 1))
    assert unmatched(opened, limit=1) == [("k1", 1)]


def test_releases_are_matched_again_on_demand(opened: Ledger) -> None:
    release(opened, ("k1", 1))
    release(opened, ("k2", 1), run="b")
    match(opened, ("k1", 1, 1), ("k2", 1, 1))
    assert opened.match_again(NIGHTLY, "b") == 1
    assert unmatched(opened, "old") == [("k2", 1)]
    assert opened.match_again(NIGHTLY) == 2
    assert unmatched(opened, "old") == [("k1", 1), ("k2", 1)]
    with pytest.raises(LedgerError, match="did you mean nightly"):
        opened.match_again("nigthly")
    with pytest.raises(LedgerError, match="has no run 'c'"):
        opened.match_again(NIGHTLY, "c")


def test_a_run_that_was_never_opened_releases_nothing(opened: Ledger) -> None:
    with pytest.raises(LedgerError, match="has no run 'nobody'"):
        release(opened, ("k1", 1), run="nobody")
    assert unmatched(opened) == []


def test_a_payload_is_left_over_if_neither_a_release_nor_a_message_names_it(opened: Ledger) -> None:
    release(opened, ("k1", 1), ("k2", 1))
    opened.enqueue(NIGHTLY, "a", TO, messages(("k1", 1)))
    release(opened, ("k1", 2), ("k2", 2), run="b")
    payloads = messages(("k1", 1), ("k1", 2), ("k2", 1), ("k3", 1)).drop("content_digest")
    left = opened.unreleased_payloads(NIGHTLY, STORE, payloads)
    assert sorted(left.select("subject_key", "revision").rows()) == [("k2", 1), ("k3", 1)]


def test_a_run_is_known_by_its_latest_releases(opened: Ledger) -> None:
    assert not opened.has_released(NIGHTLY, "a")
    release(opened, ("k1", 1))
    assert opened.has_released(NIGHTLY, "a")
