"""The Storage SCP: the peer's data set goes to a file as it comes, and success means that the object is durable."""

from __future__ import annotations

import hashlib
import logging
import os
import sqlite3
from contextlib import suppress
from typing import TYPE_CHECKING

from airlock_edge.book import Received, State, now_text
from airlock_edge.bucket import UploadError
from airlock_edge.keys import NO_STUDY, Place
from airlock_edge.part10 import make_header
from airlock_edge.pdus import BUFFER
from airlock_edge.recorder import BookError, Recorder
from airlock_edge.services import OUT_OF_RESOURCES, SUCCESS
from airlock_edge.study_uid import HEAD, find_study_uid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airlock_edge.book import Book
    from airlock_edge.bucket import Bucket
    from airlock_edge.metrics import Metrics
    from airlock_edge.services import Sink, StoreRequest
    from airlock_edge.settings import Edge
    from airlock_edge.spool import Spool

_log = logging.getLogger(__name__)
_GIB = 1024**3
_LOOK_AT_DISK = 64 * 1024**2  # bytes of one object between two looks at the disk


class Reception:
    """Opens a sink for each object.

    Parameters
    ----------
    settings
        Of the edge.
    spool, book, recorder, bucket, metrics
        Its parts.
    note_spooled
        Is called when an object waits in the spool.
    note_folder
        Is called with the folder of an object that was received.
    """

    def __init__(
        self,
        settings: Edge,
        *,
        spool: Spool,
        book: Book,
        recorder: Recorder,
        bucket: Bucket,
        metrics: Metrics,
        note_spooled: Callable[[], None],
        note_folder: Callable[[str], None],
    ) -> None:
        self.settings = settings
        self.spool = spool
        self.bucket = bucket
        self.metrics = metrics
        self._book = book
        self._recorder = recorder
        self._note_spooled = note_spooled
        self._note_folder = note_folder

    def __call__(self, request: StoreRequest) -> Sink:
        """Return the sink of an object."""
        return _Incoming(self, request)

    @property
    def disk_is_full(self) -> bool:
        """Whether objects are refused."""
        return self.spool.used_percent() >= self.settings.spool.refuse_percent

    @property
    def needs_reserve(self) -> bool:
        """Whether the reserve is given up: its bytes are for rows, and not for an object that was half received."""
        return not self.spool.reserve.is_there and self.disk_is_full

    def find_place(self, request: StoreRequest, study_instance_uid: str, sha256: str) -> Place:
        """Return where an object belongs: the place of the same content if it came before, maybe on another day.

        Nothing comes any more into a folder whose rows are soon deleted: its manifest would count what is left.
        """
        title = request.caller.ae_title
        place = Place.of(study_instance_uid, sha256, title, self.settings.timezone)
        since = now_text(days_ago=self.settings.book.reuse_days)
        row = self._book.find_content(request.sop_instance_uid, request.sop_class_uid, sha256, since=since)
        return place if row is None else Place(row.s3_key.split("/")[-3], place.study, place.content, title)

    def secure(self, path: Path, file: int, place: Place, row: Received) -> None:
        """Make an object durable as ``store`` says.

        Parameters
        ----------
        path, file
            The written file and its descriptor.
        place, row
            Where it belongs, and its row of the book.

        Raises
        ------
        OSError
            If it is not: `UploadError` of S3, `BookError`, or an error of the disk.
        """
        self._note_folder(row.folder)
        if self.settings.store == "spool":
            self.spool.keep(path, file, place)
            self._recorder.add(row)
            self._note_spooled()
            return
        # S3 may have a repetition whose upload fails here. Without a new manifest it would stay newer than the old one.
        self._book.reopen_delivery(row.s3_key)
        self.bucket.upload(path, row.s3_key, row.sha256, row.size)
        self._recorder.write(row)
        path.unlink()


class _Incoming:
    """The sink of one object: a file below ``incoming/``.

    Small pieces are gathered, since a call for each costs more than a copy.
    """

    def __init__(self, reception: Reception, request: StoreRequest) -> None:
        self._reception = reception
        self._request = request
        self._hash = hashlib.sha256()
        self._head = b""
        self._size = 0
        self._looked_at = 0
        self._failure = ""
        self._path: Path | None = None
        self._file = -1
        header = make_header(request.sop_class_uid, request.sop_instance_uid, request.transfer_syntax)
        self._gathered = bytearray(header)
        try:
            if reception.disk_is_full:
                self._fail("disk_full")
            else:
                self._path, self._file = reception.spool.open_incoming()
        except OSError as error:
            self._fail_by(error)

    def write(self, piece: memoryview) -> None:
        """Take the next bytes."""
        if self._failure:
            return
        is_large = len(piece) >= BUFFER // 2
        if is_large or len(self._gathered) + len(piece) > BUFFER:
            self._flush(self._gathered)
            self._gathered = bytearray()
        if is_large:
            self._flush(piece)
        else:
            self._gathered += piece

    def _flush(self, content: memoryview | bytearray) -> None:
        if self._failure or not content:
            return
        try:
            written = os.write(self._file, content)
            while written < len(content):  # a disk that is nearly full takes a part
                written += os.write(self._file, memoryview(content)[written:])
        except OSError as error:
            self._fail_by(error)
            return
        self._hash.update(content)
        self._size += written
        if len(self._head) < HEAD:
            self._head += bytes(memoryview(content)[: HEAD - len(self._head)])
        self._check_limits()

    def _check_limits(self) -> None:
        if self._size > self._reception.settings.listen.object_gib * _GIB:
            self._fail("too_large")
        elif self._size - self._looked_at > _LOOK_AT_DISK:
            self._looked_at = self._size
            if self._reception.disk_is_full:
                self._fail("disk_full")

    def finish(self) -> int:
        """Make the object durable; return the status."""
        self._flush(self._gathered)
        if not self._failure and self._reception.needs_reserve:
            self._fail("disk_full")
        if not self._failure:
            try:
                self._secure()
            except OSError as error:
                self._fail_by(error)
            except sqlite3.Error:
                self._fail("book")
        if self._failure:
            return self._refuse()
        metrics, title = self._reception.metrics, self._request.caller.ae_title
        metrics.count("received_objects_total", ae_title=title)
        metrics.count("received_bytes_total", self._size, ae_title=title)
        return SUCCESS

    def _secure(self) -> None:
        assert self._path is not None  # noqa: S101 - without a file there is a failure
        request, sha256 = self._request, self._hash.hexdigest()
        study = find_study_uid(self._path, request.transfer_syntax, self._head)
        place = self._reception.find_place(request, study, sha256)
        if place.study == NO_STUDY:
            _log.warning(
                "association %d: %s sent an object without a StudyInstanceUID; it is kept below %s/",
                request.caller.number,
                request.caller.ae_title,
                NO_STUDY,
            )
        self._reception.secure(self._path, self._file, place, self._make_row(place, sha256, study))
        self._path = None
        self._close()

    def _make_row(self, place: Place, sha256: str, study_instance_uid: str) -> Received:
        settings, request, now = self._reception.settings, self._request, now_text()
        durable = settings.store == "s3"
        return Received(
            s3_key=place.key(self._reception.bucket.uri.key, settings.site),
            sop_instance_uid=request.sop_instance_uid,
            sop_class_uid=request.sop_class_uid,
            transfer_syntax=request.transfer_syntax,
            calling_ae_title=request.caller.ae_title,
            study_key=place.study.replace(NO_STUDY, ""),
            sha256=sha256,
            size=self._size,
            state=State.DURABLE if durable else State.SPOOLED,
            received_at=now,
            durable_at=now if durable else "",
            study_instance_uid=study_instance_uid,
        )

    def _refuse(self) -> int:
        caller = self._request.caller
        self._reception.metrics.count("refused_objects_total", ae_title=caller.ae_title, why=self._failure)
        number, peer, fix = caller.number, caller.ae_title, _find_fix(self._failure)
        _log.error("association %d: an object of %s is refused (%s): %s", number, peer, self._failure, fix)
        self.discard()
        return OUT_OF_RESOURCES

    def discard(self) -> None:
        """Remove the file; it was not acknowledged."""
        self._close()
        if self._path is not None:
            with suppress(OSError):  # the next start empties the folder
                self._path.unlink()
            self._path = None

    def _close(self) -> None:
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _fail(self, why: str) -> None:
        self._failure = why
        self._gathered = bytearray()

    def _fail_by(self, error: OSError) -> None:
        if isinstance(error, UploadError):
            self._fail(f"s3_{error.code}")
        elif isinstance(error, BookError):
            self._fail("book")
        else:
            self._fail(f"disk_{os.strerror(error.errno)}" if error.errno else type(error).__name__)


def _find_fix(failure: str) -> str:
    """Return what the edge's operator does about a refusal; the sender tries again."""
    if failure == "too_large":
        return "raise listen.object_gib if such objects are expected"
    if failure.startswith("s3_"):
        return "see destination, the credentials and the line to S3"
    return "make room on the disk of the state folder, or replace it"
