"""The StudyInstanceUID of a data set, found in its first bytes."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Final

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from airlock.dicom.errors import DoubtError, HeaderError
from airlock.dicom.header import header_plan
from airlock.dicom.ranged import BlockFile, EndOfObject, NeedBytes
from airlock.dicom.walk import BIG, LITTLE, Walk

if TYPE_CHECKING:
    from pathlib import Path

HEAD: Final = 64 * 1024  # bytes of the file that nearly always have the UID
_META_LENGTH_END: Final = 144  # of the element (0002,0000), whose value counts the group from behind it
_STUDY: Final = 0x0020000D
_KEYWORD: Final = "StudyInstanceUID"
_MOST_READ: Final = 1024 * 1024  # bytes of a file in which the UID is looked for; larger values before it are skipped
_UID = re.compile(r"[0-9.]{1,64}").fullmatch


def find_study_uid(path: Path, transfer_syntax: str, head: bytes = b"") -> str:
    """Return the StudyInstanceUID of a stored file, "" if it has none or cannot be read.

    Parameters
    ----------
    path
        The file, which is read if the first bytes do not have the UID in a plain place.
    transfer_syntax
        Of the data set, as negotiated.
    head
        Its first bytes, if they were kept.
    """
    head = head or _read_head(path)
    start = _META_LENGTH_END + int.from_bytes(head[_META_LENGTH_END - 4 : _META_LENGTH_END], "little")
    raw = None
    if transfer_syntax != DeflatedExplicitVRLittleEndian:
        raw = _walk(head, start, transfer_syntax)
    text = _read_as_airlock(path) if raw is None else raw.rstrip(b"\0 ").decode("ascii", "replace")
    return text if _UID(text) else ""


def _read_head(path: Path) -> bytes:
    with path.open("rb") as file:
        return file.read(HEAD)


def _walk(head: bytes, start: int, transfer_syntax: str) -> bytes | None:
    """Return the value; b"" if the data set does not have it, None if another reader must look."""
    order = BIG if transfer_syntax == ExplicitVRBigEndian else LITTLE
    file = BlockFile(len(head))
    file.add(0, head)
    explicit = transfer_syntax != ImplicitVRLittleEndian
    walk = Walk(file, start, order.wanted(_STUDY), last=_STUDY, order=order, explicit=explicit)
    try:
        walk.run()
    except (DoubtError, HeaderError, EndOfObject, NeedBytes):
        pass
    else:
        return walk.values.get(_STUDY, b"")
    return walk.values.get(_STUDY)


def _read_as_airlock(path: Path) -> str:
    """Return the value as Airlock's own reader finds it, which bounds time and memory on hostile files."""
    plan = header_plan(path.stat().st_size, first_range=HEAD, max_bytes=_MOST_READ)
    try:
        with path.open("rb") as file:
            span = next(plan)
            while True:
                file.seek(span.start)
                span = plan.send(file.read(span.length))
    except StopIteration as end:
        values: dict[str, str] = end.value.values
    except HeaderError as error:
        values = error.values
    return values.get(_KEYWORD, "")
