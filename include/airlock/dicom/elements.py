"""Checks of a data set's structure while pydicom reads it: where elements end, and whether the object holds them.

pydicom takes the end of a file for the end of a data set. ``ElementGuard`` sees every element before its value is read,
so that a value counts as missing only if a later tag was seen, or the object ended at the end of an element.
"""

from __future__ import annotations

import re
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

from pydicom.datadict import dictionary_has_tag
from pydicom.valuerep import EXPLICIT_VR_LENGTH_32, VR

from airlock.dicom.errors import HeaderError
from airlock.dicom.ranged import EndOfObject, NeedBytes
from airlock.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.dicom.ranged import HeaderFile

VALUE_LIMIT = 1 << 16  # bytes; longer values are cut
NESTING_LIMIT = 100  # levels; real files have fewer than twenty, and readers that recurse fail at some hundreds
ELEMENT_LIMIT = 200_000  # elements and items of one data set or sequence; bounds the time, not the size

CHARACTER_SET_LIMIT = 1024  # bytes of SpecificCharacterSet: pydicom looks each of its values up

SPECIFIC_CHARACTER_SET = 0x00080005
DIRECTORY_RECORD_SEQUENCE = 0x00041220
REQUEST_ATTRIBUTES_SEQUENCE = 0x00400275
PROCEDURE_CODE_SEQUENCE = 0x00081032
WANTED_SEQUENCES = frozenset((REQUEST_ATTRIBUTES_SEQUENCE, PROCEDURE_CODE_SEQUENCE))
CODE_TAGS = (0x00080100, 0x00080102, 0x00080104)  # CodeValue, CodingSchemeDesignator, CodeMeaning (PS3.3 section 8.8)
FUNCTIONAL_GROUPS = frozenset((0x52009229, 0x52009230))  # shared ones, and those of each frame
PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))  # Float, Double Float and plain Pixel Data
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD  # in group FFFE
_HEADER = {True: Struct("<HHI").unpack, False: Struct(">HHI").unpack}  # by "little endian"
_LENGTH = {True: Struct("<I").unpack, False: Struct(">I").unpack}
_SHORT_LENGTH = {True: Struct("<H").unpack, False: Struct(">H").unpack}
_LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_VRS = frozenset(vr.encode() for vr in VR)
_STRAY_LIMIT = 1 << 14  # bytes behind a head with a wrong length in which further elements are searched
_STRAY_BEFORE = 1 << 10  # bytes before it: the length of the element before may be the wrong one
_EXPLICIT_HEAD = re.compile(b"(?=.{4}(?:%b))" % b"|".join(sorted(_VRS)), re.DOTALL)
_ANY_HEAD = re.compile(b"(?=.{8})", re.DOTALL)
_ITEM_TAG = {True: b"\xfe\xff\x00\xe0", False: b"\xff\xfe\xe0\x00"}  # by "little endian"


class StoredSequence(NamedTuple):
    """The stored bytes of a sequence, and their encoding."""

    value: bytes
    implicit: bool
    little: bool


def end_of_undefined(file: HeaderFile, position: int, *, implicit: bool, little: bool) -> int:
    """Return the offset behind the delimiter of an element of undefined length (PS3.5 section 7.5).

    Nested elements are passed without recursion and without reading their values.

    Parameters
    ----------
    file
        The object.
    position
        Offset of the element's value.
    implicit, little
        The encoding of the data set. In an explicit one, an element without a VR is taken for an implicit one.

    Raises
    ------
    HeaderError
        If the value is not a sequence of items.
    EndOfObject
        If the object ends before the delimiter, or an element's length leads beyond the object's end.
    """
    in_item = [False]  # the open ones, the outermost first: a sequence (False) or an item of undefined length (True)
    for _ in range(ELEMENT_LIMIT):
        if not in_item:
            return position
        head = file.take(position, position + 8)
        group, element, length = _HEADER[little](head)
        position += 8
        if group == 0xFFFE and element in (_ITEM_END, _SEQUENCE_END):
            in_item.pop()
            continue
        if group != 0xFFFE and not in_item[-1]:
            raise HeaderError(Reason.UNREADABLE, "a sequence holds something other than items")
        if group != 0xFFFE and not implicit:
            position, length = _explicit_length(file, position, head, length, little=little)
        if length == _UNDEFINED:
            in_item.append(group == 0xFFFE)
            if len(in_item) > 2 * NESTING_LIMIT:
                raise HeaderError(Reason.UNREADABLE, f"sequences nested more than {NESTING_LIMIT} levels deep")
            continue
        position += length
    raise HeaderError(Reason.UNREADABLE, f"a sequence has more than {ELEMENT_LIMIT} elements")


def _explicit_length(file: HeaderFile, position: int, head: bytes, length: int, *, little: bool) -> tuple[int, int]:
    """Return where the value of an explicit element starts, and its length (PS3.5 section 7.1.2)."""
    vr = head[4:6]
    if vr in _LONG_VRS:
        return position + 4, _LENGTH[little](file.take(position, position + 4))[0]
    if vr in _VRS or (vr.isalpha() and vr.isupper()):
        return position, _SHORT_LENGTH[little](head[6:8])[0]
    return position, length


def end_if_here(file: HeaderFile, tag: int, position: int, *, implicit: bool, little: bool) -> int | None:
    """Return the offset behind an element of undefined length as ``end_of_undefined``, None if more bytes are needed.

    Functional groups are not followed beyond the fetched bytes: they have thousands of elements, and only pixels follow
    them.

    Raises
    ------
    HeaderError, EndOfObject
        As ``end_of_undefined``.
    """
    if tag in FUNCTIONAL_GROUPS and not file.holds(position, file.size):
        return None
    try:
        return end_of_undefined(file, position, implicit=implicit, little=little)
    except NeedBytes:
        return None


class Stray(NamedTuple):
    """The bytes in which to search for whole elements behind one whose length leads beyond the object's end.

    A cut object ends within a value. In a whole object with a wrong length other elements follow, with ascending tags,
    up to the pixels or exactly to the object's end.

    Attributes
    ----------
    window
        The bytes to search.
    left
        The number of bytes of the object from the window's start on.
    behind
        A tag that is smaller than the tags of such elements.
    implicit, little
        The encoding of the data set.
    to_pixels
        Whether only the pixels count as an end: the elements in a sequence that was cut may end with the object.
    """

    window: bytes
    left: int
    behind: int
    implicit: bool
    little: bool
    to_pixels: bool

    def leads_to_the_end(self) -> bool:
        """Return whether the window has elements that lead to the pixels or to the object's end."""
        heads = _ANY_HEAD if self.implicit else _EXPLICIT_HEAD
        return any(self._leads_from(head.start()) for head in heads.finditer(self.window))

    def _leads_from(self, at: int) -> bool:
        behind = self.behind
        while at + 12 <= len(self.window):
            tag, start, length = self._head(at)
            if tag <= behind or tag >> 16 == 0xFFFE or start is None:
                return False
            if tag in PIXELS:
                return length == _UNDEFINED or (start + length <= self.left and not self._is_item(start + length))
            at, behind = start + length, tag
        return at == self.left and not self.to_pixels

    def _is_item(self, at: int) -> bool:
        """Return whether an item starts or ends here: then the pixels before it are those of an icon."""
        return self.window.startswith(_ITEM_TAG[self.little][:2], at)

    def _head(self, at: int) -> tuple[int, int | None, int]:
        """Return an element's tag, the offset of its value (None if its head is not valid) and its length."""
        head = self.window[at : at + 8]
        group, element, length = _HEADER[self.little](head)
        tag = group << 16 | element
        if self.implicit:  # without a VR, any bytes may look like a head
            return tag, at + 8 if dictionary_has_tag(tag) else None, length
        if head[4:6] in _LONG_VRS:
            return tag, at + 12, _LENGTH[self.little](self.window[at + 8 : at + 12])[0]
        return tag, at + 8 if head[4:6] in _VRS else None, _SHORT_LENGTH[self.little](head[6:8])[0]


class ElementGuard:
    """The ``stop_when`` of a pydicom reader: stops behind the last wanted tag, and judges the end of the data set.

    Behind that tag the reader continues over the element heads that are fetched already, up to the pixels. So a length
    beyond the object's end reveals a cut file without another request, and a wanted value out of order is found.

    Parameters
    ----------
    file
        The file that the reader reads.
    wanted
        The tags whose values will be read.

    Attributes
    ----------
    passed
        Whether a tag behind the last wanted one was seen.
    cut
        Whether an element's length leads beyond the object's end.
    stray
        Whether whole elements follow such an element: then the object is whole and the length wrong.
    end
        Offset behind the last element that was seen whole; None before the first.
    sequences
        Those of `WANTED_SEQUENCES`, by tag. pydicom does not read them, nor any other sequence of undefined length.
    """

    def __init__(self, file: HeaderFile, wanted: frozenset[int]) -> None:
        self.file = file
        self.passed = self.cut = self.stray = False
        self.end: int | None = None
        self._whole = (0, 0)  # tag and offset of the value of the last element that was seen whole
        self._pixels = self._padding = False  # whether they were seen
        self.sequences: dict[int, StoredSequence] = {}
        self._wanted = wanted
        self._last = max(wanted)
        self._stopped = False
        self._seen = 0

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        """Return whether the reader stops before this element; the file's position is its value."""
        self._seen += 1
        self._stopped = self._stops(tag, vr, length)
        return self._stopped

    def verdict(self) -> HeaderError | None:
        """Return the error at the end of the data set, None if it ends well; call it when the reader has ended."""
        if self.cut:
            beyond = HeaderError(Reason.TRUNCATED, "an element goes beyond the end of the object")
            return _make_stray_error() if self.stray else beyond
        if self.end is None:
            return HeaderError(Reason.TRUNCATED, "the object ends before its data set")
        if self._stopped:
            return None
        left = self.file.size - self.end
        if left >= 8 and not self.passed:
            return HeaderError(Reason.UNREADABLE, "an item ends outside a sequence")
        # Zeros behind the last element are padding. Before the last wanted tag they may be a part of an element.
        if 0 < left < 8 and not (self.passed and not any(self.file.take(self.end, self.file.size))):
            return HeaderError(Reason.TRUNCATED, "the object ends inside an element")
        return None

    @property
    def ends_without_pixels(self) -> bool:
        """Whether the reader came to the end of the data set and found no pixels."""
        at_end = not self._stopped or self._padding or self.end == self.file.size
        return at_end and not self._pixels and not self.cut

    def _stops(self, tag: int, vr: str | None, length: int) -> bool:
        self._refuse(tag, length)
        if tag == length == 0:
            self._padding = True
            return True
        start = self.file.tell()
        self.passed |= tag > self._last
        self._pixels |= tag in PIXELS
        if length == _UNDEFINED:
            return self._stops_at_undefined(tag, vr, start)
        if start + length > self.file.size:
            self.cut = True
            self.stray = tag not in PIXELS and self._others_follow(tag, vr, start)
            return True
        self.end = end = start + length
        self._whole = (tag, start)
        if tag in WANTED_SEQUENCES:
            self._keep_sequence(tag, start, end, vr)
        next_header = min(end + 12, self.file.size)
        return self.passed and (tag in PIXELS or not self.file.holds(start, next_header))

    def _refuse(self, tag: int, length: int) -> None:
        """Raise a HeaderError if this element cannot be in a data set of an instance."""
        if self._seen > ELEMENT_LIMIT:
            raise HeaderError(Reason.UNREADABLE, f"more than {ELEMENT_LIMIT} elements")
        if tag == DIRECTORY_RECORD_SEQUENCE:
            raise HeaderError(Reason.DICOMDIR)
        if tag >> 16 == 0xFFFE:
            raise HeaderError(Reason.UNREADABLE, "an item outside a sequence")
        if tag == length == 0 and not self.passed:
            raise HeaderError(Reason.UNREADABLE, "zeros where an element should be")
        if tag == SPECIFIC_CHARACTER_SET and length > CHARACTER_SET_LIMIT:
            raise HeaderError(Reason.UNREADABLE, f"SpecificCharacterSet has more than {CHARACTER_SET_LIMIT} bytes")

    def _stops_at_undefined(self, tag: int, vr: str | None, start: int) -> bool:
        if self.passed:
            return self._stops_behind(tag, vr, start)
        if tag in self._wanted:
            raise HeaderError(Reason.UNREADABLE, "a text element of undefined length")
        little = self._is_little(tag, vr, start)
        try:
            self.end = end = end_of_undefined(self.file, start, implicit=vr is None, little=little)
        except EndOfObject:
            if self._others_follow(tag, vr, start):
                raise _make_stray_error() from None
            raise
        if tag in WANTED_SEQUENCES:
            self._keep_sequence(tag, start, end, vr)
        self.file.seek(end - 8)  # the reader finds the delimiter next, as if the sequence were empty
        return False

    def _others_follow(self, tag: int, vr: str | None, start: int) -> bool:
        """Return whether whole elements follow one whose length, or that of the one before, leads beyond the object."""
        behind, first = self._whole
        first = max(first, start - _STRAY_BEFORE)
        little = self._is_little(tag, vr, start)
        window = self.file.take(first, min(self.file.size, start + _STRAY_LIMIT))
        in_items = window[start - first :].startswith(_ITEM_TAG[little])
        left = self.file.size - first
        # pydicom takes an element without a VR for an implicit one; a wrong length can lead to such bytes too.
        ways = {vr is None, False}
        return any(Stray(window, left, behind, implicit, little, in_items).leads_to_the_end() for implicit in ways)

    def _stops_behind(self, tag: int, vr: str | None, start: int) -> bool:
        """Follow pixel fragments or items over the fetched bytes; return False if they end there."""
        self.end = start
        try:
            end = end_if_here(self.file, tag, start, implicit=vr is None, little=self._is_little(tag, vr, start))
        except EndOfObject:
            self.cut = True
            return True
        except HeaderError:  # behind the last wanted value, so no reason against the file
            return True
        if end is not None and tag in WANTED_SEQUENCES:
            self._keep_sequence(tag, start, end, vr)
        if end is None or tag in PIXELS or not self.file.holds(end - 8, min(end + 12, self.file.size)):
            return True
        self.end = end
        self.file.seek(end - 8)
        return False

    def _keep_sequence(self, tag: int, start: int, end: int, vr: str | None) -> None:
        if end - start <= VALUE_LIMIT:
            little = self._is_little(tag, vr, start)
            self.sequences[tag] = StoredSequence(self.file.take(start, end), vr is None, little)
        elif tag == REQUEST_ATTRIBUTES_SEQUENCE:
            raise HeaderError(Reason.UNREADABLE, f"RequestAttributesSequence has more than {VALUE_LIMIT} bytes")

    def _is_little(self, tag: int, vr: str | None, start: int) -> bool:
        header = start - (12 if vr in EXPLICIT_VR_LENGTH_32 else 8)
        return int.from_bytes(self.file.take(header, header + 2), "little") == tag >> 16


def _make_stray_error() -> HeaderError:
    return HeaderError(Reason.UNREADABLE, "an element declares more bytes than the object holds, and others follow it")


def join_code(item: Mapping[int, bytes]) -> bytes:
    """Return the values of `CODE_TAGS` in an item without padding, joined by a backslash, which none may hold."""
    return b"\\".join(item.get(tag, b"").rstrip(b"\0 ") for tag in CODE_TAGS)
