"""A ledger with a journal keeps its changes; repeated on an empty ledger, they make the same ledger."""

from __future__ import annotations

import ast
import io
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from airlock.ledger import BrakeAnswer, Job, Ledger, LedgerError, StoreOrigin
from airlock.ledger.columns import FindingKind
from airlock.ledger.comparisons import FOUND
from airlock.ledger.journal import Entry
from airlock.ledger.replay import BrokenEntryError, read_entry, repeat_calls
from airlock.ledger.reviews import ASKED, CHOSEN, ReviewAnswer
from airlock.records import HOLDS, Window
from tests.rebuilt_ledger import differences, read_tables
from tests.servers.ledger import new_ledger
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    NO_SERIES,
    NO_STUDIES,
    STORE,
    arrivals,
    claims,
    dispositions,
    id_of,
    imports,
    uids,
    verdicts,
)
from tests.unit.airlock.ledger.test_reconciled import KEY, miss, reconciliation

ROOT = Path(__file__).parents[4]
WINDOW = Window(datetime(2026, 11, 23, 2, tzinfo=UTC), datetime(2026, 11, 24, 2, tzinfo=UTC))


@dataclass
class Shelf:
    """A journal in memory."""

    entries: list[tuple[datetime | None, bytes]] = field(default_factory=list)
    broken: bool = False
    withdrawn: int = 0

    def write(self, entry: Entry) -> None:
        if self.broken:
            raise OSError("the workspace is closed")
        entry.kept_as = f"{len(self.entries):04}"
        file = entry.finish()
        file.seek(0)
        self.entries.append((entry.at, file.read()))

    def withdraw(self, entry: Entry) -> None:
        assert entry.kept_as
        self.withdrawn += 1


@pytest.fixture
def shelf() -> Shelf:
    return Shelf()


@pytest.fixture
def kept(ledger: Ledger, shelf: Shelf) -> Ledger:
    """The ledger with a journal."""
    return ledger.journaled_in(shelf)


def rebuilt(shelf: Shelf, folder: Path) -> str:
    """Return the address of a new ledger in which the kept calls were repeated."""
    url = new_ledger(folder / "rebuilt.db")
    with Ledger.open(url) as ledger:
        ledger.begin_rebuild({}, "an operator")
        for number, (_, body) in enumerate(shelf.entries):
            repeat_calls(ledger, f"{number:04}", read_entry(io.BytesIO(body)))
        ledger.end_rebuild({})
    return url


def play(ledger: Ledger) -> None:
    """Bring two files in, of which one is released."""
    ledger.open_run("r1", NIGHTLY, "scheduled__1", WINDOW)
    ledger.note_marker("r1", "marker", WINDOW.end)
    ledger.claim(NIGHTLY, "r1", (arrivals(name) for name in "ab"), WINDOW.end)
    with ledger.at_once("arrivals of nightly", "instances") as inner:
        inner.claim_instances(STORE, NIGHTLY, "r1", claims(("a", "1.a"), ("b", "1.b")))
        inner.record_verdicts(STORE, NIGHTLY, "r1", iter([verdicts(("a", "1.study"), ("b", "1.study"))]))
    job = Job("batch", 0, "r1", "token")
    ledger.record_job(job, STORE)
    ledger.record_imported(STORE, "r1", imports(("a", "1.a")), NO_STUDIES, NO_SERIES)
    ledger.settle(NIGHTLY, "r1", dispositions("a"))
    ledger.settle(NIGHTLY, "r1", dispositions("b", word="held"))
    ledger.drop_instances(STORE, "r1", pl.Series(["1.b"]))
    holds = pl.DataFrame([("1.study", "key", "study_held", ["unaccounted"], "seen")], HOLDS, orient="row")
    ledger.override_findings(STORE, "r1", holds, person="Dr. A", why="I have seen it", at=WINDOW.end)
    answer = BrakeAnswer("import", True, "unread", 0.1, "Dr. A", "go on", WINDOW.end, {"share": 0.1})
    ledger.answer_brake(NIGHTLY, "r1", answer)
    ledger.close_run("r1", "audited", {"balanced": True})


def test_the_calls_of_a_run_make_the_same_ledger_again(kept: Ledger, url: str, shelf: Shelf, tmp_path: Path) -> None:
    play(kept)
    assert not differences(read_tables(url), read_tables(rebuilt(shelf, tmp_path)))


def test_entries_of_the_version_before_are_read(
    kept: Ledger, url: str, shelf: Shelf, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write_ipc(rows: pl.DataFrame, file: io.BytesIO, **_: Any) -> None:
        rows.write_ipc(file, compression="zstd")

    with monkeypatch.context() as before:
        before.setattr(pl.DataFrame, "write_parquet", write_ipc)
        play(kept)
    assert not differences(read_tables(url), read_tables(rebuilt(shelf, tmp_path)))


def test_the_calls_of_a_transaction_are_one_entry_and_entries_are_in_order(kept: Ledger, shelf: Shelf) -> None:
    play(kept)
    times = [at for at, _ in shelf.entries]
    assert times == sorted(times, key=lambda at: at or datetime.max.replace(tzinfo=UTC))
    methods = [[call.method for call in read_entry(io.BytesIO(body))] for _, body in shelf.entries]
    assert ["claim_instances", "record_verdicts"] in methods


def test_an_attempt_at_what_nobody_owes_is_not_kept(kept: Ledger, shelf: Shelf) -> None:
    assert kept.defer_owed(NIGHTLY, "archive", datetime.now(UTC)) == 0
    assert shelf.entries == []


def test_a_call_that_fails_is_not_kept(kept: Ledger, shelf: Shelf) -> None:
    with pytest.raises(LedgerError):
        kept.close_run("unknown", "audited", {})
    assert shelf.entries == []


def test_a_claim_keeps_what_the_run_holds_and_not_the_whole_listing(kept: Ledger, shelf: Shelf) -> None:
    for run in ("r1", "r2"):
        kept.open_run(run, NIGHTLY, run, None)
    kept.claim(NIGHTLY, "r1", arrivals("a", "b"))
    kept.claim(NIGHTLY, "r2", arrivals("a", "b", "c"))
    (call,) = read_entry(io.BytesIO(shelf.entries[-1][1]))
    assert [name for rows in call.arguments["listing"] for name in rows["arrival_id"]] == [id_of("c")]


def test_a_claim_whose_entry_was_lost_is_kept_by_the_next_try(ledger: Ledger, kept: Ledger, shelf: Shelf) -> None:
    kept.open_run("r1", NIGHTLY, "r1", None)
    ledger.claim(NIGHTLY, "r1", arrivals("a"))  # the worker is killed before the entry is written
    kept.claim(NIGHTLY, "r1", arrivals("a"))
    (call,) = read_entry(io.BytesIO(shelf.entries[-1][1]))
    assert [name for rows in call.arguments["listing"] for name in rows["arrival_id"]] == [id_of("a")]


def test_a_later_claim_shows_that_an_earlier_run_has_given_back(
    ledger: Ledger, kept: Ledger, url: str, shelf: Shelf, tmp_path: Path
) -> None:
    for run in ("r1", "r2"):
        kept.open_run(run, NIGHTLY, run, None)
    kept.claim(NIGHTLY, "r1", arrivals("a"))
    ledger.release_claims(NIGHTLY, "r1")  # by a command that has no workspace
    kept.claim(NIGHTLY, "r2", arrivals("a"))
    before, after = read_tables(url), read_tables(rebuilt(shelf, tmp_path))
    assert before["arrivals"] == after["arrivals"]


def test_a_claim_after_a_release_holds_what_the_run_holds_then(
    ledger: Ledger, kept: Ledger, url: str, shelf: Shelf, tmp_path: Path
) -> None:
    kept.open_run("r1", NIGHTLY, "r1", None)
    kept.claim(NIGHTLY, "r1", arrivals("a", "b"))
    ledger.release_claims(NIGHTLY, "r1")  # by a command that has no workspace
    kept.claim(NIGHTLY, "r1", arrivals("b", "c"))
    before, after = read_tables(url), read_tables(rebuilt(shelf, tmp_path))
    assert before["arrivals"] == after["arrivals"]
    assert [row[:3] for row in before["owed"]] == [row[:3] for row in after["owed"]]


def test_what_a_reconciliation_took_back_is_not_stored_after_a_rebuild(
    kept: Ledger, url: str, shelf: Shelf, tmp_path: Path
) -> None:
    play(kept)
    assert kept.forget_missing(miss(kept, "a").number) == 1
    assert kept.record_removal(NIGHTLY, STORE, KEY, "an operator", "wrong patient") == 1
    assert not differences(read_tables(url), read_tables(rebuilt(shelf, tmp_path)))


class TestLosses:
    """What a data store is known to have lost."""

    def test_they_hold_a_study_and_are_redriven_after_a_rebuild(
        self, kept: Ledger, shelf: Shelf, tmp_path: Path
    ) -> None:
        play(kept)
        kept.forget_missing(miss(kept, "a").number)
        with Ledger.open(rebuilt(shelf, tmp_path)) as again:
            again.open_run("r2", NIGHTLY, "r2", None)
            lacking = again.unresolved_files(STORE, NIGHTLY, uids("1.study"), "r2")
            assert ("1.study", id_of("a")) in lacking
            assert again.choose_lost(STORE, NIGHTLY, None, None)["arrival_id"].to_list() == [id_of("a")]
            assert again.find_open_losses(reconciliation(again).number, 10)["subject"].to_list() == ["1.a"]

    def test_a_redrive_after_a_rebuild_takes_what_was_lost_last(
        self, kept: Ledger, url: str, shelf: Shelf, tmp_path: Path
    ) -> None:
        play(kept)
        kept.forget_missing(miss(kept, "a").number)
        again = imports(("b", "1.a")).with_columns(image_set_id=pl.lit("another set"))
        kept.claim_instances(STORE, NIGHTLY, "r1", claims(("b", "1.a")))
        kept.record_imported(STORE, "r1", again, NO_STUDIES, NO_SERIES)
        later = [(FindingKind.MISSING_IN_STORE.value, "1.a", KEY, id_of("b"), "another set", "version 1", None)]
        missed = kept.advance_comparison(reconciliation(kept), {}, {}, pl.DataFrame(later, FOUND, orient="row"))
        assert kept.forget_missing(missed.number) == 1
        with Ledger.open(rebuilt(shelf, tmp_path)) as ledger:
            assert ledger.choose_lost(STORE, NIGHTLY, None, None)["arrival_id"].to_list() == [id_of("b")]
        assert not differences(read_tables(url), read_tables(f"sqlite:///{tmp_path}/rebuilt.db"))

    def test_what_was_removed_on_purpose_is_known_as_such(self, kept: Ledger, shelf: Shelf, tmp_path: Path) -> None:
        play(kept)
        kept.forget_missing(miss(kept, "a").number)
        kept.record_removal(NIGHTLY, STORE, KEY, "an operator", "wrong patient")
        with Ledger.open(rebuilt(shelf, tmp_path)) as again:
            assert again.find_lost(STORE, pl.Series(["1.a"])) == {"1.a"}
            assert again.choose_lost(STORE, NIGHTLY, None, None).is_empty()

    @pytest.mark.parametrize("by_study", [True, False])
    def test_what_was_found_again_is_closed_in_a_rebuilt_ledger(
        self, kept: Ledger, url: str, shelf: Shelf, tmp_path: Path, by_study: bool
    ) -> None:
        play(kept)
        kept.forget_missing(miss(kept, "a").number)
        kind = FindingKind.MISSING_IN_STORE
        if by_study:
            later = reconciliation(kept)
            assert kept.close_unseen(later, kind, closed_by="an operator", study_keys=[KEY]) == 1
        else:
            about = {"pipeline": NIGHTLY, "datastore_id": STORE}
            assert kept.close_findings(pl.Series(["1.a"]), kind, **about, closed_by="an operator") == 1
        assert not differences(read_tables(url), read_tables(rebuilt(shelf, tmp_path)))

    def test_a_backup_that_has_them_is_not_changed_by_their_entries(
        self, kept: Ledger, ledger: Ledger, url: str, shelf: Shelf
    ) -> None:
        play(kept)
        shelf.entries.clear()
        kept.forget_missing(miss(kept, "a").number)
        kept.close_unseen(reconciliation(kept), FindingKind.MISSING_IN_STORE, closed_by="an operator")
        before = read_tables(url)
        ledger.begin_rebuild({}, "an operator", onto_backup=True)
        for number, (_, body) in enumerate(shelf.entries):
            repeat_calls(ledger, f"{number:04}", read_entry(io.BytesIO(body)))
        ledger.end_rebuild({})
        assert not differences(before, read_tables(url))

    def test_what_the_journal_cannot_keep_is_not_forgotten(self, kept: Ledger, shelf: Shelf) -> None:
        play(kept)
        missed = miss(kept, "a")
        shelf.broken = True
        with pytest.raises(OSError, match="closed"):
            kept.forget_missing(missed.number)
        assert kept.count_missing(missed.number) == 1


class TestFirst:
    """Calls that are kept before they take effect."""

    def test_what_cannot_be_kept_does_not_take_effect(self, kept: Ledger, shelf: Shelf) -> None:
        shelf.broken = True
        with pytest.raises(OSError, match="closed"), kept.at_once("runs", keep_first=True) as inner:
            inner.open_run("r1", NIGHTLY, "r1", None)
        assert kept.run("r1") is None

    def test_what_was_kept_is_in_the_ledger(self, kept: Ledger, shelf: Shelf) -> None:
        with kept.at_once("runs", keep_first=True) as inner:
            inner.open_run("r1", NIGHTLY, "r1", None)
        assert len(shelf.entries) == 1
        assert kept.run("r1") is not None


class TestRebuild:
    """The row of a rebuild."""

    def test_a_ledger_that_is_not_empty_is_refused(self, ledger: Ledger) -> None:
        ledger.open_run("r1", NIGHTLY, "r1", None)
        ledger.note_store("d" * 32, StoreOrigin.IMPORTED)
        told = r"not empty: it has rows in 2 tables, for example in data_stores\. If it is a restored backup"
        with pytest.raises(LedgerError, match=told):
            ledger.begin_rebuild({}, "an operator")

    def test_runs_that_have_claimed_nothing_are_left_to_their_journals(self, ledger: Ledger) -> None:
        """They have refused to import into a data store that the lost ledger knew."""
        ledger.open_run("r1", NIGHTLY, "r1", None)
        ledger.begin_rebuild({}, "an operator")
        assert ledger.pipelines() == set()

    def test_what_was_compared_with_the_lost_ledger_is_forgotten(self, ledger: Ledger) -> None:
        """A person who sweeps or reconciles first, and then sees that the ledger is lost, needs no other database."""
        miss(ledger, "a")
        ledger.begin_rebuild({}, "an operator")
        ledger.end_rebuild({})
        assert ledger.count_findings(pipeline=NIGHTLY).is_empty()

    def test_nobody_opens_a_ledger_whose_rebuild_is_unfinished(self, ledger: Ledger, url: str) -> None:
        ledger.begin_rebuild({}, "an operator")
        with pytest.raises(LedgerError, match="Continue it: airlock ledger rebuild"):
            Ledger.open(url)
        ledger.end_rebuild({})
        Ledger.open(url).dispose()

    def test_it_goes_on_after_its_last_entry(self, ledger: Ledger) -> None:
        assert ledger.begin_rebuild({}, "an operator").position == ""
        ledger.move_rebuild("0007")
        assert ledger.begin_rebuild({}, "another operator").position == "0007"

    def test_it_goes_on_with_the_same_workspaces_only(self, ledger: Ledger) -> None:
        ledger.begin_rebuild({"workspaces": ["a"]}, "an operator")
        with pytest.raises(LedgerError, match="other workspaces is unfinished"):
            ledger.begin_rebuild({"workspaces": ["b"]}, "an operator")


class TestBadEntries:
    """Entries that cannot be repeated."""

    @pytest.mark.parametrize("keep", [0, 7, -9, -1])
    def test_an_entry_that_is_cut_off_is_refused(self, kept: Ledger, shelf: Shelf, keep: int) -> None:
        kept.open_run("r1", NIGHTLY, "r1", None)
        with pytest.raises(BrokenEntryError, match="not whole"):
            read_entry(io.BytesIO(shelf.entries[0][1][:keep]))

    @pytest.mark.parametrize("method", ["dispose", "at_once", "no_such_method", "_engine"])
    def test_only_journaled_methods_are_called(self, ledger: Ledger, method: str) -> None:
        call: Any = {"method": method, "arguments": {}, "times": []}
        entry = Entry()
        entry.calls.append(call)
        file = entry.finish()
        ledger.begin_rebuild({}, "an operator")
        with pytest.raises(LedgerError, match="newer version"):
            repeat_calls(ledger, "0001", read_entry(file))

    def test_nothing_of_an_entry_is_written_that_fails(self, kept: Ledger, shelf: Shelf, tmp_path: Path) -> None:
        kept.open_run("r1", NIGHTLY, "r1", None)
        with kept.at_once("arrivals of nightly", "runs") as inner:
            inner.open_run("r2", NIGHTLY, "r2", None)
            inner.close_run("r1", "audited", {})
        del shelf.entries[0]
        with pytest.raises(LedgerError, match="no run 'r1'"):
            rebuilt(shelf, tmp_path)
        with Ledger.open(f"sqlite:///{tmp_path}/rebuilt.db", rebuilding=True) as ledger:
            assert ledger.run("r2") is None


def test_looks_at_identifiers_and_notes_are_there_again(kept: Ledger, url: str, shelf: Shelf, tmp_path: Path) -> None:
    kept.open_run("r1", NIGHTLY, "scheduled__1", WINDOW)
    kept.log_reveal(NIGHTLY, "key", person="Kim", why="the sender asks")
    kept.log_reveal(NIGHTLY, None, person="Kim", why="a list for the sender")
    kept.write_note(NIGHTLY, "key", "asked the sender", "Kim")
    assert not differences(read_tables(url), read_tables(rebuilt(shelf, tmp_path)))


def test_who_has_opened_or_first_approved_a_review_is_there_again(
    kept: Ledger, url: str, shelf: Shelf, tmp_path: Path
) -> None:
    kept.open_run("r1", NIGHTLY, "scheduled__1", WINDOW)
    question = ("1.2", "key", "", "truncated", "study_incomplete", "findings", "{}")
    asked = pl.DataFrame([question], schema=ASKED, orient="row")
    nothing = pl.Series([], dtype=pl.String)
    kept.ask_reviews(NIGHTLY, "store", "r1", asked, decided=None, released=nothing, assignee=None, deputy=None)
    (review,) = kept.open_reviews([NIGHTLY])
    for person in ("kim", "ada", "kim"):
        kept.open_review(review.number, person)
    chosen = pl.DataFrame([("r1", "1.2", "findings")], schema=CHOSEN, orient="row")
    kept.approve_first(NIGHTLY, "store", chosen, ReviewAnswer(True, "kim", "compared"))
    again = rebuilt(shelf, tmp_path)
    assert not differences(read_tables(url), read_tables(again))
    with Ledger.open(again) as ledger:
        (review,) = ledger.open_reviews([NIGHTLY])
        opened = [ledger.opened_by(person, [review.number]) for person in ("kim", "ada", "eve")]
    assert opened == [{review.number}, {review.number}, set()]
    assert review.first_by == "kim"


def test_times_are_those_of_the_first_time(kept: Ledger, shelf: Shelf, tmp_path: Path) -> None:
    before = datetime.now(UTC)
    kept.open_run("r1", NIGHTLY, "r1", None)
    with Ledger.open(rebuilt(shelf, tmp_path)) as again:
        found = again.run("r1")
    assert found is not None
    assert before <= found.started_at <= before + timedelta(seconds=60)
    assert found == kept.run("r1")


def test_the_edge_is_told_everything_again(kept: Ledger, shelf: Shelf, tmp_path: Path) -> None:
    kept.note_edge(NIGHTLY, "https://sqs.us-east-1.amazonaws.com/123456789012/edge")
    play(kept)
    told = kept.untold(NIGHTLY, STORE, 9)
    kept.mark_told(told["id"])
    with Ledger.open(rebuilt(shelf, tmp_path)) as again:
        assert again.untold(NIGHTLY, STORE, 9).drop("id").equals(told.drop("id"))
        assert again.find_edge(NIGHTLY) == kept.find_edge(NIGHTLY)


# Methods that write what no rebuild repeats: the outbox's leases and answers (notes of routes have them), comparisons
# and findings but losses (done again), data stores (concluded), the rebuild's own, and who was reminded (they are
# again); and a part of the claim, which is kept.
NOT_KEPT = {
    *("lease_due", "mark_all_sent", "renew_leases", "return_leases", "requeue", "_mark"),
    *("begin_comparison", "_write", "keep_findings", "close_chosen"),
    *("note_store", "note_settled_store", "close_stores", "record_rebuilt_stores"),
    *("begin_rebuild", "move_rebuild", "end_rebuild", "record_sends", "repeat_removal"),
    "record_census",  # a sweep counts anew
    "mark_overdue",
    *("mark_told", "tell_again"),  # the edge is told everything again
    "_claim_listing",
}


def test_every_method_that_writes_is_kept_in_the_journal() -> None:
    unkept = set()
    for file in (ROOT / "include/airlock/ledger").glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef) and "self._writing(" in ast.unparse(node):
                kept = any("journaled" in ast.unparse(mark) for mark in node.decorator_list)
                unkept |= set() if kept else {node.name}
    assert unkept == NOT_KEPT
