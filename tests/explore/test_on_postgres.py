"""The second proof: whole runs in threads against a real PostgreSQL, with pauses between statements.

The explorer lets nobody go on within a transaction, so it cannot miss a lock. Here two runs over one study settle at
the same time: each transaction of the ledger is held up at random between its statements.
"""

from __future__ import annotations

import random
import secrets
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import event, text

from airlock.ledger import Ledger, database, upgrade
from tests.dicom_files import sop_uid
from tests.explore import contents
from tests.explore.books import Reader, instances_of, key_of_study, read_payload
from tests.explore.clock import Clock
from tests.explore.history import STAGES
from tests.explore.memory_s3 import MemoryS3
from tests.explore.pipelines import BUCKETS, imaging
from tests.explore.scheduler import Actor
from tests.explore.services import Services
from tests.explore.stages import DagRun, Outside, RunSpec
from tests.explore.threads import without_threads
from tests.servers.postgres import Postgres, postgres_server

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["postgres_server"]

pytestmark = pytest.mark.slow

LONGEST_PAUSE = 0.004  # seconds between two statements
PAUSED = 0.3  # of the statements
SEEDS = (0, *(pytest.param(seed, marks=pytest.mark.proof) for seed in range(1, 8)))


class Locked:
    """An object of which one thread at a time makes a call."""

    def __init__(self, inner: Any, lock: threading.RLock) -> None:
        self._inner = inner
        self._lock = lock

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if not callable(found):
            return found

        def call(*args: Any, **given: Any) -> Any:
            with self._lock:
                return found(*args, **given)

        return call


class Stage:
    """Runs over one ledger; each round has a study of its own."""

    def __init__(self, ledger: Ledger) -> None:
        clock, lock = Clock(), threading.RLock()
        self.s3 = MemoryS3(clock.now)
        for bucket in BUCKETS:
            self.s3.create_bucket(Bucket=bucket)
        s3: Any = Locked(self.s3, lock)
        services: Any = Locked(Services(s3), lock)
        self.clock = clock
        self.outside = Outside(clock, s3, services, ledger)
        self._ledger = ledger

    def put(self, key: str, content: str) -> None:
        """Upload an object."""
        self.s3.put_object(Bucket="archive", Key=key, Body=contents.make(content))

    def run(self, name: str, prefix: str) -> DagRun:
        """Return a run below a prefix that has not begun."""
        spec = RunSpec(name, imaging(), f"manual__{name}", prefix=prefix)
        return DagRun(spec, self.outside, Actor(name, lambda *_: None))

    def released(self, study: int) -> set[str]:
        """Return the instances that the newest queued contract of a study names."""
        with self._ledger._engine.connect() as connection:
            books = Reader(lambda statement: connection.execute(text(statement)).fetchall()).read()
        queued = books.newest_queued().get(key_of_study(contents.image_of(f"ct {study}.1.1").study))  # type: ignore[union-attr]
        return instances_of(read_payload(self.s3, queued.payload_uri) or {}) if queued else set()


@contextmanager
def pauses(ledger: Ledger, seed: int) -> Iterator[None]:
    """Hold the statements of a ledger up at random."""
    rng = random.Random(seed)

    def pause(*_: Any) -> None:
        if rng.random() < PAUSED:
            time.sleep(rng.uniform(0, LONGEST_PAUSE))

    event.listen(ledger._engine, "before_cursor_execute", pause)
    try:
        yield
    finally:
        event.remove(ledger._engine, "before_cursor_execute", pause)


@pytest.fixture(scope="module")
def stage(postgres_server: Postgres) -> Iterator[Stage]:
    url = postgres_server.url(postgres_server.create_database())
    upgrade(url)
    with Ledger.open(url) as ledger:
        made = Stage(ledger)
        with made.clock.shown_to_library(), without_threads():
            yield made


def together(*runs: DagRun, first: str) -> None:
    """Let runs do their stages from this one on in threads of their own, and wait for all."""
    threads = [threading.Thread(target=run._do_from, args=(first,)) for run in runs]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def upto(run: DagRun, last: str) -> None:
    """Let a run do its stages up to this one."""
    for name in STAGES[: STAGES.index(last) + 1]:
        run.states[name] = run._do(name)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_study_that_two_runs_settle_at_once_is_released_whole(stage: Stage, seed: int) -> None:
    study, folder = 100 + seed, f"in/whole-{seed}"
    for number in (1, 2):
        stage.put(f"{folder}/{number}/1.dcm", f"ct {study}.{number}.1")
    one, two = (stage.run(f"whole-{seed}-{number}", f"{folder}/{number}/") for number in (1, 2))
    with pauses(stage.outside.ledger, seed):
        upto(one, "import")
        upto(two, "import")
        together(one, two, first="audit")
    assert [run.states["route"] for run in (one, two)] == ["success", "success"], [one.errors, two.errors]
    assert stage.released(study) == {sop_uid(study, 1, 1), sop_uid(study, 2, 1)}


@pytest.mark.proof
def test_without_locks_it_is_not(stage: Stage, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(database, "digest", lambda *_, length: secrets.token_hex(length)[:length])
    with pytest.raises(AssertionError):
        test_a_study_that_two_runs_settle_at_once_is_released_whole(stage, 77)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_study_with_a_bad_file_in_one_of_two_runs_is_not_released(stage: Stage, seed: int) -> None:
    study, folder = 200 + seed, f"in/bad-{seed}"
    stage.put(f"{folder}/1/1.dcm", f"bad {study}.1.1")
    stage.put(f"{folder}/2/1.dcm", f"ct {study}.2.1")
    one, two = (stage.run(f"bad-{seed}-{number}", f"{folder}/{number}/") for number in (1, 2))
    with pauses(stage.outside.ledger, seed):
        upto(one, "validate")
        upto(two, "import")
        together(two, first="audit")
        one._do_from("normalize")
    assert stage.released(study) == set()


@pytest.mark.parametrize("seed", SEEDS)
def test_runs_that_do_everything_at_once_bring_every_file_once(stage: Stage, seed: int) -> None:
    study, folder = 300 + seed, f"in/same-{seed}/"
    for number in (1, 2, 3):
        stage.put(f"{folder}{number}.dcm", f"ct {study}.1.{number}")
    runs = [stage.run(f"same-{seed}-{number}", folder) for number in (1, 2, 3)]
    with pauses(stage.outside.ledger, seed):
        together(*runs, first="receive")
    assert [run.errors for run in runs] == [[], [], []]
    assert stage.released(study) == {sop_uid(study, 1, number) for number in (1, 2, 3)}
