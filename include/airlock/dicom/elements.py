"""The structure of a data set, watched while pydicom reads it: where elements end, and whether the object holds them.

pydicom takes the end of a file for the end of a data set. ``ElementGuard`` is given every element before its value is
read, so that a value is called missing only where a tag behind it was seen, or the object ended at an element's end.
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
    from airlock.dicom.ranged import HeaderFile

VALUE_LIMIT = 1 << 16  # bytes kept of one value
NESTING_LIMIT = 100  # levels; real files have fewer than twenty, and readers that recurse fail at some hundreds
ELEMENT_LIMIT = 200_000  # elements and items walked over in one data set or sequence; bounds the time, not the size

CHARACTER_SET_LIMIT = 1024  # bytes of SpecificCharacterSet, each of whose values is looked up

SPECIFIC_CHARACTER_SET = 0x00080005
DIRECTORY_RECORD_SEQUENCE = 0x00041220
REQUEST_ATTRIBUTES_SEQUENCE = 0x00400275
FUNCTIONAL_GROUPS = frozenset((0x52009229, 0x52009230))  # shared ones, and those of each frame
PIXELS = frozenset((0x7FE00008, 0x7FE00009, 0x7FE00010))  # Float, Double Float and plain Pixel Data
_UNDEFINED = 0xFFFFFFFF
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD  # in group FFFE
_HEADER = {True: Struct("<HHI").unpack, False: Struct(">HHI").unpack}  # by "little endian"
_LENGTH = {True: Struct("<I").unpack, False: Struct(">I").unpack}
_SHORT_LENGTH = {True: Struct("<H").unpack, False: Struct(">H").unpack}
_LONG_VRS = frozenset(vr.encode() for vr in EXPLICIT_VR_LENGTH_32)
_VRS = frozenset(vr.encode() for vr in VR)
_STRAY_LIMIT = 1 << 14  # bytes behind a head in which the elements are looked for that its length leads past
_STRAY_BEFORE = 1 << 10  # bytes before it, where the length of the element before may be the wrong one
_EXPLICIT_HEAD = re.compile(b"(?=.{4}(?:%b))" % b"|".join(sorted(_VRS)), re.DOTALL)
_ANY_HEAD = re.compile(b"(?=.{8})", re.DOTALL)
_ITEM_TAG = {True: b"\xfe\xff\x00\xe0", False: b"\xff\xfe\xe0\x00"}  # by "little endian"


class RequestAttributes(NamedTuple):
    """Request Attributes Sequence (0040,0275) as it stands in the data set."""

    value: bytes
    implicit: bool
    little: bool


def end_of_undefined(file: HeaderFile, position: int, *, implicit: bool, little: bool) -> int:
    """Return the offset behind the delimiter of an element of undefined length (PS3.5 section 7.5).

    Walks over what is nested without recursion and without reading values.

    Parameters
    ----------
    file
        Where it lies.
    position
        Offset of its value.
    implicit, little
        How the data set is encoded. In an explicit one, an element without a VR is taken for an implicit one.

    Raises
    ------
    HeaderError
        If what is found is no sequence of items.
    EndOfObject
        If the object ends, or an element in it declares to, before the delimiter.
    """
    in_item = [False]  # what is open, the outermost first: a sequence (False) or an item of undefined length (True)
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
    """Return what ``end_of_undefined`` does for an element behind the last wanted one, or None if it cannot be known.

    Functional groups are not followed if they go on behind what is here: they have thousands of elements, and nothing
    but pixels follows them.

    Raises
    ------
    HeaderError, EndOfObject
        As ``end_of_undefined`` does.
    """
    if tag in FUNCTIONAL_GROUPS and not file.holds(position, file.size):
        return None
    try:
        return end_of_undefined(file, position, implicit=implicit, little=little)
    except NeedBytes:
        return None


class Stray(NamedTuple):
    """Where to look for whole elements behind one that declares more than the object holds.

    A cut object ends within a value. In a whole one with a wrong length other elements follow all the same, with
    ascending tags, to the pixels or exactly to the object's end.

    Attributes
    ----------
    window
        The bytes in which such elements are looked for.
    left
        The bytes of the object from the window's start on.
    behind
        A tag that theirs are greater than.
    implicit, little
        How the data set is encoded.
    to_pixels
        Whether only the pixels count as an end: the elements in a sequence that was cut may end with the object.
    """

    window: bytes
    left: int
    behind: int
    implicit: bool
    little: bool
    to_pixels: bool

    def goes_on(self) -> bool:
        """Say whether such elements follow."""
        heads = _ANY_HEAD if self.implicit else _EXPLICIT_HEAD
        return any(self._leads_to_the_end(head.start()) for head in heads.finditer(self.window))

    def _leads_to_the_end(self, at: int) -> bool:
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
        """Say whether an item starts or ends here: then the pixels before it are an icon's."""
        return self.window.startswith(_ITEM_TAG[self.little][:2], at)

    def _head(self, at: int) -> tuple[int, int | None, int]:
        """Return the tag of an element, the offset of its value, None if it is not plainly one, and its length."""
        head = self.window[at : at + 8]
        group, element, length = _HEADER[self.little](head)
        tag = group << 16 | element
        if self.implicit:  # without a VR, any bytes may look like a head
            return tag, at + 8 if dictionary_has_tag(tag) else None, length
        if head[4:6] in _LONG_VRS:
            return tag, at + 12, _LENGTH[self.little](self.window[at + 8 : at + 12])[0]
        return tag, at + 8 if head[4:6] in _VRS else None, _SHORT_LENGTH[self.little](head[6:8])[0]


class ElementGuard:
    """The ``stop_when`` of a pydicom reader: stops behind the last wanted tag and knows what the scan's end means.

    Behind that tag it lets the reader go on over the headers that are here anyway, up to the pixels: a length that goes
    beyond the object's end shows a cut file without another request, and a value out of order is found.

    Parameters
    ----------
    file
        What the reader reads.
    wanted
        Tags whose values will be asked for.

    Attributes
    ----------
    passed
        Whether a tag behind the last wanted one was seen.
    cut
        Whether an element declares more than the object holds.
    stray
        Whether whole elements follow such an element, so that the object is whole and the length wrong.
    end
        Offset behind the last element that was seen whole; None before the first.
    request_attributes
        The sequence of that name. pydicom is led past it, as past every other of undefined length.
    """

    def __init__(self, file: HeaderFile, wanted: frozenset[int]) -> None:
        self.file = file
        self.passed = self.cut = self.stray = False
        self.end: int | None = None
        self._whole = (0, 0)  # tag and offset of the value of the last element that was seen whole
        self._pixels = self._padding = False  # whether they were seen
        self.request_attributes: RequestAttributes | None = None
        self._wanted = wanted
        self._last = max(wanted)
        self._stopped = False
        self._seen = 0

    def __call__(self, tag: int, vr: str | None, length: int) -> bool:
        """Say whether reading stops before this element; the file stands at its value."""
        self._seen += 1
        self._stopped = self._stops(tag, vr, length)
        return self._stopped

    def verdict(self) -> HeaderError | None:
        """Return what is wrong with the end of the data set, when the reader has ended."""
        if self.cut:
            beyond = HeaderError(Reason.TRUNCATED, "an element goes beyond the end of the object")
            return _stray_error() if self.stray else beyond
        if self.end is None:
            return HeaderError(Reason.TRUNCATED, "the object ends before its data set")
        if self._stopped:
            return None
        left = self.file.size - self.end
        if left >= 8 and not self.passed:
            return HeaderError(Reason.UNREADABLE, "an item ends outside a sequence")
        # a padding of zeros behind the last element is no element; before the last wanted tag it may be the half of one
        if 0 < left < 8 and not (self.passed and not any(self.file.take(self.end, self.file.size))):
            return HeaderError(Reason.TRUNCATED, "the object ends inside an element")
        return None

    @property
    def ends_without_pixels(self) -> bool:
        """Whether the reader came to the end of the data set, and no pixels were there."""
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
            self.stray = tag not in PIXELS and self._goes_on(tag, vr, start)
            return True
        self.end = end = start + length
        self._whole = (tag, start)
        if tag == REQUEST_ATTRIBUTES_SEQUENCE:
            self._keep_request_attributes(start, end, vr)
        next_header = min(end + 12, self.file.size)
        return self.passed and (tag in PIXELS or not self.file.holds(start, next_header))

    def _refuse(self, tag: int, length: int) -> None:
        """Raise if no data set that may be read on has this element here."""
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
            if self._goes_on(tag, vr, start):
                raise _stray_error() from None
            raise
        if tag == REQUEST_ATTRIBUTES_SEQUENCE:
            self._keep_request_attributes(start, end, vr)
        self.file.seek(end - 8)  # the reader finds the delimiter next, and thus an empty sequence
        return False

    def _goes_on(self, tag: int, vr: str | None, start: int) -> bool:
        """Say whether whole elements follow one whose length, or that of the one before, leads beyond the object."""
        behind, first = self._whole
        first = max(first, start - _STRAY_BEFORE)
        little = self._is_little(tag, vr, start)
        window = self.file.take(first, min(self.file.size, start + _STRAY_LIMIT))
        in_items = window[start - first :].startswith(_ITEM_TAG[little])
        left = self.file.size - first
        # pydicom takes an element without a VR for an implicit one, and such is what a wrong length leads to, too.
        ways = {vr is None, False}
        return any(Stray(window, left, behind, implicit, little, in_items).goes_on() for implicit in ways)

    def _stops_behind(self, tag: int, vr: str | None, start: int) -> bool:
        """Follow pixel fragments, or items, as far as their headers are here; go on behind items that end here."""
        self.end = start
        try:
            end = end_if_here(self.file, tag, start, implicit=vr is None, little=self._is_little(tag, vr, start))
        except EndOfObject:
            self.cut = True
            return True
        except HeaderError:  # what it is concerns no wanted value
            return True
        if end is not None and tag == REQUEST_ATTRIBUTES_SEQUENCE:
            self._keep_request_attributes(start, end, vr)
        if end is None or tag in PIXELS or not self.file.holds(end - 8, min(end + 12, self.file.size)):
            return True
        self.end = end
        self.file.seek(end - 8)
        return False

    def _keep_request_attributes(self, start: int, end: int, vr: str | None) -> None:
        if end - start > VALUE_LIMIT:
            raise HeaderError(Reason.UNREADABLE, f"RequestAttributesSequence has more than {VALUE_LIMIT} bytes")
        little = self._is_little(REQUEST_ATTRIBUTES_SEQUENCE, vr, start)
        self.request_attributes = RequestAttributes(self.file.take(start, end), vr is None, little)

    def _is_little(self, tag: int, vr: str | None, start: int) -> bool:
        header = start - (12 if vr in EXPLICIT_VR_LENGTH_32 else 8)
        return int.from_bytes(self.file.take(header, header + 2), "little") == tag >> 16


def _stray_error() -> HeaderError:
    return HeaderError(Reason.UNREADABLE, "an element declares more bytes than the object holds, and others follow it")
