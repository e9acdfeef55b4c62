"""The world of histories: clock, S3, services and ledger, which are made once and emptied before each history."""

from __future__ import annotations

import gc
import sqlite3
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

from tests.explore.books import FileReader
from tests.explore.clock import Clock
from tests.explore.folder import FOLDER
from tests.explore.memory_s3 import MemoryS3
from tests.explore.pipelines import BUCKETS, clinical, imaging, publishing
from tests.explore.quick_ledger import QuickLedger
from tests.explore.services import Services
from tests.explore.stages import Outside
from tests.explore.threads import without_threads
from tests.explore.waves import CUT

if TYPE_CHECKING:
    from types import TracebackType
    from typing import Self

    from airlock.pipelines import Pipeline
    from tests.explore.history import History

_COLLECT_EVERY = 20  # histories


class World:
    """A context manager: within it the library sees the world's clock and does everything in the calling thread."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.s3 = self._new_s3()
        self.services = Services(self.s3)
        self.ledger = QuickLedger.make()
        self.reader: FileReader | None = None
        self._changes = ExitStack()
        self._played = 0

    def __enter__(self) -> Self:
        self._changes.enter_context(self.clock.shown_to_library())
        self._changes.enter_context(without_threads())
        self._changes.enter_context(self.ledger.quickly())
        gc.disable()  # it takes a fifth of the time; memory is freed between histories
        self._changes.callback(gc.enable)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._changes.close()

    def reset(self) -> Outside:
        """Empty everything and return it."""
        self._played += 1
        if self._played % _COLLECT_EVERY == 0:
            gc.collect()
        if self.reader is not None:
            self.reader.close()
        self.clock.reset()
        self.s3 = self._new_s3()
        self.services.reset(self.s3, [])
        self.ledger.reset()
        self.reader = FileReader(FOLDER / "ledger.db")
        return Outside(self.clock, self.s3, self.services, self.ledger)

    def query(self, statement: str) -> list[sqlite3.Row]:
        """Return rows of the ledger, for a report."""
        with sqlite3.connect(FOLDER / "ledger.db") as connection:
            return connection.execute(statement).fetchall()

    def _new_s3(self) -> MemoryS3:
        s3 = MemoryS3(self.clock.now)
        for bucket in BUCKETS:
            s3.create_bucket(Bucket=bucket)
        return s3


def pipelines_of(history: History) -> dict[str, Pipeline]:
    """Return the pipelines of a history by the names that its runs use."""
    names = {plan.pipeline for plan in history.runs.values()}
    kinds = {
        "first": imaging,
        "second": imaging,
        "waves": imaging,
        "whole": imaging,
        "published": publishing,
        "mirror": publishing,
        "records": clinical,
    }
    return {name: kinds[name](name, **_settings(history, name)) for name in sorted(names)}


def _settings(history: History, name: str) -> dict[str, Any]:
    where = "s3://archive/fhir/" if name == "records" else "s3://archive/in/"
    dates = {"window": "key_date"} if history.key_dates else {"lookback_hours": history.lookback_hours}
    source: dict[str, Any] = {"uri": where, **dates}
    if name == "records":
        source["order"] = {"across_keys": "last_modified"}
    objects = 1 if "small waves" in history.kind else 2
    waves = {"waves": {"objects": objects, "hold_split": name == "whole"}} if name in CUT else {}
    return waves | {"source": source, "schedule": {"cron": "0 2 * * *", "timezone": history.zone}}
