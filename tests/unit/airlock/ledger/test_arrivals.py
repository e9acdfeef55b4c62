from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest
from sqlalchemy import create_engine, text

from airlock.ledger import Claim, Ledger, LedgerError, frames
from airlock.records import ARRIVALS, DISPOSITIONS, study_key
from tests.ledger_rows import count_arrivals, read_dispositions
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    STORE,
    arrivals,
    begin,
    claims,
    dispositions,
    held_after,
    id_of,
    ids,
    ids_of,
    uids,
)

if TYPE_CHECKING:
    from collections.abc import Iterator


def test_a_run_gets_every_arrival_that_nobody_has(ledger: Ledger) -> None:
    begin(ledger, "a")
    claim = ledger.claim(NIGHTLY, "a", arrivals("1", "2"))
    held = ledger.held_by(NIGHTLY, "a")
    assert held.equals(arrivals("1", "2"))
    assert held.schema == ARRIVALS
    assert (claim.settled, claim.claimed_elsewhere) == (0, 0)


def test_an_empty_listing_is_no_trouble(ledger: Ledger) -> None:
    begin(ledger, "a")
    assert held_after(ledger, "a", arrivals()).is_empty()


def test_an_arrival_twice_in_a_listing_counts_once(ledger: Ledger) -> None:
    begin(ledger, "a")
    assert held_after(ledger, "a", arrivals("1", "1")).height == 1


def test_what_others_have_is_counted_and_left_to_them(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2", "3"))
    ledger.settle(NIGHTLY, "a", dispositions("1"))
    claim = ledger.claim(NIGHTLY, "b", arrivals("1", "2", "3", "4"))
    assert ids(ledger.held_by(NIGHTLY, "b")) == ids_of("4")
    assert (claim.settled, claim.claimed_elsewhere) == (1, 2)


def test_a_cleared_buffer_gets_the_same_delivery_though_settled_and_no_longer_listed(ledger: Ledger) -> None:
    begin(ledger, "a")
    first = held_after(ledger, "a", arrivals("1", "2"))
    ledger.settle(NIGHTLY, "a", dispositions("1"))
    again = ledger.claim(NIGHTLY, "a", arrivals("2"))
    assert (again.settled, again.claimed_elsewhere) == (0, 0)
    assert ledger.held_by(NIGHTLY, "a").equals(first)


def unclaimed(ledger: Ledger, listing: pl.DataFrame) -> tuple[pl.DataFrame, tuple[int, int, int, int]]:
    """Return what a plan sees, and its counts: settled, held elsewhere, arrivals, bytes."""
    with ledger.find_unclaimed(NIGHTLY, listing) as free:
        rows = pl.concat([ARRIVALS.to_frame(), *free.frames])
        return rows, (free.settled, free.claimed_elsewhere, free.arrivals, free.bytes)


def test_a_plan_sees_what_a_claim_would_get_and_takes_nothing(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2", "3"))
    ledger.settle(NIGHTLY, "a", dispositions("1"))
    listing = arrivals("5", "1", "4", "2", "3", "4")
    for _ in range(2):
        rows, counts = unclaimed(ledger, listing)
        assert rows.equals(arrivals("4", "5"))
        assert counts == (1, 2, 2, 200)
    begin(ledger, "b")
    assert held_after(ledger, "b", listing).equals(rows)


def test_a_plan_sees_again_what_an_earlier_run_could_not_get_at(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    words = dispositions("1", word="quarantined").with_columns(reason=pl.lit("access_denied"))
    ledger.settle(NIGHTLY, "a", words)
    rows, counts = unclaimed(ledger, arrivals("1"))
    assert counts == (0, 0, 1, 100)
    assert held_after(ledger, "b", arrivals("1")).equals(rows)


def test_pipelines_do_not_take_from_each_other(ledger: Ledger) -> None:
    begin(ledger, "a")
    begin(ledger, "other", pipeline="weekly")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    assert ids(held_after(ledger, "other", arrivals("1"), "weekly")) == ids_of("1")


def test_a_claim_needs_an_open_run_of_the_pipeline(ledger: Ledger) -> None:
    with pytest.raises(LedgerError, match="has no run 'a': give the run's key"):
        ledger.claim(NIGHTLY, "a", arrivals("1"))
    begin(ledger, "a")
    with pytest.raises(LedgerError, match="is of pipeline 'nightly', not 'weekly'"):
        ledger.claim("weekly", "a", arrivals("1"))


def test_a_listing_without_a_column_is_refused_by_name(ledger: Ledger) -> None:
    begin(ledger, "a")
    with pytest.raises(LedgerError, match="lacks the columns etag"):
        ledger.claim(NIGHTLY, "a", arrivals("1").drop("etag"))


@pytest.mark.parametrize(
    "name", ["a b+c/é 日本", "tab\tnew\nline\r", r"\N", r"\.", "back\\slash", "", "'; drop", '"q"']
)
def test_any_name_of_an_object_comes_back_as_it_was(ledger: Ledger, name: str) -> None:
    begin(ledger, "a")
    listing = arrivals("1").with_columns(key=pl.lit(name), version_id=pl.lit("null"), etag=pl.lit(""))
    assert held_after(ledger, "a", listing).equals(listing)


def test_a_nul_in_a_text_costs_nothing_but_itself(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    ledger.settle(NIGHTLY, "a", dispositions("1").with_columns(detail=pl.lit("a\x00b")))
    assert read_dispositions(ledger, NIGHTLY, "a")["detail"].to_list() == ["a\ufffdb"]


def test_a_large_delivery_goes_in_chunks(ledger: Ledger) -> None:
    begin(ledger, "a")
    many = pl.select(n=pl.int_range(25_000).cast(pl.String)).select(
        arrival_id="n",
        bucket=pl.lit("archive"),
        key="in/" + pl.col("n"),
        version_id=pl.lit(None, pl.String),
        etag="n",
        size=pl.lit(1, pl.Int64),
        last_modified=pl.lit(arrivals("1")["last_modified"][0], ARRIVALS["last_modified"]),
    )
    assert held_after(ledger, "a", many).height == 25_000


def test_frame_by_frame_is_as_all_at_once(ledger: Ledger) -> None:
    begin(ledger, "a", "b", "c")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2", "3"))
    ledger.settle(NIGHTLY, "a", dispositions("1"))
    pieces = [arrivals("1", "4"), arrivals("2", "5"), arrivals(), arrivals("4", "3", "6")]
    claim = ledger.claim(NIGHTLY, "b", iter(pieces))
    assert (claim.settled, claim.claimed_elsewhere) == (1, 2)
    assert ledger.held_by(NIGHTLY, "b").equals(arrivals("4", "5", "6"))
    assert ledger.held_total(NIGHTLY, "b") == (3, 300)
    assert ledger.claim(NIGHTLY, "c", iter([])) == Claim(0, 0)
    assert ledger.held_total(NIGHTLY, "c") == (0, 0)
    assert list(ledger.held_frames(NIGHTLY, "c")) == []


def test_new_objects_are_found_in_any_frame_and_repeats_count_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(frames, "CHUNK", 2)
    monkeypatch.setattr(frames, "COPY_BYTES", 30)  # the ids of new objects come in pieces too
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2"))
    listing = [
        arrivals("3", "1", "4"),
        arrivals("2"),
        arrivals(),
        arrivals("5", "2", "6", "7", "8"),
        arrivals("1", "9"),
    ]
    assert ledger.claim(NIGHTLY, "b", listing) == Claim(settled=0, claimed_elsewhere=2)
    assert ledger.held_by(NIGHTLY, "b").equals(arrivals(*"3456789"))


def test_no_transaction_waits_for_who_takes_what_is_held(postgres_ledger: str) -> None:
    """A server may end one that is idle; the shards that are written meanwhile take longer than it allows."""
    ledger = Ledger.open(postgres_ledger)
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2"))
    held = ledger.held_frames(NIGHTLY, "a")
    assert next(held).height == 2
    idle = text("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in t%' AND datname = current_database()")
    engine = create_engine(postgres_ledger)
    with engine.connect() as connection:
        assert connection.execute(idle).scalar_one() == 0
    engine.dispose()


def test_what_could_not_be_got_at_comes_again_and_again(ledger: Ledger) -> None:
    begin(ledger, "a", "b", "c")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2", "3"))
    gone = dispositions("1", "3").with_columns(reason=pl.lit("object_gone"))
    ledger.settle(NIGHTLY, "a", pl.concat([gone, dispositions("2")]))
    assert ledger.claim(NIGHTLY, "b", iter([arrivals("1"), arrivals("2", "3")])) == Claim(
        settled=1, claimed_elsewhere=0
    )
    held = ledger.held_by(NIGHTLY, "b")
    assert held["key"].to_list() == ["in/1", "in/3"]
    assert ids(held).isdisjoint(ids_of("13"))
    again = gone.with_columns(arrival_id=held["arrival_id"])
    ledger.settle(NIGHTLY, "b", again)
    assert held_after(ledger, "c", arrivals("1", "3")).height == 2
    assert held_after(ledger, "b", arrivals("1", "3")).equals(held)


def test_a_listing_that_breaks_off_claims_nothing(ledger: Ledger) -> None:
    def listing() -> Iterator[pl.DataFrame]:
        yield arrivals("1")
        raise ConnectionError("S3 is gone")

    begin(ledger, "a")
    with pytest.raises(ConnectionError):
        ledger.claim(NIGHTLY, "a", listing())
    assert ledger.held_total(NIGHTLY, "a") == (0, 0)


def test_what_a_run_holds_comes_in_the_order_of_its_bytes(ledger: Ledger) -> None:
    begin(ledger, "a")
    names = ["a/b", "a-b", "A", "a", "é", "z", "Z", "_", "a b", "~", "日本", "\U0001f600"]
    assert held_after(ledger, "a", arrivals(*names))["key"].to_list() == [f"in/{name}" for name in sorted(names)]


def test_the_final_word_is_kept_with_all_that_belongs_to_it(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2"))
    words = dispositions("1")
    ledger.settle(NIGHTLY, "a", words)
    assert read_dispositions(ledger, NIGHTLY, "a").equals(words)
    assert read_dispositions(ledger, NIGHTLY, "a").schema == DISPOSITIONS
    assert count_arrivals(ledger, NIGHTLY) == {"released": 1, "claimed": 1}


def test_words_that_come_frame_by_frame_are_kept_all_or_none(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2"))
    with pytest.raises(LedgerError, match="does not hold 1 of these arrivals"):
        ledger.settle(NIGHTLY, "a", iter([dispositions("1"), dispositions("unseen")]))
    assert count_arrivals(ledger, NIGHTLY) == {"claimed": 2}
    ledger.settle(NIGHTLY, "a", iter([dispositions("1"), dispositions("2", word="held")]))
    assert count_arrivals(ledger, NIGHTLY) == {"released": 1, "held": 1}
    found = pl.concat(ledger.held_ids(NIGHTLY, "a"))
    assert sorted(found["arrival_id"]) == sorted(arrivals("1", "2")["arrival_id"])
    assert list(ledger.held_ids(NIGHTLY, "b")) == []


def test_settling_again_is_harmless_and_a_cleared_audit_may_decide_otherwise_but_not_unsay_a_release(
    ledger: Ledger,
) -> None:
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2", "3"))
    ledger.settle(NIGHTLY, "a", dispositions("1", "2", "3", word="failed"))
    ledger.settle(NIGHTLY, "a", dispositions("1", "2"))
    ledger.settle(NIGHTLY, "a", dispositions("1", "2"))
    ledger.settle(NIGHTLY, "a", dispositions("2", "3", word="held"))
    assert count_arrivals(ledger, NIGHTLY) == {"released": 2, "held": 1}


def test_settling_an_arrival_of_another_run_is_refused_as_a_whole(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    ledger.claim(NIGHTLY, "b", arrivals("2"))
    with pytest.raises(LedgerError, match="run 'b' does not hold 2 of these arrivals") as refusal:
        ledger.settle(NIGHTLY, "b", dispositions("1", "2", "unseen"))
    assert "in/" not in str(refusal.value)
    with pytest.raises(LedgerError, match="run 'b' does not hold 1 of these arrivals"):
        ledger.settle(NIGHTLY, "b", dispositions("1", "2"))
    assert count_arrivals(ledger, NIGHTLY) == {"claimed": 2}


def test_an_arrival_gets_exactly_one_known_word(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    with pytest.raises(LedgerError, match="1 arrivals have more than one disposition"):
        ledger.settle(NIGHTLY, "a", pl.concat([dispositions("1"), dispositions("1", word="held")]))
    with pytest.raises(LedgerError, match="1 arrivals have more than one disposition"):
        ledger.settle(NIGHTLY, "a", iter([dispositions("1"), dispositions("1", word="held")]))
    with pytest.raises(LedgerError, match="1 arrivals have no known disposition: use one of released, held"):
        ledger.settle(NIGHTLY, "a", dispositions("1", word="lost"))


def test_a_study_is_found_by_its_uid_and_by_its_key_even_if_the_uid_is_absurd(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2", "3"))
    absurd = "".join(str(number) for number in range(5_000))  # longer than PostgreSQL could index
    words = [dispositions("1", study_uid=absurd), dispositions("2"), dispositions("3", study_uid=None)]
    ledger.settle(NIGHTLY, "a", pl.concat(words))
    assert ids(ledger.where(absurd).arrivals) == ids_of("1")
    assert ids(ledger.where(study_key("1.study")).arrivals) == ids_of("2")
    assert ledger.where("1.unknown").arrivals.is_empty()


def test_released_claims_are_free_for_a_later_run(ledger: Ledger) -> None:
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2"))
    ledger.claim_instances(STORE, NIGHTLY, "a", claims(("2", "1.2")))
    ledger.settle(NIGHTLY, "a", dispositions("1"))
    assert ledger.release_claims(NIGHTLY, "a") == 1
    assert ids(held_after(ledger, "b", arrivals("1", "2"))) == ids_of("2")
    assert ledger.known_instances(STORE, uids("1.2")).is_empty()


def test_the_holder_of_an_arrival_is_named_in_its_row(ledger: Ledger) -> None:
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    ledger.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    owner = ledger.known_instances(STORE, uids("1.1")).row(0, named=True)
    assert (owner["arrival_id"], owner["run_key"], owner["key"]) == (id_of("1"), "a", "in/1")
