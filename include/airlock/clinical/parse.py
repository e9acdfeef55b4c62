"""Parse: split every file of a shard into resources, as a stream, so that memory does not grow with the file.

Writes ``resources/<shard>/<chunk>`` as the files are read, ``files/<shard>`` with one row per arrival, and last
``resources/<shard>/index.json``, which makes the chunks count. A fault of one line or entry is the reason in its row; a
fault of a whole file is the file's reason; a fault of S3 ends the task, which can be retried.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.bundles import explode, is_bundle
from airlock.clinical.records import RESOURCES
from airlock.clinical.resources import NotJsonError, Row, describe, load, set_aside
from airlock.reasons import Reason
from airlock.records import ARRIVALS
from airlock.stages.resources import FILES, name_chunks_index
from airlock.stages.sidecars import sidecar_pattern
from airlock.storage.lines import UTF8_BOM, BrokenGzipError, split, unpack
from airlock.storage.refusals import refusal_of
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator

    from airlock.pipelines import ClinicalParse, ClinicalPipeline, Pipeline
    from airlock.run import Run
    from airlock.storage.lines import Line

    Progress = Callable[[int, int, int], None]

_MIB = 1024**2
_LINES = re.compile(r"\.(ndjson|jsonl)(\.gz)?", re.IGNORECASE)
_NOTHING = (Reason.NOT_FHIR, Reason.EMPTY_OBJECT)


class FileError(ValueError):
    """A whole file cannot be read, for this reason."""

    def __init__(self, reason: Reason, detail: str | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.detail = detail


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
        self._resource_limit = round(settings.resource_mib * _MIB)
        self._bundle_limit = round(settings.bundle_mib * _MIB)
        self._max_faulty = settings.max_faulty
        self._max_units = settings.max_units
        self._unpacked_mib = settings.unpacked_mib
        self._sidecar = sidecar_pattern(settings.sidecars)

    def read(self, arrival: dict[str, Any]) -> Row:
        """Read one file; return its row of the files dataset."""
        before, name = self._chunks.units, arrival["key"].rpartition("/")[2]
        stored = _CountedStream(self._run.s3.stream(S3Uri(arrival["bucket"], arrival["key"]), arrival["etag"]))
        reason, detail = None, None
        self._last = 0
        try:
            content = self._limit_bytes(arrival["size"], unpack(stored))
            for row in self._require_one(self._limit_rows(self._read_rows(content, name))):
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

    def _limit_bytes(self, size: int, content: Iterator[bytes]) -> Iterator[bytes]:
        """Yield the content up to the limit of a file: 20 KB of gzip may unpack to gigabytes."""
        most, taken = round(self._unpacked_mib * _MIB), 0
        for piece in chain([b""], content):
            taken += len(piece)
            if max(taken, size) > most:
                raise FileError(
                    Reason.FILE_TOO_LARGE, f"more than {self._unpacked_mib:g} MiB unpacked, see parse.unpacked_mib"
                )
            yield piece

    def _limit_rows(self, rows: Iterator[Row]) -> Iterator[Row]:
        """Yield the rows up to the limits. A file of almost nothing but faults is not FHIR; each fault costs a row."""
        faulty = 0
        for number, row in enumerate(rows, 1):
            if number > self._max_units:
                raise FileError(
                    Reason.FILE_TOO_LARGE, f"more than {self._max_units} lines or entries, see parse.max_units"
                )
            faulty += row.get("reason") is not None
            if faulty > self._max_faulty:
                raise FileError(
                    Reason.NOT_FHIR, f"more than {self._max_faulty} of its lines or entries are not resources"
                )
            yield row

    @staticmethod
    def _require_one(rows: Iterator[Row]) -> Iterator[Row]:
        """Yield the rows; refuse a file without any."""
        first = next(rows, None)
        if first is None:
            raise FileError(Reason.EMPTY_OBJECT)
        yield from chain([first], rows)

    def _read_rows(self, content: Iterator[bytes], name: str) -> Iterator[Row]:
        """Yield the rows of lines or of one document. In lines, the first that is not blank is complete JSON."""
        head = b""
        for piece in content:
            head += piece
            if b"\n" in head.lstrip() or len(head) > self._resource_limit:
                break
        first = head.removeprefix(UTF8_BOM).lstrip().partition(b"\n")[0].strip()
        by_name, names = bool(_LINES.search(name)), _read_names(first) if len(first) <= self._resource_limit else ()
        if "resourceType" in names or (by_name and first not in {b"{", b"["}):
            yield from self._read_lines(chain([head], content))
        else:
            yield from self._read_document(head, content, by_name or bool(names))

    def _read_document(self, head: bytes, content: Iterator[bytes], may_be_lines: bool) -> Iterator[Row]:
        """Yield the rows of a file that is one JSON text, or of its lines if it is not and looks like lines."""
        body = bytearray()
        for piece in chain([head], content):
            body += piece
            if len(body) > self._bundle_limit:
                if may_be_lines:
                    yield from self._read_lines(chain([bytes(body)], content))
                    return
                raise FileError(Reason.FILE_TOO_LARGE, "as one JSON text it is larger than parse.bundle_mib")
        try:
            document = load(bytes(body).removeprefix(UTF8_BOM))
        except NotJsonError as error:
            if not may_be_lines:
                raise FileError(Reason.NOT_FHIR if body.strip() else Reason.EMPTY_OBJECT, str(error)) from None
            yield from self._read_lines([bytes(body)])
            return
        if not isinstance(document, dict) or "resourceType" not in document:
            raise FileError(Reason.NOT_FHIR, "JSON without a resourceType")
        yield from self._read_text(1, bytes(body).removeprefix(UTF8_BOM).strip(), document)

    def _read_lines(self, content: Iterable[bytes]) -> Iterator[Row]:
        """Yield the rows of lines. They hold Bundles if the readable ones of the first two lines are Bundles."""
        lines = _load_lines(split(content, self._resource_limit))
        opening = list(islice(lines, 2))
        objects = [loaded for _, loaded, _ in opening if isinstance(loaded, dict)]
        bundles = bool(objects) and all(map(is_bundle, objects))
        for line, loaded, fault in chain(opening, lines):
            if fault is not None:
                yield self._number_row(line.number, fault)
            elif isinstance(loaded, dict) and is_bundle(loaded) != bundles:
                yield self._number_row(line.number, set_aside(Reason.MIXED_FILE))
            else:
                yield from self._read_text(line.number, line.text or b"", loaded)

    def _read_text(self, number: int, text: bytes, content: Any) -> Iterator[Row]:
        """Yield the rows of one JSON text; the entries of all Bundles in a file are numbered on."""
        if is_bundle(content):
            for row in explode(content, self._resource_limit):
                yield self._number_row(self._last + 1, row)
        elif len(text) > self._resource_limit:
            yield self._number_row(number, set_aside(Reason.RESOURCE_TOO_LARGE, f"{len(text)} bytes"))
        else:
            yield self._number_row(number, describe(content, text.decode()))

    def _number_row(self, number: int, row: Row) -> Row:
        """Return a row with its line number, which no other row of the file has."""
        self._last = max(number, self._last + 1)
        return row | {"line": self._last}


def _load_lines(lines: Iterable[Line]) -> Iterator[tuple[Line, Any, Row | None]]:
    """Yield each line with its content, or with the row of its fault."""
    for line in lines:
        if line.text is None:
            yield line, None, set_aside(Reason.RESOURCE_TOO_LARGE, f"{line.size} bytes")
            continue
        try:
            yield line, load(line.text), None
        except NotJsonError as error:
            yield line, None, set_aside(Reason.NOT_JSON, str(error))


def _read_names(text: bytes) -> Collection[str]:
    """Return the names in a JSON object; none for any other text."""
    try:
        content = load(text)
    except NotJsonError:
        return ()
    return content.keys() if isinstance(content, dict) else ()
