"""One edge with all its parts."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
from contextlib import ExitStack, suppress
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Self

from airlock_edge.book import NAME, Book
from airlock_edge.bucket import Bucket
from airlock_edge.commitment.service import Commitments, offers_commitment
from airlock_edge.deliveries import Deliveries
from airlock_edge.listener import Listener
from airlock_edge.metrics import Metrics
from airlock_edge.monitor import MetricsServer, Monitor
from airlock_edge.pruning import Pruning
from airlock_edge.reception import Reception
from airlock_edge.recorder import Recorder
from airlock_edge.recovery import add_missing_rows
from airlock_edge.services import Services
from airlock_edge.spool import Spool
from airlock_edge.state_folder import hold_state_folder

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from airlock_edge.settings import Edge

_log = logging.getLogger(__name__)


class Node:
    """A running edge; a context manager.

    Parameters
    ----------
    settings
        Its settings.
    path
        The settings file, which the uploading processes read.
    uploads
        False if the caller uploads the spool itself.
    """

    def __init__(self, settings: Edge, path: Path, *, uploads: bool = True) -> None:
        self.settings = settings
        self._uploads = uploads
        self.metrics = Metrics()
        self.spool = Spool(settings.state)
        self._path = path
        self._parts = ExitStack()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self.listener.port

    def __enter__(self) -> Self:
        with self._parts:
            self._parts.enter_context(hold_state_folder(self.settings.state))
            is_lost = self.spool.ready.is_dir() and not (self.settings.state / NAME).exists()
            waiting = self.spool.prepare()
            self._parts.callback(self.spool.close)
            self.spool.reserve.begin()
            _log.info("%d objects wait in the spool for S3", waiting)
            if is_lost:
                _log.error(
                    "the state folder has no book: see 'A lost book' in docs/edge.md for the folders it left open"
                )
            self.book = Book(self.settings.state)
            self._parts.callback(self.book.close)
            bucket = Bucket(self.settings.destination, self.settings.listen.associations)
            drains = self._uploads and (self.settings.store == "spool" or waiting > 0)
            uploads = self._parts.enter_context(Uploads(self.settings, self._path, started=drains))
            self.recorder = self._parts.enter_context(Recorder(self.book))
            add_missing_rows(self.settings, self.spool, self.book, self.recorder)
            self.deliveries = self._parts.enter_context(self._make_deliveries(bucket))
            reception = Reception(
                self.settings,
                spool=self.spool,
                book=self.book,
                recorder=self.recorder,
                bucket=bucket,
                metrics=self.metrics,
                note_spooled=uploads.wake,
                note_folder=self.deliveries.note,
            )
            commitments = self._begin_commitments()
            store = None if commitments is None else commitments.store
            self._parts.enter_context(Pruning(self.settings, self.book, store))
            services = Services(reception, commitments)
            self.listener = self._parts.enter_context(Listener(self.settings, services, self.metrics))
            self._watch()
            self._parts = self._parts.pop_all()
        return self

    def _make_deliveries(self, bucket: Bucket) -> Deliveries:
        site, quiet = self.settings.site, self.settings.manifests.quiet_seconds
        return Deliveries(self.book, self.spool, bucket, self.metrics, site=site, quiet_seconds=quiet)

    def _begin_commitments(self) -> Commitments | None:
        if not offers_commitment(self.settings):
            _log.warning(
                "Storage Commitment is not offered: without commitment.queue_url only durable can be committed"
            )
            return None
        self.commitments = self._parts.enter_context(
            Commitments(self.settings, self.metrics, flush_rows=self.recorder.flush)
        )
        return self.commitments

    def _watch(self) -> None:
        note, ends = self.listener.note_open, self.listener.list_ends
        monitor = Monitor(self.settings.spool, self.spool, self.metrics, note, list_ends=ends)
        self._parts.enter_context(monitor)
        if self.settings.metrics_port is not None:
            self.metrics_server = self._parts.enter_context(MetricsServer(self.metrics, self.settings.metrics_port))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()


class Uploads:
    """The processes that upload the spool; a context manager. One that ends is started again.

    Parameters
    ----------
    settings
        Of the edge.
    path
        The settings file.
    started
        False for none: nothing is spooled.
    """

    def __init__(self, settings: Edge, path: Path, *, started: bool) -> None:
        self._settings = settings
        self._path = path
        self._ending = Event()
        self._lock = Lock()  # while a pipe is written to nobody closes it: its number may be another file's then
        self._pipes: dict[int, int] = {}  # by process: the end that wakes it
        self._threads = [
            Thread(target=self._keep_running, args=(number,), name=f"uploads-{number}")
            for number in range(settings.spool.processes if started else 0)
        ]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending.set()
        for number in list(self._pipes):
            self._close(number)
        for thread in self._threads:
            thread.join()

    def wake(self) -> None:
        """Say that there is a new file; a process that is busy looks anyway."""
        with self._lock:
            for pipe in self._pipes.values():
                with suppress(OSError):  # it is full, or the process has ended
                    os.write(pipe, b"\n")

    def _close(self, number: int) -> None:
        with self._lock:
            pipe = self._pipes.pop(number, None)
            if pipe is not None:
                os.close(pipe)

    def _keep_running(self, number: int) -> None:
        share = f"{number}/{self._settings.spool.processes}"
        while not self._ending.is_set():
            read, write = os.pipe2(os.O_CLOEXEC)
            os.set_blocking(write, False)
            command = [sys.executable, "-m", "airlock_edge", "upload", str(self._path), "--share", share]
            with subprocess.Popen(command, stdin=read) as process:  # noqa: S603 - our own program
                os.close(read)
                with self._lock:
                    self._pipes[number] = write
                if self._ending.is_set():
                    self._close(number)
                code = process.wait()
            self._close(number)
            if not self._ending.is_set():
                _log.error("the uploading process %s ended with %d; it is started again", share, code)
                self._ending.wait(1)
