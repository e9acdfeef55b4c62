"""Rebuild a ledger from the journals of runs, the copies of decisions and the notes of routes."""

from __future__ import annotations

from contextlib import suppress
from itertools import count
from typing import IO, TYPE_CHECKING, Any

import pytest

from airlock.destinations import DestinationError
from airlock.ledger import Ledger, LedgerError
from airlock.records import ARRIVALS
from airlock.stages.buffer import INDEX, buffer
from airlock.stages.decision_log import open_log
from airlock.stages.journal import keep_journal
from airlock.stages.rebuild import Rebuilt, rebuild
from airlock.stages.route import RouteError, route
from airlock.stages.route_queue import queue_releases, rules_digest
from airlock.storage.s3 import S3
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
    from airlock.storage.s3uri import S3Uri
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
    assert list(report.refused) == ["unreadable: the entry is not whole (ValueError)"]
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
