"""Rebuild a ledger from the journals of runs, the copies of decisions and the notes of routes."""

from __future__ import annotations

from contextlib import suppress
from datetime import UTC, datetime
from itertools import count
from typing import IO, TYPE_CHECKING, Any

import pytest
from sqlalchemy import event

from airlock.destinations import DestinationError
from airlock.ledger import Ledger, LedgerError
from airlock.ledger.journal import Entry
from airlock.ledger.sweeps import SCOPE, SweepAnswer
from airlock.records import ARRIVALS
from airlock.stages.buffer import INDEX, buffer
from airlock.stages.decision_log import decide, open_log
from airlock.stages.journal import keep_journal
from airlock.stages.rebuild import Rebuilt, rebuild
from airlock.stages.route import RouteError, route
from airlock.stages.route_queue import queue_releases, rules_digest
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from tests.rebuilt_ledger import differences, read_tables
from tests.servers.ledger import new_ledger
from tests.unit.airlock.clinical.books import SECTIONS as CLINICAL
from tests.unit.airlock.stages.test_route import contracts, release
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock.destinations import Message
    from airlock.run import Run
    from tests.unit.airlock.world import World

ROUTES = [
    {"name": "queue", "sqs": {"queue_url": "https://sqs.us-east-1.amazonaws.com/123456789012/q"}},
    {"name": "folder", "uri": "s3://work/out/"},
]


@pytest.fixture
def again(tmp_path: Path) -> Iterator[Ledger]:
    """An empty ledger."""
    with Ledger.open(new_ledger(tmp_path / "again.db"), rebuilding=True) as ledger:
        yield ledger


def filled(world: World, run_id: str = "one", **changes: Any) -> Run:
    """Return a run that has taken in a file."""
    world.put(f"s3://archive/in/{run_id}.dcm")
    run = keep_journal(world.run(run_id, pipeline(**changes)))
    buffer(run)
    return run


def rebuild_from(run: Run, ledger: Ledger) -> Rebuilt:
    return rebuild(ledger, run.s3, [run.pipeline], "an operator", lambda _: None)


def tables(ledger: Ledger) -> dict[str, list[tuple[Any, ...]]]:
    return read_tables(str(ledger._engine.url))


def test_runs_are_rebuilt_in_the_order_of_their_changes(world: World, again: Ledger) -> None:
    one, two = filled(world), filled(world, "two")
    buffer(one)
    report = rebuild_from(two, again)
    assert (report.runs, report.refused, report.is_incomplete) == (2, {}, False)
    assert not differences(tables(world.ledger), tables(again))


def test_it_goes_on_where_it_was_interrupted(world: World, again: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    run = filled(world)
    get_file, reads = S3.get_file, count()

    def break_off(s3: S3, uri: S3Uri, file: IO[bytes]) -> None:
        if next(reads):
            raise OSError("the connection is gone")
        get_file(s3, uri, file)

    with monkeypatch.context() as patch:
        patch.setattr(S3, "get_file", break_off)
        with pytest.raises(OSError, match="gone"):
            rebuild_from(run, again)
    with pytest.raises(LedgerError, match="unfinished"):
        Ledger.open(str(again._engine.url))
    report = rebuild_from(run, again)
    assert report.entries == len(world.keys(f"{run.workspace.root}ledger/")) - 1
    assert not differences(tables(world.ledger), tables(again))


def test_a_ledger_that_is_not_empty_stays_as_it_is(world: World, again: Ledger) -> None:
    run = filled(world)
    with pytest.raises(LedgerError, match="not empty"):
        rebuild_from(run, world.ledger)


def test_a_restored_backup_is_brought_up_to_date(world: World, tmp_path: Path) -> None:
    one = filled(world)
    copy = tmp_path / "backup.db"
    copy.write_bytes((tmp_path / "ledger.db").read_bytes())
    two = filled(world, "two")
    buffer(one)
    with Ledger.open(f"sqlite:///{copy}") as backup:
        report = rebuild(backup, two.s3, [two.pipeline], "an operator", lambda _: None, onto_backup=True)
        assert not report.refused
        assert not differences(tables(world.ledger), tables(backup))


def test_an_entry_that_is_broken_is_named_and_the_rest_is_rebuilt(world: World, again: Ledger) -> None:
    run = filled(world)
    folder = f"{run.workspace.root}ledger/"
    first = world.keys(folder)[0]
    world.put(folder + first.replace(first[:8], "20200101"), b"not an entry")
    report = rebuild_from(run, again)
    (why,) = report.refused
    assert why.startswith(f"nightly/{run.key}/20200101T")
    assert why.endswith(".entry: the entry is not whole (ValueError)")
    assert report.is_incomplete
    assert not differences(tables(world.ledger), tables(again))


def test_a_run_without_a_journal_is_named(world: World, again: Ledger) -> None:
    run = filled(world)
    old = world.run("old")
    old.workspace.write("arrivals/0000", ARRIVALS, ARRIVALS.to_frame())
    old.workspace.write_json(INDEX, {})
    report = rebuild_from(run, again)
    assert report.without_journal == [old.key]
    assert report.is_incomplete
    store = again.find_store(run.pipeline.datastore_id)
    assert store is not None
    assert not store.is_open


def test_all_data_stores_are_closed_of_which_something_is_not_known(world: World, again: Ledger) -> None:
    """Also the one in which an imaging pipeline publishes."""
    run = filled(world, healthlake=CLINICAL["healthlake"])
    world.run("old").workspace.write_json(INDEX, {})
    assert rebuild_from(run, again).closed == sorted(
        [run.pipeline.datastore_id, CLINICAL["healthlake"]["datastore_id"]]
    )


def test_a_pipeline_with_journals_and_without_a_file_is_named(world: World, again: Ledger) -> None:
    run = filled(world)
    filled(world, "two", name="other")
    with pytest.raises(LedgerError, match="journals of 1 pipelines without a pipeline file, for example 'other'"):
        rebuild_from(run, again)
    with Ledger.open(str(again._engine.url)) as untouched:
        assert untouched.pipelines() == set()


def test_other_folders_of_the_workspace_are_not_pipelines(world: World, again: Ledger) -> None:
    run = filled(world)
    world.put("s3://work/runs/else/a/b.json")
    world.put("s3://work/runs/else/decisions/notes.txt")
    assert not rebuild_from(run, again).is_incomplete


def test_a_run_without_a_journal_that_the_backup_has_is_not_missing(world: World) -> None:
    old = world.run("old")
    world.put("s3://archive/in/old.dcm")
    buffer(old)
    new = filled(world)
    report = rebuild(world.ledger, new.s3, [new.pipeline], "an operator", lambda _: None, onto_backup=True)
    assert not report.is_incomplete


class Receiver:
    """A destination that takes messages, or breaks off."""

    def __init__(self, error: BaseException | None = None) -> None:
        self.error = error
        self.taken: list[tuple[str, int]] = []

    def send(self, message: Message) -> None:
        if self.error is not None:
            raise self.error
        self.taken.append((message.subject_key, message.revision))


class WorkerLostError(BaseException):
    """The worker is gone."""


def test_what_a_person_has_matched_again_is_matched_again(world: World, again: Ledger) -> None:
    run = filled(world, routes=ROUTES, settle_minutes=0)
    release(run, contracts(("1.1", 1, "a")))
    queue_releases(run)
    world.ledger.journaled_in(open_log(run.s3, run.pipeline)).match_again("nightly")
    rebuild_from(run, again)
    assert not differences(tables(world.ledger), tables(again))
    assert not again.open_releases("nightly", run.pipeline.datastore_id, rules_digest(run.pipeline), 1).is_empty()


class TestSends:
    """What was being sent when the ledger was lost."""

    def send(self, run: Run, **errors: BaseException) -> dict[str, Receiver]:
        receivers = {item.name: Receiver(errors.get(item.name)) for item in run.pipeline.routes}
        with suppress(WorkerLostError, RouteError):
            route(run, receivers)
        return receivers

    def states(self, ledger: Ledger) -> dict[str, dict[str, int]]:
        counted = ledger.messages_by_state("nightly")
        return {
            name.partition(":")[0]: {state.value: number for state, number in by.items()}
            for name, by in counted.items()
        }

    def released(self, world: World, *routes: dict[str, Any]) -> Run:
        run = filled(world, routes=list(routes or ROUTES), settle_minutes=0)
        release(run, contracts(("1.1", 1, "a")))
        return run

    def test_what_was_sent_is_not_sent_again(self, world: World, again: Ledger) -> None:
        run = self.released(world)
        self.send(run)
        rebuild_from(run, again)
        assert not differences(tables(world.ledger), tables(again))
        assert self.states(again) == {"sqs": {"sent": 1}, "s3": {"sent": 1}}

    @pytest.mark.parametrize(("lost", "state"), [("queue", "failed"), ("folder", "pending")])
    def test_what_may_have_arrived_waits_for_a_person_except_on_s3(
        self, world: World, again: Ledger, lost: str, state: str
    ) -> None:
        run = self.released(world, *(item for item in ROUTES if item["name"] == lost))
        self.send(run, **{lost: WorkerLostError()})
        report = rebuild_from(run, again)
        assert list(self.states(again).values()) == [{state: 1}]
        assert report.counts["sends_unknown"] == 1
        again.requeue("nightly")
        assert list(self.states(again).values()) == [{"pending": 1}]

    def test_what_was_refused_or_never_tried_is_sent_by_the_next_run(self, world: World, again: Ledger) -> None:
        run = self.released(world)
        self.send(run, queue=DestinationError("http_503", retryable=True))
        rebuild_from(run, again)
        assert self.states(again)["sqs"] == {"pending": 1}


NO_RUN = "the ledger has no run '{}': give the run's key, as in its report"


NOTHING = {"$": "dict", "value": {}}


def entry_of(method: str, **arguments: Any) -> bytes:
    """Return an entry with a call."""
    entry = Entry()
    entry.calls.append({"method": method, "arguments": arguments, "times": []})
    file = entry.finish()
    file.seek(0)
    return file.read()


def entries_of(world: World, run: Run) -> list[str]:
    """Return the addresses of the entries of a run, in their order."""
    folder = f"{run.workspace.root}ledger/"
    return [folder + name for name in world.keys(folder)]


def lose(world: World, *uris: str) -> None:
    for uri in uris:
        where = S3Uri.parse(uri)
        world.s3.client.delete_object(Bucket=where.bucket, Key=where.key)


def is_open(ledger: Ledger) -> bool:
    store = ledger.find_store(pipeline().datastore_id)
    return store is None or store.is_open


class TestMissingEntries:
    """Entries that a lifecycle rule or a person has deleted."""

    @pytest.mark.parametrize("number", [0, 1])
    def test_an_entry_that_is_missing_is_counted_and_the_data_store_is_closed(
        self, world: World, again: Ledger, number: int
    ) -> None:
        run = filled(world)
        buffer(keep_journal(world.run("one")))
        lose(world, entries_of(world, run)[number])
        report = rebuild_from(run, again)
        assert report.missing == {f"nightly/{run.key}": 1}
        assert report.is_incomplete
        assert not is_open(again)

    def test_entries_of_several_tasks_of_a_run_are_numbered_on(self, world: World) -> None:
        run = filled(world)
        before = len(entries_of(world, run))
        buffer(keep_journal(world.run("one")))
        numbers = [int(name.removesuffix(".entry").rpartition("-")[2]) for name in entries_of(world, run)]
        assert numbers == list(range(len(numbers)))
        assert len(numbers) > before

    def test_entries_of_the_version_before_have_no_number(self, world: World, again: Ledger) -> None:
        run = filled(world)
        for uri in entries_of(world, run):
            world.put(f"{uri.rpartition('-')[0]}.entry", world.s3.get(S3Uri.parse(uri)))
            lose(world, uri)
        buffer(keep_journal(world.run("one")))
        report = rebuild_from(run, again)
        assert not report.is_incomplete
        assert not differences(tables(world.ledger), tables(again))

    def test_the_data_store_of_a_journal_that_is_cut_off_is_closed(self, world: World, again: Ledger) -> None:
        """By a lifecycle rule, over entries of a version that did not number them."""
        run = filled(world)
        first, *others = entries_of(world, run)
        lose(world, first, *others)
        for uri in others:
            world.put(
                f"{uri.rpartition('-')[0]}.entry",
                entry_of("close_run", run_key=run.key, state="audited", report=NOTHING),
            )
        report = rebuild_from(run, again)
        assert report.missing == {}
        assert list(report.refused) == [f"nightly/{run.key}: close_run: {NO_RUN.format(run.key)}"]
        assert not is_open(again)

    def test_what_a_backup_has_is_not_missing(self, world: World) -> None:
        run = filled(world)
        lose(world, entries_of(world, run)[0])
        filled(world, "two")
        report = rebuild(world.ledger, run.s3, [run.pipeline], "an operator", lambda _: None, onto_backup=True)
        assert not report.is_incomplete

    def test_a_decision_that_is_missing_is_counted(self, world: World, again: Ledger) -> None:
        run = filled(world)
        for _ in range(2):
            world.ledger.journaled_in(open_log(run.s3, run.pipeline)).match_again("nightly")
        folder = "s3://work/runs/nightly/decisions/"
        lose(world, folder + world.keys(folder)[0])
        assert rebuild_from(run, again).missing == {"nightly/decisions": 1}

    def test_an_audited_run_with_arrivals_that_are_not_settled_is_named(self, world: World, again: Ledger) -> None:
        run = filled(world)
        run.ledger.close_run(run.key, "audited", {})
        report = rebuild_from(run, again)
        assert report.unsettled == [f"nightly/{run.key}"]
        assert report.is_incomplete
        assert not is_open(again)


class TestBadObjects:
    """An object that is neither an entry nor a note does not stop a rebuild, however often it is begun."""

    @pytest.mark.parametrize("folder", ["one-219b8a10/ledger", "decisions"])
    def test_an_entry_of_a_newer_version_is_named(self, world: World, again: Ledger, folder: str) -> None:
        run = filled(world)
        world.put(f"s3://work/runs/nightly/{folder}/20200101T000000.000000Z-deadbeef.entry", entry_of("no_such_method"))
        (why,) = rebuild_from(run, again).refused
        assert why.startswith(f"nightly/{folder.partition('/')[0]}: no_such_method: ")
        assert "upgrade" in why
        assert not is_open(again)
        assert not differences(tables(world.ledger), tables(again))

    @pytest.mark.parametrize("name", ["", "note.txt", "2026-x.json"])
    def test_an_object_that_is_no_note_is_left_alone(self, world: World, again: Ledger, name: str) -> None:
        run = filled(world)
        world.put(f"s3://work/runs/nightly/sends/{name}", b"hello")
        assert not rebuild_from(run, again).is_incomplete

    @pytest.mark.parametrize("content", [b"hello", b"[]", b"{}", b"[" * 200_000])
    def test_a_note_that_is_not_whole_is_named(self, world: World, again: Ledger, content: bytes) -> None:
        run = filled(world)
        name = "20260101T000000.000000Z-deadbeef.json"
        world.put(f"s3://work/runs/nightly/sends/{name}", content)
        report = rebuild_from(run, again)
        assert list(report.refused) == [f"nightly/sends/{name}: the note is not whole"]
        assert not is_open(again)


def test_a_decision_whose_commit_failed_is_named_and_not_repeated(world: World, again: Ledger) -> None:
    def fail(_: object) -> None:
        raise ConnectionError("the server is gone")

    run = filled(world)
    answer = SweepAnswer("2026-1", 3, True, "an operator", "late replica", datetime.now(UTC))
    event.listen(world.ledger._engine, "commit", fail)
    with pytest.raises(ConnectionError):
        decide(run.s3, run.pipeline, world.ledger, lambda inner: inner.answer_sweep("nightly", answer), SCOPE)
    event.remove(world.ledger._engine, "commit", fail)
    report = rebuild_from(run, again)
    (name,) = report.withdrawn
    assert name.startswith("nightly/decisions/2")
    assert report.is_incomplete
    assert report.closed == []
    assert not differences(tables(world.ledger), tables(again))
