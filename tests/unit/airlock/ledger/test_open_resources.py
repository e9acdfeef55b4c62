"""Resources whose last attempt did not end in a release: by patient, across runs, with their clocks."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger.open_resources import FOUND_OPEN, OPEN, STOPPED_CONTENTS
from airlock.ledger.resources import CLAIMS, CONTENTS, IMPORTS
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, id_of

if TYPE_CHECKING:
    from airlock.ledger import Ledger

P1 = "Patient/p1"
FILES = {"a": "1", "b": "2"}
RESOURCE = pl.DataFrame({"resource_type": ["Observation"], "resource_id": ["o1"]})


@pytest.fixture
def two_runs(ledger: Ledger) -> Ledger:
    """Run a holds the file 1, the later run b the file 2."""
    for run, file in FILES.items():
        begin(ledger, run)
        ledger.claim(NIGHTLY, run, arrivals(file))
    return ledger


def claim(ledger: Ledger, run: str, clock: str, digest: str) -> None:
    row = (id_of(FILES[run]), "Observation", "o1", digest, clock, P1)
    assert ledger.claim_resources(STORE, NIGHTLY, run, pl.DataFrame([row], schema=CLAIMS, orient="row")).is_empty()


def bring(ledger: Ledger, run: str, clock: str = "place=a last_modified=1", digest: str = "d1") -> None:
    claim(ledger, run, clock, digest)
    record(ledger, run, digest)


def record(ledger: Ledger, run: str, digest: str, outdated: pl.DataFrame | None = None) -> None:
    row = (id_of(FILES[run]), "Observation", "o1", digest, "batch")
    ledger.record_imported_resources(STORE, run, pl.DataFrame([row], schema=IMPORTS, orient="row"))
    ledger.close_open(STORE, run, () if outdated is None else [outdated])


def note(ledger: Ledger, run: str, state: str | None, digest: str = "d1", clock: str | None = None) -> None:
    rows = [("Observation", "o1", P1, state, "why", digest, id_of(FILES[run]), clock)] if state else []
    ledger.note_open(STORE, run, [pl.DataFrame(rows, schema=OPEN, orient="row")])


def states(ledger: Ledger, except_run: str | None = None) -> list[tuple[str, str]]:
    found = ledger.open_of_patients(STORE, pl.Series([P1]), except_run)
    assert found.schema == FOUND_OPEN
    return found.select("state", "run_key").rows()


def contents(ledger: Ledger) -> list[tuple[str, str]]:
    found = ledger.contents_of(STORE, RESOURCE)
    assert found.schema == CONTENTS
    return found.select("known_digest", "known_clock").rows()


def test_a_note_is_seen_by_other_runs_until_its_run_says_otherwise(two_runs: Ledger) -> None:
    note(two_runs, "a", "doubtful")
    assert states(two_runs) == states(two_runs, "b") == [("doubtful", "a")]
    assert states(two_runs, "a") == []
    note(two_runs, "a", None)
    assert states(two_runs) == []


def test_it_ends_when_any_run_brings_the_resource(two_runs: Ledger) -> None:
    note(two_runs, "a", "stopped")
    bring(two_runs, "b")
    assert states(two_runs) == []


def test_one_of_newer_content_stays_with_its_clock(two_runs: Ledger) -> None:
    note(two_runs, "a", "stopped", "d9", "last_modified=9")
    claim(two_runs, "b", "last_modified=1", "d1")
    rows = two_runs.stopped_contents(STORE, "b", RESOURCE)
    assert rows.schema == STOPPED_CONTENTS
    contents_of_both = ("Observation", "o1", "d9", "last_modified=9", "d1", "last_modified=1")
    assert [row[:6] for row in rows.rows()] == [contents_of_both]
    record(two_runs, "b", "d1", outdated=RESOURCE)
    assert states(two_runs) == [("stopped", "a")]
    assert two_runs.stopped_contents(STORE, "b", RESOURCE).equals(rows)
    two_runs.close_open(STORE, "b")
    assert states(two_runs) == []


def test_but_none_of_another_state(two_runs: Ledger) -> None:
    note(two_runs, "a", "refused")
    claim(two_runs, "b", "last_modified=1", "d1")
    assert two_runs.stopped_contents(STORE, "b", RESOURCE).is_empty()
    record(two_runs, "b", "d1", outdated=RESOURCE)
    assert states(two_runs) == []


def test_a_frame_of_an_old_journal_has_no_clock(two_runs: Ledger) -> None:
    row = ("Observation", "o1", P1, "stopped", "why", "d1", id_of("1"))
    rows = pl.DataFrame([row], schema=[name for name in OPEN if name != "clock"], orient="row")
    two_runs.note_open(STORE, "a", [rows])
    bring(two_runs, "b")
    assert states(two_runs) == []


def test_the_clock_of_a_stopped_content_is_not_that_of_a_content_in_the_store(two_runs: Ledger) -> None:
    note(two_runs, "a", "stopped", "d9", "last_modified=9")
    note(two_runs, "b", "doubtful", "d1")
    assert contents(two_runs) == [("d1", None)]


@pytest.mark.parametrize(("digest", "left"), [("d1", []), ("d2", [("stopped", "b")])])
def test_nothing_is_missing_if_an_earlier_run_has_brought_the_content(
    two_runs: Ledger, digest: str, left: list[tuple[str, str]]
) -> None:
    bring(two_runs, "a")
    note(two_runs, "b", "stopped", digest)
    assert states(two_runs) == left


def test_the_word_of_the_later_run_stands(two_runs: Ledger) -> None:
    note(two_runs, "a", "stopped")
    note(two_runs, "b", "refused")
    note(two_runs, "a", "stopped")
    assert states(two_runs) == [("refused", "b")]


def test_an_older_run_notes_nothing_that_a_later_one_has_brought(two_runs: Ledger) -> None:
    bring(two_runs, "b")
    note(two_runs, "a", "stopped")
    assert states(two_runs) == []


def test_but_a_stopped_content_with_a_clock_unless_it_is_the_same(two_runs: Ledger) -> None:
    bring(two_runs, "b", digest="d1")
    note(two_runs, "a", "stopped", "d1", "last_modified=9")
    assert states(two_runs) == []
    note(two_runs, "a", "stopped", "d9", "last_modified=9")
    assert states(two_runs) == [("stopped", "a")]


def test_a_content_in_doubt_keeps_its_clock(two_runs: Ledger) -> None:
    claim(two_runs, "a", "place=a last_modified=7", "d7")
    note(two_runs, "a", "doubtful", "d7")
    two_runs.forget_resources(STORE, "a", RESOURCE)
    assert contents(two_runs) == [("d7", "place=a last_modified=7")]
    note(two_runs, "a", "doubtful", "d7")
    assert contents(two_runs) == [("d7", "place=a last_modified=7")]


def test_an_older_run_audited_again_records_nothing_that_a_later_one_doubts(two_runs: Ledger) -> None:
    bring(two_runs, "a")
    claim(two_runs, "b", "place=a last_modified=7", "d7")
    note(two_runs, "b", "doubtful", "d7")
    two_runs.forget_resources(STORE, "b", RESOURCE)
    record(two_runs, "a", "d1")
    assert contents(two_runs) == [("d7", "place=a last_modified=7")]
    assert states(two_runs) == [("doubtful", "b")]


def test_resources_released_from_a_run_with_jobs_are_in_doubt(two_runs: Ledger) -> None:
    from airlock.ledger import Job

    claim(two_runs, "a", "place=a last_modified=7", "d7")
    two_runs.record_job(Job("b1", 0, "a", "token", job_id="j", status="COMPLETED"))
    assert two_runs.release_resources(NIGHTLY, "a", jobs_ended=True) == 1
    assert contents(two_runs) == [("d7", "place=a last_modified=7")]


class TestClaims:
    def judge(self, contested: pl.DataFrame) -> pl.DataFrame:
        older = contested.filter(pl.col("clock") < pl.col("known_clock"))
        return older.with_columns(reason=pl.lit("newer_content"), detail=pl.lit(None, pl.String))

    def test_the_order_is_asked_in_the_transaction_that_claims(self, two_runs: Ledger) -> None:
        bring(two_runs, "b", "place=a last_modified=7", "d7")
        rows = [(id_of("1"), "Observation", name, "d1", "place=a last_modified=1", P1) for name in ("o1", "o2")]
        claims = pl.DataFrame(rows, schema=CLAIMS, orient="row")
        refused = two_runs.claim_resources(STORE, NIGHTLY, "a", claims, self.judge)
        assert refused.select("resource_id", "claimed_by", "reason").rows() == [("o1", None, "newer_content")]
        taken = two_runs.claimed_resources(STORE, claims)
        assert taken.select("resource_id", "claimed_by").rows() == [("o2", "a")]

    def test_a_content_that_comes_again_later_counts_as_of_then(self, two_runs: Ledger) -> None:
        bring(two_runs, "a", "place=a last_modified=1")
        row = {"resource_type": ["Observation"], "resource_id": ["o1"], "content_digest": ["d1"]}
        again = pl.DataFrame(row | {"clock": ["place=a last_modified=5"], "known_clock": ["place=a last_modified=1"]})
        assert two_runs.confirm_contents(STORE, again) == 1
        assert contents(two_runs) == [("d1", "place=a last_modified=5")]
        assert two_runs.confirm_contents(STORE, again) == 0
        assert two_runs.confirm_contents(STORE, again.with_columns(content_digest=pl.lit("d9"))) == 0
