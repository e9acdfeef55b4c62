"""Rows: a file of FHIR as one row per line or entry, read as a stream, so that memory does not grow with the file."""

from __future__ import annotations

import re
from itertools import chain, islice
from typing import TYPE_CHECKING, Any

from airlock.clinical.bundles import explode, is_bundle
from airlock.clinical.resources import NotJsonError, Row, describe, load, set_aside
from airlock.reasons import Reason
from airlock.storage.lines import UTF8_BOM, split, unpack

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from airlock.pipelines import ClinicalParse
    from airlock.storage.lines import Line

_MIB = 1024**2
_LINES = re.compile(r"\.(ndjson|jsonl)(\.gz)?", re.IGNORECASE)


class FileError(ValueError):
    """A whole file cannot be read, for this reason."""

    def __init__(self, reason: Reason, detail: str | None = None) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.detail = detail


class RowReader:
    """Splits files into rows, one file after the other."""

    def __init__(self, settings: ClinicalParse) -> None:
        self._resource_limit = round(settings.resource_mib * _MIB)
        self._bundle_limit = round(settings.bundle_mib * _MIB)
        self._max_faulty = settings.max_faulty
        self._max_units = settings.max_units
        self._unpacked_mib = settings.unpacked_mib
        self._last = 0

    def read(self, stored: Iterable[bytes], name: str, size: int) -> Iterator[Row]:
        """Yield a row per line or entry of a file, each with its ``line``.

        Parameters
        ----------
        stored
            The file's bytes, gzip or not.
        name
            The file's name, whose ending may say that it has lines.
        size
            Its bytes as stored.

        Raises
        ------
        FileError, BrokenGzipError
            If the file cannot be read as a whole. The rows before do not count.
        """
        self._last = 0
        content = self._limit_bytes(size, unpack(stored))
        yield from self._require_one(self._limit_rows(self._read_rows(content, name)))

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
