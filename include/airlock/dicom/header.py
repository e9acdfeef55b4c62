"""The wanted attributes of one DICOM object, read from as few of its bytes as possible.

``header_plan`` does no I/O: it yields the byte range that it needs next, is sent the bytes and returns the header. So
it serves asyncio, threads, local files and tests. The scanner reads plain headers; pydicom, checked by an
``ElementGuard``, reads those that the scanner doubts.
"""

from __future__ import annotations

import logging
import warnings
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, BinaryIO, cast

from pydicom.dataelem import RawDataElement
from pydicom.filereader import read_dataset, read_partial
from pydicom.multival import MultiValue
from pydicom.uid import DeflatedExplicitVRLittleEndian, MediaStorageDirectoryStorage
from pydicom.values import convert_SQ

from airlock.dicom import magic
from airlock.dicom.elements import (
    CODE_TAGS,
    PROCEDURE_CODE_SEQUENCE,
    REQUEST_ATTRIBUTES_SEQUENCE,
    VALUE_LIMIT,
    ElementGuard,
    join_code,
)
from airlock.dicom.errors import Doubt, HeaderError
from airlock.dicom.ranged import (
    INFLATE_LIMIT,
    BlockFile,
    EndOfObject,
    InflatedFile,
    NeedBytes,
    Range,
    WholeRestWanted,
)
from airlock.dicom.scanner import GOVERNED, NAMES, TAGS, Scanner
from airlock.dicom.text import decode, decode_default, strip
from airlock.reasons import Reason
from airlock.records import CLASSIFYING, PROCEDURE_CODES

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator, Sequence

    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

    from airlock.dicom.elements import StoredSequence
    from airlock.dicom.ranged import HeaderFile

KIB = 1 << 10
MIB = 1 << 20
_GROWTH = 4  # factor between the sizes of an object's second and third range, and of all further ones

_TRANSFER_SYNTAX = "TransferSyntaxUID"  # in the file meta group, all others in the data set
_REQUESTED_PROCEDURE = "RequestedProcedureID"
_WANTED = frozenset(tag for keyword, tag in TAGS.items() if keyword not in {_TRANSFER_SYNTAX, PROCEDURE_CODES})


@dataclass(frozen=True)
class Header:
    """The wanted attributes of one object.

    Attributes
    ----------
    values
        Texts by keyword: decoded, without padding, several values joined by a backslash. An absent element is missing,
        an empty one is "".
    undecodable
        Keywords of values whose bytes do not fit the declared character set, but for `records.CLASSIFYING`.
    doubt
        The doubt for which the scanner left the header to pydicom; None if the scanner read it.
    ends_without_pixels
        Whether the object is known to end before any pixels.
    reach
        Offset behind the ranges that were parsed; 0 if the first one did.
    """

    values: dict[str, str]
    undecodable: tuple[str, ...] = ()
    doubt: Doubt | None = None
    ends_without_pixels: bool = False
    reach: int = field(default=0, compare=False)


def header_plan(
    size: int, *, first_range: int = 16 * KIB, prefetch: int = 0, max_bytes: int = 16 * MIB
) -> Generator[Range, bytes, Header]:
    """Plan the reads of one object: yield the next range, be sent its bytes, return the header.

    Large values that are not wanted are skipped. With each further range, which few objects need, the scanner continues
    where it stopped, and pydicom parses all fetched bytes again. Prefetched bytes save requests and change nothing
    else: of them, only the ranges that would be asked for without them are parsed.

    Parameters
    ----------
    size
        Of the object, in bytes.
    first_range
        Bytes to parse first.
    prefetch
        Bytes to ask for first, if they are more.
    max_bytes
        Bytes to parse of the object at most.

    Raises
    ------
    HeaderError
        If the object is not a DICOM file, is damaged, or its header is longer than *max_bytes*.
    """
    if size == 0:
        raise HeaderError(Reason.EMPTY_OBJECT)
    file = BlockFile(size)
    scanner = Scanner(file)
    span = Range(0, min(size, first_range))
    step, left, reach = first_range, max_bytes, 0
    fetched = yield Range(0, min(size, max(first_range, prefetch)))
    while True:
        file.add(span.start, fetched[span.start : span.end] if span.end <= len(fetched) else (yield span))
        left -= span.length
        try:
            header = _parse_as_found(file, scanner)
            return replace(header, reach=reach) if reach else header
        except NeedBytes as need:
            following = _next_range(file, need.span, step, left)
            if following is None:
                raise HeaderError(Reason.HEADER_TOO_LONG, "", scanner.uids_so_far()) from None
            span, reach = following, max(reach, following.end)
            step *= _GROWTH


def _next_range(file: BlockFile, needed: Range, step: int, left: int) -> Range | None:
    """Return the next range to read; None if it has more bytes than are left to read."""
    start = file.here_from(needed.start)
    if needed.end - start > left:
        return None
    return Range(start, min(max(needed.end, start + step), start + left, file.size))


def _parse_as_found(file: BlockFile, scanner: Scanner) -> Header:
    """Return the header from the fetched bytes.

    Raises
    ------
    HeaderError
        If the object is not a Part 10 file; the reason names what it seems to be.
    """
    first = file.take(0, min(file.size, KIB))
    if magic.is_part10(first):
        return _scan_or_parse(file, scanner)
    if magic.is_gzip(first):
        raise HeaderError(Reason.GZIP_ENCODED, "gzip stream")
    if not (magic.looks_like_data_set(first, file.size) or first.startswith(magic.PREFIX)):
        if magic.begins_like_dicom(first):
            raise HeaderError(Reason.UNREADABLE, "its first element is damaged")
        raise HeaderError(Reason.NOT_DICOM, magic.name_content(first))
    error = HeaderError(Reason.NO_PREAMBLE, "", _values_without_preamble(file))
    error.doubt = Doubt.NO_PREAMBLE
    raise error


def _scan_or_parse(file: BlockFile, scanner: Scanner) -> Header:
    """Return the header read by the scanner, or by pydicom once the scanner has a doubt."""
    values = None if scanner.doubt else scanner.values()
    if values is not None:
        return Header(values, ends_without_pixels=scanner.ends_without_pixels)
    try:
        return replace(parse(file), doubt=scanner.doubt)
    except HeaderError as error:
        error.doubt = scanner.doubt
        error.values = scanner.uids_so_far() | error.values
        raise


def _values_without_preamble(file: BlockFile) -> dict[str, str]:
    """Return the values that can be read without a preamble; they name the study that misses the file."""
    try:
        return parse(file).values
    except HeaderError as error:
        return error.values


def parse(file: BlockFile) -> Header:
    """Return the header read by pydicom; every error of pydicom becomes a reason.

    Raises
    ------
    NeedBytes
        If the bytes that it needs next are not fetched yet.
    HeaderError
        If the header cannot be read.
    """
    file.rewind()
    try:
        return _read(file)
    except (HeaderError, NeedBytes):
        raise
    except EndOfObject:
        raise HeaderError(Reason.TRUNCATED, "the object ends inside an element") from None
    except Exception as error:  # noqa: BLE001  (pydicom raises almost any class on a hostile file; it becomes a reason)
        if file.short:
            raise HeaderError(Reason.TRUNCATED, "the object ends inside an element") from None
        raise HeaderError(Reason.UNREADABLE, _name_of(error)) from None


def _name_of(error: BaseException) -> str:
    """Return the class of an error; its text may hold values of the header."""
    cause: BaseException | None = error
    while cause is not None:  # pydicom wraps the original error into OSError
        if isinstance(cause, RecursionError):
            return "RecursionError"
        cause = cause.__context__
    return type(error).__name__


def _read(file: BlockFile) -> Header:
    guard = ElementGuard(file, _WANTED)
    tags: list[int] = sorted(_WANTED)
    try:
        dataset: Dataset = read_partial(
            cast("BinaryIO", file), stop_when=guard, defer_size=VALUE_LIMIT, force=True, specific_tags=list(tags)
        )
        meta = dataset.file_meta
        syntax = _as_text(meta.get(_TRANSFER_SYNTAX)) if _TRANSFER_SYNTAX in meta else None
        if meta.get("MediaStorageSOPClassUID") == MediaStorageDirectoryStorage:
            raise HeaderError(Reason.DICOMDIR)
    except WholeRestWanted as deflated:
        inflated = InflatedFile(file, deflated.offset, limit=INFLATE_LIMIT)
        guard = ElementGuard(inflated, _WANTED)
        dataset = read_dataset(
            cast("BinaryIO", inflated), False, True, stop_when=guard, defer_size=VALUE_LIMIT, specific_tags=list(tags)
        )
        syntax = str(DeflatedExplicitVRLittleEndian)
    return _header(dataset, guard, syntax)


def _header(dataset: Dataset, guard: ElementGuard, syntax: str | None) -> Header:
    complaint = guard.verdict()
    if complaint and guard.end is None:
        raise complaint
    guard.file.short = False  # the data set has ended well: a later error in a value does not mean a cut file
    values = {} if syntax is None else {_TRANSFER_SYNTAX: syntax}
    undecodable: list[str] = []
    encodings = _encodings(dataset)
    for keyword, raw in dict(_raw_values(dataset, guard, encodings)).items():
        values[keyword], fits = decode(raw, encodings) if keyword in GOVERNED else (decode_default(raw), True)
        if not fits and keyword not in CLASSIFYING:  # what only describes stops no file
            undecodable.append(keyword)
    for keyword in NAMES & values.keys():
        values[keyword] = values[keyword].rstrip("=")  # component groups that are empty (PS3.5 section 6.2)
    if complaint:
        complaint.values = values
        raise complaint
    return Header(values, tuple(undecodable), ends_without_pixels=guard.ends_without_pixels)


def _encodings(dataset: Dataset) -> list[str]:
    encodings: str | Sequence[str] = dataset.original_character_set
    return [encodings] if isinstance(encodings, str) else list(encodings)


def _raw_values(dataset: Dataset, guard: ElementGuard, encodings: list[str]) -> Iterator[tuple[str, bytes]]:
    """Yield keywords and values; if a keyword comes twice, the second value counts."""
    for keyword, tag in TAGS.items():
        if tag in dataset:
            yield keyword, _raw_value(dataset.get_item(tag, keep_deferred=True), guard.file)
    nested = _nested_procedure(guard.sequences.get(REQUEST_ATTRIBUTES_SEQUENCE), encodings)
    if nested is not None:
        yield _REQUESTED_PROCEDURE, nested
    code = _nested_code(guard.sequences.get(PROCEDURE_CODE_SEQUENCE), encodings)
    if code is not None:
        yield PROCEDURE_CODES, code


def _raw_value(element: DataElement | RawDataElement, file: HeaderFile) -> bytes:
    if not isinstance(element, RawDataElement):  # pydicom has read SpecificCharacterSet itself
        return _as_text(element.value).encode("latin-1")
    if element.length > VALUE_LIMIT:
        return file.take(element.value_tell, element.value_tell + VALUE_LIMIT)
    return element.value or b""


def _nested_procedure(found: StoredSequence | None, encodings: list[str]) -> bytes | None:
    """Return RequestedProcedureID of the first request that has one: images have it there (PS3.3 section 10.6)."""
    if found is None:
        return None
    for item in convert_SQ(found.value, found.implicit, found.little, encodings):
        if TAGS[_REQUESTED_PROCEDURE] in item:
            return item.get_item(TAGS[_REQUESTED_PROCEDURE]).value or b""
    return None


def _nested_code(found: StoredSequence | None, encodings: list[str]) -> bytes | None:
    """Return the first code of a sequence; None without one. A sequence that cannot be read costs nothing else."""
    if found is None:
        return None
    try:
        for item in convert_SQ(found.value, found.implicit, found.little, encodings):
            code = {tag: item.get_item(tag).value or b"" for tag in CODE_TAGS if tag in item}
            if code:
                return join_code(code)
    except Exception:  # noqa: BLE001  (pydicom raises almost any class on a hostile value)
        return None
    return None


def _as_text(value: object) -> str:
    several: Sequence[object] = value if isinstance(value, MultiValue) else [value]
    return strip("\\".join("" if each is None else str(each) for each in several))[:VALUE_LIMIT]


@contextmanager
def quiet_pydicom() -> Iterator[None]:
    """Silence pydicom's warnings and log within the block: their messages hold values of the header."""
    logger = logging.getLogger("pydicom")
    level = logger.level
    logger.setLevel(logging.CRITICAL + 1)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", module=r"pydicom(\.|$)")
            yield
    finally:
        logger.setLevel(level)
