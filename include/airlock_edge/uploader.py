"""Uploads of the spool, in processes of their own: they take files, and remove each when it is on S3 and in the book.

Everything is read from the file and its name, and its checksum is computed again. So a kill or a power cut costs at
most an upload that is made twice, under the same key.
"""

from __future__ import annotations

import hashlib
import logging
import os
import random
import select
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import wait as wait_for
from contextlib import suppress
from dataclasses import dataclass
from threading import Lock
from time import monotonic
from typing import TYPE_CHECKING, Self

from pydicom import filereader

from airlock.records import digest
from airlock_edge.book import Book, Received, State, now_text
from airlock_edge.bucket import Bucket, UploadError
from airlock_edge.keys import NO_STUDY, Place
from airlock_edge.recorder import Recorder
from airlock_edge.spool import Spool
from airlock_edge.study_uid import find_study_uid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path
    from types import TracebackType

    from airlock_edge.settings import Edge

_log = logging.getLogger(__name__)

_LOOK_SECONDS = 5.0  # between two looks at the folder if nobody says that there is something
_END_SECONDS = 1.0  # between two checks whether the edge ends
_MOST_AT_A_TIME = 5000  # files of one look
_FIRST_PAUSE = 0.5  # seconds after a failed upload
_LOG_SECONDS = 30.0  # between two lines about failures
_OF_ONE_OBJECT = {"ChecksumMismatch", "BadDigest", "EntityTooLarge", "InvalidPart"}  # S3 takes other objects meanwhile
_PIECE = 1024 * 1024


class DamagedError(Exception):
    """A file in the spool is not what was received: the disk has lost or changed bytes."""


@dataclass(frozen=True)
class Share:
    """The files of one process among several, told by their names.

    Attributes
    ----------
    number, of
        From 0, and the number of processes.
    """

    number: int = 0
    of: int = 1

    def has(self, place: Place) -> bool:
        """Return whether a file is of this share."""
        return int(place.content[:8], 16) % self.of == self.number


class Uploader:
    """Uploads the files of one process; a context manager.

    Parameters
    ----------
    settings
        Of the edge.
    share
        Which files.
    """

    def __init__(self, settings: Edge, share: Share) -> None:
        self._settings = settings
        self._share = share
        self._spool = Spool(settings.state)
        self._book = Book(settings.state)
        self._recorder = Recorder(self._book, arrived=False)  # one flush for the rows of uploads that end together
        self._bucket = Bucket(settings.destination, settings.spool.uploads)
        self._lock = Lock()
        self._logged = -_LOG_SECONDS
        self._unfinished: dict[str, Future[bool]] = {}  # by file: uploads of earlier looks that go on
        self._failures: dict[str, tuple[int, float]] = {}  # by file: how often in a row, and when it is tried again
        self._away: tuple[int, float] | None = None  # the same of S3 as a whole, while it does not take anything
        self._away_before: tuple[int, float] | None = None  # as the present look began

    def __enter__(self) -> Self:
        self._recorder.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._recorder.__exit__(kind, error, trace)
        self._book.close()

    def run(self, wake: int) -> None:
        """Upload until the other end of a pipe is closed.

        Parameters
        ----------
        wake
            The pipe's descriptor; a byte in it says that there is a new file.
        """
        poll, end = select.poll(), select.poll()
        poll.register(wake, select.POLLIN | select.POLLHUP)
        end.register(wake, 0)  # POLLHUP is reported without being asked for
        with ThreadPoolExecutor(self._settings.spool.uploads, "upload") as pool:
            while True:
                done = self.upload_waiting(pool, lambda: bool(end.poll(0)))
                pause = 0.0 if done else min(_LOOK_SECONDS, self._until_next())
                if poll.poll(pause * 1000) and not os.read(wake, 65536):
                    return

    def upload_waiting(self, pool: ThreadPoolExecutor, is_ending: Callable[[], bool] = lambda: False) -> int:
        """Upload the files that wait now, oldest day first; return how many of them came to S3.

        A large file may take an hour: its upload goes on during the next look, so that no other file waits for it.
        While S3 is away one file is tried, any of them: reading the whole spool again and again would wear the disk
        that receives. Once *is_ending* returns true, no further upload begins.
        """
        now = monotonic()
        if self._away is not None and self._away[1] > now:
            return 0
        names = [entry.name for entry in self._spool.waiting() if self._is_due(entry.name, now)]
        names = sorted(names)[:_MOST_AT_A_TIME]
        if self._away is not None and names:
            names = [random.choice(names)]  # noqa: S311 - no secret
        self._away_before = self._away
        uploads = self._unfinished | {name: pool.submit(self._try_upload, name) for name in names}
        while left := wait_for(uploads.values(), _END_SECONDS).not_done:
            if is_ending():
                uploads = {name: upload for name, upload in uploads.items() if not upload.cancel()}
            elif self._may_look_again(left, now):
                break
        self._unfinished = {name: upload for name, upload in uploads.items() if not upload.done()}
        return sum(upload.result() for name, upload in uploads.items() if name not in self._unfinished)

    def _may_look_again(self, left: set[Future[bool]], begun: float) -> bool:
        """Return whether the next look need not wait for these unfinished uploads."""
        if left <= set(self._unfinished.values()):
            return True
        return len(left) < self._settings.spool.uploads and monotonic() - begun >= _LOOK_SECONDS

    def _is_due(self, name: str, now: float) -> bool:
        place = Place.parse(name)
        if place is None or name in self._unfinished:
            return False
        return self._share.has(place) and self._failures.get(name, (0, now))[1] <= now

    def _until_next(self) -> float:
        now = monotonic()
        with self._lock:
            times = [at for name, (_, at) in self._failures.items() if name not in self._unfinished]
            if self._away is not None and self._away[1] > now:
                times = [self._away[1]]
            return max(0.0, min(times, default=now + 3600) - now)

    def _try_upload(self, name: str) -> bool:
        if self._away is not self._away_before:  # S3 went away since this look
            return False
        try:
            self._upload(self._spool.ready / name)
        except FileNotFoundError:  # the same object came again, and another upload of it has removed it
            self._forget_failures(name)
            return False
        except DamagedError:  # `_upload` has set it aside
            return False
        except UploadError as error:
            if error.code not in _OF_ONE_OBJECT:
                self._note_failure(None, str(error))
            self._note_failure(name, str(error))  # this file alone may have such an error
            return False
        except Exception as error:  # noqa: BLE001 - one file must not stop the others; the text may quote its content
            self._note_failure(name, str(error) if isinstance(error, OSError) else type(error).__name__)
            return False
        with self._lock:
            self._away = self._away_before = None
        self._forget_failures(name)
        return True

    def _set_aside(self, name: str) -> None:
        """Move a damaged file to damaged/, unless the sender has repeated it meanwhile and it is whole."""
        path = self._spool.ready / name
        with self._spool.hold_names(), suppress(FileNotFoundError):  # another process has moved it
            try:
                read_row(path, self._settings.site, self._bucket.uri.key)
            except DamagedError as error:
                self._spool.damaged.mkdir(mode=0o700, exist_ok=True)  # somebody may have removed it with its files
                path.replace(self._spool.damaged / name)
                _log.error("%s: it is moved to damaged/, ask the sender for it again. File %s", error, name[:44])
        self._forget_failures(name)

    def _forget_failures(self, name: str) -> None:
        """Remove the pause of a file, so that nothing waits for a file that is gone."""
        with self._lock:
            self._failures.pop(name, None)

    def _note_failure(self, name: str | None, text: str) -> None:
        """Set when a file is tried again; with None, when S3 as a whole is."""
        with self._lock:
            before = self._failures.get(name) if name is not None else self._away_before
            times = 1 if before is None else before[0] + 1
            longest = min(self._settings.spool.most_retry_seconds, _FIRST_PAUSE * 2 ** min(times, 20))
            again = times, monotonic() + longest * random.uniform(0.5, 1)  # noqa: S311 - no secret
            if name is None:
                self._away = again
            else:
                self._failures[name] = again
            if monotonic() - self._logged < _LOG_SECONDS:
                return
            self._logged = monotonic()
        _log.warning("an upload failed %d times and is tried again: %s", times, text)

    def _upload(self, path: Path) -> None:
        try:
            row = read_row(path, self._settings.site, self._bucket.uri.key)
        except DamagedError:
            self._set_aside(path.name)
            raise
        self._bucket.upload(path, row.s3_key, row.sha256, row.size)
        self._recorder.write(row)
        path.unlink()


def read_row(path: Path, site: str, prefix: str) -> Received:
    """Return the row of a file in the spool, as it is when the file is on S3.

    Raises
    ------
    FileNotFoundError
        If it is gone.
    DamagedError
        If its content is not the one of its name.
    """
    place = Place.parse(path.name)
    if place is None:
        raise DamagedError("a file in the spool has a wrong name")
    sha256, size = _measure(path)
    if digest("object", sha256) != place.content:
        raise DamagedError("a file in the spool has other bytes than were received")
    meta = filereader.read_file_meta_info(path)
    syntax = str(meta.get("TransferSyntaxUID", ""))
    return Received(
        s3_key=place.key(prefix, site),
        sop_instance_uid=str(meta.get("MediaStorageSOPInstanceUID", "")),
        sop_class_uid=str(meta.get("MediaStorageSOPClassUID", "")),
        transfer_syntax=syntax,
        calling_ae_title=place.calling_ae_title,
        study_key=place.study.replace(NO_STUDY, ""),
        sha256=sha256,
        size=size,
        state=State.DURABLE,
        received_at=now_text(),
        durable_at=now_text(),
        study_instance_uid=find_study_uid(path, syntax),
    )


def _measure(path: Path) -> tuple[str, int]:
    """Return the SHA-256 and the size of a file."""
    whole, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            whole.update(piece)
            size += len(piece)
    return whole.hexdigest(), size
