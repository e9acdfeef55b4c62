"""Rebuild onto a restored backup: what the backup lacks is repeated, and nothing else."""

from __future__ import annotations

import sqlite3
from contextlib import closing, suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ledger import Job, Ledger, LedgerError, upgrade
from airlock.ledger.sweeps import SCOPE, SweepAnswer
from airlock.ledger.transfer import transfer
from airlock.stages import rebuild as module
from airlock.stages.buffer import buffer
from airlock.stages.decision_log import decide
from airlock.stages.journal import FolderJournal, keep_journal
from airlock.stages.rebuild import Rebuilt, rebuild
from airlock.stages.route import route
from tests.rebuilt_ledger import differences
from tests.servers.ledger import new_ledger
from tests.servers.postgres import postgres_server, postgres_url
from tests.unit.airlock.stages.test_rebuild import (
    ROUTES,
    Receiver,
    WorkerLostError,
    again,
    filled,
    rebuild_from,
    tables,
)
from tests.unit.airlock.stages.test_route import contracts, release
from tests.unit.airlock.world import World, pipeline

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock.destinations import Message
    from airlock.ledger.journal import Entry
    from airlock.run import Run

__all__ = ["again", "postgres_server", "postgres_url"]


def back_up(folder: Path) -> str:
    """Copy the ledger of the world as `VACUUM INTO` does, and return the copy's address."""
    with closing(sqlite3.connect(folder / "ledger.db")) as connection:
        connection.execute(f"VACUUM INTO '{folder}/backup.db'")
    return f"sqlite:///{folder}/backup.db"


def change(folder: Path, statement: str) -> None:
    """Change the backup."""
    with closing(sqlite3.connect(folder / "backup.db")) as connection:
        connection.execute(statement)
        connection.commit()


def catch_up(url: str, run: Run[Any]) -> Rebuilt:
    with Ledger.open(url, rebuilding=True) as backup:
        return rebuild(backup, run.s3, [run.pipeline], "an operator", lambda _: None, onto_backup=True)


def decide_something(run: Run[Any], at: datetime, ledger: Ledger | None = None) -> None:
    """Let a person answer a sweep, with the clock of their machine."""
    answer = SweepAnswer("2026-1", 3, True, "an operator", "late replica", at)
    decide(run.s3, run.pipeline, ledger or run.ledger, lambda inner: inner.answer_sweep("nightly", answer), SCOPE)


def count_states(ledger: Ledger) -> dict[str, int]:
    """Return the number of messages to the only destination by state."""
    (states,) = ledger.messages_by_state("nightly").values()
    return {state.value: number for state, number in states.items()}


def lost_rows(world: World, url: str) -> dict[str, Any]:
    with Ledger.open(url) as restored:
        return differences(tables(world.ledger), tables(restored))


class TestPosition:
    """Which entries are repeated."""

    def test_only_what_the_backup_lacks_is_repeated(self, world: World, tmp_path: Path) -> None:
        run = filled(world)
        decide_something(run, datetime.now(UTC))
        url = back_up(tmp_path)
        later = filled(world, "two")
        report = catch_up(url, later)
        assert report.entries == len(world.keys(f"{later.workspace.root}ledger/"))
        assert not report.is_incomplete
        assert not lost_rows(world, url)

    def test_a_clock_that_is_ahead_hides_no_night(self, world: World, tmp_path: Path) -> None:
        run = filled(world)
        decide_something(run, datetime.now(UTC) + timedelta(hours=2))
        url = back_up(tmp_path)
        catch_up(url, filled(world, "two"))
        assert not lost_rows(world, url)

    def test_a_decision_that_was_being_kept_during_the_dump_is_not_lost(
        self, world: World, postgres_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Its copy is on S3, and it is committed after the dump; meanwhile another run writes to the ledger."""
        upgrade(postgres_url)
        write, url = FolderJournal.write, f"sqlite:///{tmp_path}/backup.db"
        with Ledger.open(postgres_url) as ledger:
            run = filled(World(world.s3, ledger))

            def dump_meanwhile(self: FolderJournal, entry: Entry) -> None:
                write(self, entry)
                if "decisions" in str(self.folder):
                    ledger.open_run("another", "another", "x", None)
                    transfer(postgres_url, url)

            monkeypatch.setattr(FolderJournal, "write", dump_meanwhile)
            decide_something(run, datetime.now(UTC))
        catch_up(url, run)
        with Ledger.open(url) as restored:
            assert len(tables(restored)["decisions"]) == 1

    def test_a_backup_of_the_schema_before_gets_the_last_hour_again(self, world: World, tmp_path: Path) -> None:
        run = filled(world)
        job = Job("batch", 0, run.key, "token")
        run.ledger.record_job(job, run.pipeline.datastore_id)
        run.ledger.record_job(replace(job, job_id="1"))
        url = back_up(tmp_path)
        change(tmp_path, "DELETE FROM journal_entries")
        later = filled(world, "two")
        report = catch_up(url, later)
        assert report.refused == {}
        assert report.entries == sum(len(world.keys(f"{one.workspace.root}ledger/")) for one in (run, later))
        assert not lost_rows(world, url)

    def test_a_ledger_that_is_not_a_backup_is_refused(self, world: World, tmp_path: Path) -> None:
        """After the loss, a night has used a new ledger."""
        run = filled(world)
        for entry in world.keys(f"{run.workspace.root}ledger/"):
            body = run.s3.get(run.workspace.root.join("ledger", entry))
            world.put(f"{run.workspace.root}ledger/1{entry[1:]}", body)  # a thousand years before
        url = new_ledger(tmp_path / "new.db")
        with Ledger.open(url) as new:
            world.put("s3://archive/in/two.dcm")
            buffer(keep_journal(replace(world.run("two", pipeline()), ledger=new)))
        with pytest.raises(LedgerError, match=f"lacks 1 runs .* for example {run.key}"):
            catch_up(url, run)
        Ledger.open(url).dispose()  # no rebuild has begun


class TestTwice:
    """A rebuild that is called while, or after, another process does it."""

    def test_one_that_hung_does_not_go_on_after_another_has_ended(
        self, world: World, again: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        run = filled(world)
        decide_something(run, datetime.now(UTC))
        read_ahead, hangs = module._read_ahead, iter([True])

        def hang(*given: Any) -> Iterator[Any]:
            mine = next(hangs, False)
            for number, item in enumerate(read_ahead(*given)):
                if mine and number == 1:
                    rebuild_from(run, again)
                yield item

        monkeypatch.setattr(module, "_read_ahead", hang)
        with pytest.raises(LedgerError, match="another process"):
            rebuild_from(run, again)
        assert not differences(tables(world.ledger), tables(again))

    def test_the_refusal_names_the_command_that_goes_on(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        filled(world)
        url = back_up(tmp_path)
        run = filled(world, "two")
        with monkeypatch.context() as patch:
            patch.setattr(module, "_repeat", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with suppress(KeyboardInterrupt):
                catch_up(url, run)
        with pytest.raises(LedgerError, match="Continue it: airlock ledger rebuild --onto-backup"):
            Ledger.open(url)
        with (
            Ledger.open(url, rebuilding=True) as ledger,
            pytest.raises(LedgerError, match="Continue it: airlock ledger rebuild --onto-backup"),
        ):
            rebuild_from(run, ledger)
        catch_up(url, run)
        assert not lost_rows(world, url)


class TestSends:
    """Messages that were being sent while the backup was made."""

    def released(self, world: World, **delivery: int) -> Run[Any]:
        run = filled(world, routes=[ROUTES[0] | {"delivery": delivery}], settle_minutes=0)
        release(run, contracts(("1.1", 1, "a"), ("1.2", 1, "b")))
        return run

    def test_a_lot_that_began_before_the_dump_is_not_sent_again(
        self, world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airlock.ledger.rebuilt._SLACK", timedelta())
        run = self.released(world, in_flight=1)
        urls: list[str] = []

        class Queue(Receiver):
            def send(self, message: Message) -> None:
                if not urls:
                    filled(world, "another")
                    urls.append(back_up(tmp_path))
                super().send(message)

        queue = Queue()
        route(run, {"queue": queue})
        assert len(queue.taken) == 2
        catch_up(urls[0], run)
        with Ledger.open(urls[0]) as restored:
            assert count_states(restored) == {"sent": 2}

    def test_what_the_backup_knows_as_sent_stays_sent(self, world: World, tmp_path: Path) -> None:
        run = self.released(world, in_flight=1)

        class Queue(Receiver):
            def send(self, message: Message) -> None:
                if self.taken:
                    raise WorkerLostError
                super().send(message)

        with suppress(WorkerLostError):
            route(run, {"queue": Queue()})
        url = back_up(tmp_path)
        report = catch_up(url, run)
        with Ledger.open(url) as restored:
            assert count_states(restored) == {"sent": 1, "failed": 1}
        assert report.counts["sends_unknown"] == 1
