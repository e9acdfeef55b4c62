"""Parse: split every file of a shard into resources, as a stream, so that memory does not grow with the file.

Writes ``resources/<shard>/<chunk>`` as the files are read, ``files/<shard>`` with one row per arrival, and last
``resources/<shard>/index.json``, which makes the chunks count. A fault of one line or entry is the reason in its row; a
fault of a whole file is the file's reason; a fault of S3 ends the task, which can be retried.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.records import RESOURCES
from airlock.clinical.rows import FileError, RowReader
from airlock.reasons import Reason
from airlock.records import ARRIVALS
from airlock.stages.resources import FILES, name_chunks_index
from airlock.stages.sidecars import sidecar_pattern
from airlock.storage.lines import BrokenGzipError
from airlock.storage.refusals import refusal_of
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.clinical.resources import Row
    from airlock.pipelines import ClinicalParse, ClinicalPipeline, Pipeline
    from airlock.run import Run

    Progress = Callable[[int, int, int], None]

_MIB = 1024**2
_NOTHING = (Reason.NOT_FHIR, Reason.EMPTY_OBJECT)


def parse(run: Run[ClinicalPipeline], shard: str, progress: Progress | None = None) -> dict[str, int]:
    """Read the files of one shard and return counts.

    Parameters
    ----------
    run
        The run; its dataset ``arrivals/<shard>`` says which files.
    shard
        The shard's name, from buffer.
    progress
        Called after each file with the files done, all files, and the units found.

    Returns
    -------
    dict
        Counts of ``arrivals``, ``unread`` files, ``units`` and ``bytes_read``.

    Raises
    ------
    S3Error
        If S3 cannot be read at all.
    """
    arrivals = run.workspace.read(f"arrivals/{shard}", ARRIVALS)
    chunks = _Chunks(run, shard)
    reader = _Reader(run, chunks, run.pipeline.parse)
    files: list[Row] = []
    for arrival in arrivals.iter_rows(named=True):
        files.append(reader.read(arrival))
        if progress:
            progress(len(files), arrivals.height, chunks.units)
    frame = pl.DataFrame(files, schema=FILES)
    run.workspace.write(f"files/{shard}", FILES, frame)
    chunks.close()
    return {
        "arrivals": frame.height,
        "unread": int(frame["reason"].is_not_null().sum()),
        "units": chunks.units,
        "bytes_read": int(frame["bytes_read"].sum()),
    }


def read_chunks(run: Run[Pipeline], shards: Iterable[str]) -> list[str]:
    """Return the names of the shards' resources datasets in order; a shard that was not parsed has none."""
    names: list[str] = []
    for shard in shards:
        try:
            index = json.loads(run.s3.get(run.workspace.root.join(name_chunks_index(shard))))
        except FileNotFoundError:
            continue
        names += [f"resources/{shard}/{chunk}" for chunk in index["chunks"]]
    return names


@dataclass
class _Chunks:
    """The rows of a shard, written in chunks of parse.chunk_mib."""

    run: Run[ClinicalPipeline]
    shard: str
    units: int = 0
    _names: list[str] = field(default_factory=list)
    _rows: list[Row] = field(default_factory=list)
    _size: int = 0

    def add(self, row: Row) -> None:
        self._rows.append(row)
        self._size += row.get("size") or 0
        self.units += 1
        # Rows without a body need memory too.
        if self._size + 200 * len(self._rows) > self.run.pipeline.parse.chunk_mib * _MIB:
            self._write()

    def close(self) -> None:
        if self._rows:
            self._write()
        self.run.workspace.write_json(name_chunks_index(self.shard), {"chunks": self._names})

    def _write(self) -> None:
        name = f"{len(self._names):05}"
        frame = pl.DataFrame(self._rows, schema=RESOURCES)
        self.run.workspace.write(f"resources/{self.shard}/{name}", RESOURCES, frame)
        self._names.append(name)
        self._rows, self._size = [], 0


class _CountedStream:
    """A stream that counts its bytes."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = pieces
        self.bytes = 0

    def __iter__(self) -> Iterator[bytes]:
        for piece in self._pieces:
            self.bytes += len(piece)
            yield piece


class _Reader:
    """Splits files into rows, one file after the other."""

    def __init__(self, run: Run[ClinicalPipeline], chunks: _Chunks, settings: ClinicalParse) -> None:
        self._run = run
        self._chunks = chunks
        self._rows = RowReader(settings)
        self._sidecar = sidecar_pattern(settings.sidecars)

    def read(self, arrival: dict[str, Any]) -> Row:
        """Read one file; return its row of the files dataset."""
        before, name = self._chunks.units, arrival["key"].rpartition("/")[2]
        stored = _CountedStream(self._run.s3.stream(S3Uri(arrival["bucket"], arrival["key"]), arrival["etag"]))
        reason, detail = None, None
        try:
            for row in self._rows.read(stored, name, arrival["size"]):
                self._chunks.add(row | {"arrival_id": arrival["arrival_id"]})
        except FileError as error:
            sidecar = error.reason in _NOTHING and self._sidecar.fullmatch(name.lower())
            reason, detail = Reason.SIDECAR if sidecar else error.reason, error.detail
        except BrokenGzipError as error:
            reason, detail = Reason.TRUNCATED, str(error)
        except S3Error as error:
            reason, detail = refusal_of(error)
        except Exception as error:  # noqa: BLE001  (nothing about one file ends the task)
            reason, detail = Reason.UNREADABLE, type(error).__name__
        return {
            "arrival_id": arrival["arrival_id"],
            "reason": None if reason is None else str(reason),
            "detail": detail,
            # Validate leaves out the rows of a file that is too large: the file is one unit.
            "units": 0 if reason is Reason.FILE_TOO_LARGE else self._chunks.units - before,
            "bytes_read": stored.bytes,
        }
