"""The edge is told about each word on its arrivals, once the word is committed and until the message was sent."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger import Ledger, LedgerError
from airlock.ledger.owed import COME_AGAIN
from airlock.reasons import Reason
from airlock.records import study_key
from airlock.stages.redrive import IMPORT_AGAIN
from tests.unit.airlock.ledger.redriven import redrive, to_come
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    NO_SERIES,
    NO_STUDIES,
    STORE,
    arrivals,
    begin,
    dispositions,
    imports,
    verdicts,
)

if TYPE_CHECKING:
    from airlock.records import Disposition

QUEUE = "https://sqs.us-east-1.amazonaws.com/123456789012/edge"
OTHER = "weekly"
SAME = str(Reason.DUPLICATE_SAME_CONTENT)


@pytest.fixture
def told(ledger: Ledger) -> Ledger:
    ledger.note_edge(NIGHTLY, QUEUE)
    begin(ledger, "a")
    return ledger


def settle(ledger: Ledger, *names: str, word: str, reason: Reason | str | None = None, run: str = "a") -> None:
    """Let a run claim, validate and settle arrivals of one study."""
    pipeline = ledger.run(run).pipeline
    ledger.claim(pipeline, run, arrivals(*names))
    verdict = "duplicate" if word == "duplicate" else "accept"
    pairs = [(name, "1.study") for name in names]
    ledger.record_verdicts(STORE, pipeline, run, verdicts(*pairs, verdict=verdict))
    say(ledger, *names, word=word, reason=reason, run=run)


def say(ledger: Ledger, *names: str, word: str, reason: Reason | str | None = None, run: str = "a") -> None:
    words = dispositions(*names, word=word).with_columns(reason=pl.lit(reason and str(reason)))
    ledger.settle(ledger.run(run).pipeline, run, words)


def bring(ledger: Ledger, name: str, run: str = "a", state: str = "imported") -> None:
    ledger.record_imported(STORE, run, imports((name, f"1.{name}"), state=state), NO_STUDIES, NO_SERIES)


def untold(ledger: Ledger, limit: int = 100) -> list[tuple[str, str]]:
    found = ledger.untold(NIGHTLY, STORE, limit)
    return sorted((key.removeprefix("in/"), state) for key, state in found.select("key", "state").iter_rows())


def test_a_pipeline_without_an_edge_tells_nothing(ledger: Ledger) -> None:
    begin(ledger, "a")
    settle(ledger, "x", word="released")
    assert untold(ledger) == []
    assert ledger.count_untold(NIGHTLY).objects == 0


def test_a_released_file_is_told_as_released(told: Ledger) -> None:
    settle(told, "x", word="released")
    assert untold(told) == [("x", "released")]


@pytest.mark.parametrize("state", ["imported", "non_primary"])
def test_a_held_file_counts_as_imported_if_its_instance_is_in_the_data_store(told: Ledger, state: str) -> None:
    settle(told, "x", "y", word="held", reason=Reason.STUDY_INCOMPLETE)
    bring(told, "x", state=state)
    assert untold(told) == [("x", "imported"), ("y", "failed")]


@pytest.mark.parametrize("reason", IMPORT_AGAIN)
def test_a_held_file_whose_instance_is_in_doubt_has_failed(told: Ledger, reason: Reason) -> None:
    settle(told, "x", word="held", reason=reason)
    bring(told, "x")
    assert untold(told) == [("x", "failed")]


@pytest.mark.parametrize("word", ["quarantined", "failed", "ignored"])
def test_what_is_not_imported_has_failed_with_its_reason(told: Ledger, word: Disposition) -> None:
    settle(told, "x", word=word, reason=Reason.TRUNCATED)
    (row,) = told.untold(NIGHTLY, STORE, 9).rows(named=True)
    assert (row["state"], row["disposition"], row["reason"]) == ("failed", word, "truncated")


@pytest.mark.parametrize("reason", COME_AGAIN)
def test_what_a_later_run_takes_again_is_not_decided_yet(told: Ledger, reason: Reason) -> None:
    settle(told, "x", word="quarantined", reason=reason)
    assert untold(told) == [("x", "waiting")]


def test_a_copy_of_the_same_content_counts_as_the_one_that_was_imported(told: Ledger) -> None:
    settle(told, "x", word="held", reason=Reason.STUDY_INCOMPLETE)
    bring(told, "x")
    told.claim(NIGHTLY, "a", arrivals("copy", "other"))
    told.record_verdicts(STORE, NIGHTLY, "a", copies("copy", "other"))
    told.settle(NIGHTLY, "a", words_on_copies(copy=SAME, other="header_changed"))
    assert untold(told) == [("copy", "imported"), ("other", "failed"), ("x", "imported")]


def copies(*names: str) -> pl.DataFrame:
    """Return verdicts on copies of x's instance."""
    return verdicts(*((name, "1.study") for name in names), verdict="duplicate").with_columns(
        sop_instance_uid=pl.lit("1.x")
    )


def words_on_copies(**reasons: str) -> pl.DataFrame:
    words = dispositions(*reasons, word="duplicate").with_columns(sop_instance_uid=pl.lit("1.x"))
    return words.with_columns(reason=pl.Series(list(reasons.values())))


def test_a_copy_is_told_again_when_the_imported_one_is_released(told: Ledger) -> None:
    settle(told, "x", word="held", reason=Reason.STUDY_INCOMPLETE)
    bring(told, "x")
    told.claim(NIGHTLY, "a", arrivals("copy"))
    told.record_verdicts(STORE, NIGHTLY, "a", copies("copy"))
    told.settle(NIGHTLY, "a", words_on_copies(copy=SAME))
    before = told.untold(NIGHTLY, STORE, 9)
    told.mark_told(before["id"])
    say(told, "x", word="released")
    after = told.untold(NIGHTLY, STORE, 9)
    assert untold(told) == [("copy", "released"), ("x", "released")]
    assert order(after, "copy") > order(before, "copy")


def order(found: pl.DataFrame, name: str) -> list[int]:
    row = found.filter(pl.col("key") == f"in/{name}").row(-1, named=True)
    numbers = (row[key] for key in ("generation", "number", "copy_generation", "copy_number"))
    return [number for number in numbers if number is not None]


def test_a_file_is_told_again_when_another_pipeline_releases_its_study(told: Ledger) -> None:
    settle(told, "x", word="held", reason=Reason.STUDY_INCOMPLETE)
    bring(told, "x")
    told.mark_told(told.untold(NIGHTLY, STORE, 9)["id"])
    begin(told, "b", pipeline=OTHER)
    with told.at_once() as ledger:
        ledger.settle_siblings(STORE, "b", pl.Series([study_key("1.study")]))
    assert untold(told) == [("x", "released")]


def test_a_repeated_word_is_not_told_again(told: Ledger) -> None:
    settle(told, "x", word="released")
    told.mark_told(told.untold(NIGHTLY, STORE, 9)["id"])
    say(told, "x", word="released")
    assert untold(told) == []


def test_a_redriven_file_is_told_by_its_new_generation(told: Ledger) -> None:
    settle(told, "x", word="quarantined", reason=Reason.TRUNCATED)
    told.close_run("a", "audited", {})
    before = told.untold(NIGHTLY, STORE, 9)
    redrive(told, "b", to_come("x", etag="cured"))
    arrival = told.held_by(NIGHTLY, "b")["arrival_id"][0]
    words = dispositions("x", word="released").with_columns(arrival_id=pl.lit(arrival))
    told.settle(NIGHTLY, "b", words)
    after = told.untold(NIGHTLY, STORE, 9)
    assert after["state"].to_list() == ["failed", "released"]
    assert (order(before, "x"), order(after, "x")) == ([1, 1], [2, 1])


def test_a_word_that_comes_while_the_one_before_is_sent_stays_untold(told: Ledger) -> None:
    """Even where the table was empty in between: an id never comes again."""
    settle(told, "x", word="held", reason=Reason.STUDY_INCOMPLETE)
    bring(told, "x")
    sending = told.untold(NIGHTLY, STORE, 9)
    told.mark_told(sending["id"])  # another run's route was faster
    say(told, "x", word="released")
    assert told.mark_told(sending["id"]) == 0
    assert untold(told) == [("x", "released")]


def test_words_are_read_in_their_order_and_counted(told: Ledger) -> None:
    settle(told, "x", "y", word="released")
    assert told.count_untold(NIGHTLY).objects == 2
    assert told.count_untold(NIGHTLY).since is not None
    assert len(untold(told, limit=1)) == 1


def test_everything_settled_can_be_told_again(told: Ledger) -> None:
    settle(told, "x", word="released")
    begin(told, "b")
    settle(told, "y", word="released", run="b")
    told.claim(NIGHTLY, "b", arrivals("unsettled"))
    told.mark_told(told.untold(NIGHTLY, STORE, 9)["id"])
    assert told.tell_again(NIGHTLY, "b") == 1
    assert untold(told) == [("y", "released")]
    assert told.tell_again(NIGHTLY) == 2
    with pytest.raises(LedgerError, match="no run"):
        told.tell_again(NIGHTLY, "none")


def test_a_pipeline_that_has_lost_its_edge_tells_nothing_any_more(told: Ledger) -> None:
    settle(told, "x", word="released")
    told.note_edge(NIGHTLY, "https://sqs.us-east-1.amazonaws.com/123456789012/other")
    assert told.find_edge(NIGHTLY) == "https://sqs.us-east-1.amazonaws.com/123456789012/other"
    told.note_edge(NIGHTLY, None)
    assert (told.find_edge(NIGHTLY), untold(told)) == (None, [])
