"""The wanted attributes of a header, taken from its bytes without building a data set.

``Scanner`` walks from element to element, keeps the values that are wanted and jumps over all others. It knows what a
well-formed header looks like (PS3.5 section 7, PS3.10 section 7.1) and nothing more: whatever is not plainly so is a
``Doubt``, and the caller gives the object to pydicom. So it needs no rule for any broken file; it needs to see that the
file is broken. ``header`` holds the two readers together.

It stops at the first element behind the last wanted tag, and looks from there at the element headers that are here
anyway: a tag out of order, or a length that the object does not hold, is a doubt too.
"""

from __future__ import annotations

import re
import zlib
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple, cast

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from airlock.dicom import magic
from airlock.dicom.elements import (
    ELEMENT_LIMIT,
    REQUEST_ATTRIBUTES_SEQUENCE,
    SPECIFIC_CHARACTER_SET,
    VALUE_LIMIT,
    end_of_undefined,
)
from airlock.dicom.errors import Doubt, HeaderError
from airlock.dicom.ranged import INFLATE_LIMIT, BlockFile, EndOfObject, InflatedFile, NeedBytes
from airlock.dicom.text import decode, strip
from airlock.records import ATTRIBUTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.dicom.ranged import HeaderFile

NESTING_LIMIT = 32  # sequences and items open at a time; pydicom takes it from here
META_LIMIT = 1 << 14  # bytes of the file meta group, which has some hundreds

TAGS = {keyword: cast("int", tag_for_keyword(keyword)) for keyword in ATTRIBUTES}
# the attributes whose text follows SpecificCharacterSet
GOVERNED = frozenset(keyword for keyword, tag in TAGS.items() if dictionary_VR(tag) in {"LO", "PN", "SH"})
NAMES = frozenset(keyword for keyword, tag in TAGS.items() if dictionary_VR(tag) == "PN")

_GROUP_LENGTH, _MEDIA_STORAGE_CLASS, _TRANSFER_SYNTAX = 0x00020000, 0x00020002, 0x00020010
_REQUESTED_PROCEDURE = TAGS["RequestedProcedureID"]
_MANDATORY = tuple(TAGS[name] for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))
_KEYWORDS = {tag: keyword for keyword, tag in TAGS.items()}

_META_START = magic.PREAMBLE + len(magic.PREFIX)
_META_LENGTH_FROM = _META_START + 12  # the group length counts from behind its own element
_DIRECTORY_GROUP = 0x0004
_FIRST_TAG = 0x00080000  # of a data set that is no directory (PS3.6)
_FLOAT_PIXEL_DATA = 0x7FE00008  # the two other kinds of pixels follow
_LAST_GROUP = 0xFFFD0000  # behind it are items and delimiters
_UNDEFINED = 0xFFFFFFFF
_DELIMITERS = 0xFFFE  # the group of items and delimiters
_ITEM, _ITEM_END, _SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD

_UID = re.compile(rb"([0-9.]+)[\0 ]?").fullmatch
_ESCAPE = b"\x1b"
_CHARACTER_SETS = {  # those that stand alone and know no code extensions (PS3.3 section C.12.1.1.2)
    name.encode(): encoding for name, encoding in python_encoding.items() if not name.startswith("ISO 2022")
}
_REPERTOIRE = _CHARACTER_SETS[b""]  # the default one


class DoubtError(Exception):
    """The scanner does not understand the object.

    Parameters
    ----------
    doubt
        What it met.
    """

    def __init__(self, doubt: Doubt) -> None:
        super().__init__(doubt.value)
        self.doubt = doubt


class _Order:
    """How the heads of elements are unpacked in one byte order; a VR is a number here, which costs less than text.

    Attributes
    ----------
    element
        Group, element, VR and 16-bit length of an explicit element.
    item
        Group, element and 32-bit length of an implicit element or an item.
    length
        A 32-bit length.
    short, long
        The VRs with a length of 16 bits, and those with two reserved bytes and one of 32 bits (PS3.5 section 7.1.2).
    groups
        The long VRs whose length may be undefined.
    """

    def __init__(self, sign: str) -> None:
        self.element = Struct(sign + "HHHH").unpack_from
        self.item = Struct(sign + "HHI").unpack_from
        self.length = Struct(sign + "I").unpack_from
        self._vr = Struct(sign + "H").unpack
        self._tag = Struct(sign + "HH").pack
        self.short = frozenset(map(self.vr, EXPLICIT_VR_LENGTH_16))
        self.long = frozenset(map(self.vr, EXPLICIT_VR_LENGTH_32))
        self.groups = frozenset(map(self.vr, ("SQ", "UN", "OB", "OW")))

    def vr(self, name: str) -> int:
        """Return the number that stands for a VR."""
        return cast("int", self._vr(name.encode())[0])

    def tag(self, tag: int) -> bytes:
        """Return the four bytes of a tag."""
        return self._tag(tag >> 16, tag & 0xFFFF)

    def wanted(self, *tags: int) -> dict[int, int]:
        """Return the VRs that the dictionary gives these tags."""
        return {tag: self.vr(dictionary_VR(tag)) for tag in tags}


_LITTLE, _BIG = _Order("<"), _Order(">")
_META = _LITTLE.wanted(_MEDIA_STORAGE_CLASS, _TRANSFER_SYNTAX)
_DATA_SET_TAGS = tuple(tag for tag in TAGS.values() if tag != _TRANSFER_SYNTAX)
_DATA_SET = {order: order.wanted(*_DATA_SET_TAGS) for order in (_LITTLE, _BIG)}
_REQUEST = {order: order.wanted(_REQUESTED_PROCEDURE) for order in (_LITTLE, _BIG)}
_LAST = max(_DATA_SET_TAGS)


class Scanner:
    """Reads the header of one object, as far as it is a plain one.

    Parameters
    ----------
    file
        The object, which begins with a preamble and the prefix.

    Attributes
    ----------
    doubt
        Why the object is to be given to pydicom; None as long as nothing speaks for it.
    """

    def __init__(self, file: BlockFile) -> None:
        self.doubt: Doubt | None = None
        self._file = file
        self._walk: _Walk | None = None  # over the data set, once the file meta group was read
        self._syntax = b""

    def values(self) -> dict[str, str] | None:
        """Return the text of the attributes by keyword, as ``Header.values`` has it, or None and a doubt.

        Called again after ``NeedBytes``, it goes on where it was.

        Raises
        ------
        NeedBytes
            If the bytes that it needs next are not here.
        """
        try:
            return self._values()
        except DoubtError as error:
            self.doubt = error.doubt
        except EndOfObject:
            self.doubt = Doubt.OBJECT_ENDS
        except (zlib.error, HeaderError):  # a HeaderError says that the inflated data set is too long
            self.doubt = Doubt.DEFLATE
        return None

    def _values(self) -> dict[str, str]:
        walk = self._walk = self._walk or self._data_set()
        walk.run()
        if walk.passed:
            walk.look_behind()
        return _texts({_TRANSFER_SYNTAX: self._syntax} | walk.values | walk.requested_procedure())

    def _data_set(self) -> _Walk:
        """Read the file meta group (PS3.10 section 7.1) and return the walk over what follows."""
        end = _META_LENGTH_FROM + self._meta_length()
        self._file.take(_META_START, end)  # all of it is to be here, for pydicom too
        meta = _Walk(self._file, _META_LENGTH_FROM, _META, last=_GROUP_LENGTH | 0xFFFF, previous=_GROUP_LENGTH)
        meta.run()
        if not meta.passed or meta.position != end or _TRANSFER_SYNTAX not in meta.values:
            raise DoubtError(Doubt.FILE_META)
        if _uid(meta.values.get(_MEDIA_STORAGE_CLASS, b"0")) == MediaStorageDirectoryStorage:
            raise DoubtError(Doubt.DICOMDIR)
        self._syntax = meta.values[_TRANSFER_SYNTAX]
        return self._data_set_from(end, _uid(self._syntax))

    def _meta_length(self) -> int:
        head = self._file.take(_META_START, _META_LENGTH_FROM)
        length = int.from_bytes(head[8:], "little")
        if head[:8] != b"\2\0\0\0UL\4\0" or length > META_LIMIT:
            raise DoubtError(Doubt.FILE_META)
        return length

    def _data_set_from(self, start: int, syntax: str) -> _Walk:
        first = self._file.take(start, start + 8)
        if syntax == DeflatedExplicitVRLittleEndian:
            if first.startswith((b"\0\0", b"\xfe\xff\x0d\xe0")):  # pydicom takes it for an element
                raise DoubtError(Doubt.DEFLATE)
            return _walk_of(InflatedFile(self._file, start, INFLATE_LIMIT), 0, _LITTLE)
        if syntax == ImplicitVRLittleEndian:
            if first[4:6].isalpha() and first[4:6].isupper():
                raise DoubtError(Doubt.ENCODING)
            return _walk_of(self._file, start, _LITTLE, explicit=False)
        return _walk_of(self._file, start, _BIG if syntax == ExplicitVRBigEndian else _LITTLE)


def _walk_of(file: HeaderFile, start: int, order: _Order, *, explicit: bool = True) -> _Walk:
    return _Walk(file, start, _DATA_SET[order], last=_LAST, previous=_FIRST_TAG - 1, order=order, explicit=explicit)


class _Walk:
    """A walk over the elements of a data set, a file meta group or an item; after ``NeedBytes`` it can go on.

    Parameters
    ----------
    file
        Where they lie.
    position
        Offset of the first element.
    wanted
        The tags whose values are kept, each with its VR.
    last
        It ends before the first tag behind this one.
    previous
        Every tag is to be greater than this one.
    order, explicit
        How the elements are encoded.

    Attributes
    ----------
    position
        Offset of the element that it stands before.
    passed
        Whether that one is behind ``last``; otherwise the elements end here.
    values
        Of the wanted elements, as stored, by tag.
    request_attributes
        The value of the sequence of that name.
    """

    def __init__(
        self,
        file: HeaderFile,
        position: int,
        wanted: Mapping[int, int],
        *,
        last: int,
        previous: int = 0,
        order: _Order = _LITTLE,
        explicit: bool = True,
    ) -> None:
        self.position = position
        self.passed = False
        self.values: dict[int, bytes] = {}
        self.request_attributes: bytes | None = None
        self._file = file
        self._wanted = wanted
        self._last = last
        self._previous = previous
        self._order = order
        self._explicit = explicit
        self._turns = iter(range(ELEMENT_LIMIT))  # one per element, over all runs

    def run(self) -> None:
        """Walk until ``last`` was passed or the elements end."""
        if not self.passed:
            (self._run_explicit if self._explicit else self._run_implicit)()

    def _run_explicit(self) -> None:
        element_at, length_at, short, long = (
            self._order.element,
            self._order.length,
            self._order.short,
            self._order.long,
        )
        file, wanted, values, last = self._file, self._wanted, self.values, self._last
        # what is walked over: a block, its offset in the file, its size, and up to where a head in it can begin
        block, base, size, final = b"", 0, 0, -1
        at, previous = self.position, self._previous  # ``at`` counts from the block's start
        try:
            for _ in self._turns:
                if at > final:
                    if not self._goes_on(base + at):
                        return
                    block, offset = file.stretch(base + at, base + at + 8)
                    at, base, size, final = base + at - offset, offset, len(block), len(block) - 8
                group, number, vr, length = element_at(block, at)
                tag = group << 16 | number
                if not previous < tag <= last:
                    self._pass(tag)
                    return
                if vr in short:
                    end = at + 8 + length
                    if tag in wanted:
                        if vr != wanted[tag]:
                            raise DoubtError(Doubt.OTHER_VR)
                        values[tag] = block[at + 8 : end] if end <= size else file.take(base + at + 8, base + end)
                elif vr in long:
                    rest = block[at + 8 : at + 12] if at + 12 <= size else file.take(base + at + 8, base + at + 12)
                    (length,) = length_at(rest)
                    end = at + 12 + length
                    if length == _UNDEFINED or tag == REQUEST_ATTRIBUTES_SEQUENCE or tag in wanted:
                        end = self._end_of_sequence(tag, vr, base + at + 12, length) - base
                else:
                    raise DoubtError(Doubt.UNKNOWN_VR)
                at, previous = end, tag
        finally:
            self.position, self._previous = base + at, previous
        raise DoubtError(Doubt.TOO_MANY_ELEMENTS)

    def _run_implicit(self) -> None:
        element_at, file, wanted, values, last = self._order.item, self._file, self._wanted, self.values, self._last
        block, base, size, final = b"", 0, 0, -1
        at, previous = self.position, self._previous
        try:
            for _ in self._turns:
                if at > final:
                    if not self._goes_on(base + at):
                        return
                    block, offset = file.stretch(base + at, base + at + 8)
                    at, base, size, final = base + at - offset, offset, len(block), len(block) - 8
                group, number, length = element_at(block, at)
                tag = group << 16 | number
                if not previous < tag <= last:
                    self._pass(tag)
                    return
                end = at + 8 + length
                if tag in wanted:
                    if length > VALUE_LIMIT:
                        raise DoubtError(Doubt.LONG_VALUE)
                    values[tag] = block[at + 8 : end] if end <= size else file.take(base + at + 8, base + end)
                elif length == _UNDEFINED or tag == REQUEST_ATTRIBUTES_SEQUENCE:
                    end = self._end_of_sequence(tag, None, base + at + 8, length) - base
                at, previous = end, tag
        finally:
            self.position, self._previous = base + at, previous
        raise DoubtError(Doubt.TOO_MANY_ELEMENTS)

    def _goes_on(self, position: int) -> bool:
        """Say whether an element can begin here; if not, the elements end here, all of them whole."""
        left = self._file.reach(position + 8) - position
        if 0 < left < 8 or left < 0:
            raise DoubtError(Doubt.OBJECT_ENDS)
        return left > 0

    def _pass(self, tag: int) -> None:
        if tag <= self._last:
            raise DoubtError(Doubt.DICOMDIR if tag >> 16 == _DIRECTORY_GROUP else Doubt.OUT_OF_ORDER)
        self.passed = True

    def _end_of_sequence(self, tag: int, vr: int | None, start: int, length: int) -> int:
        """Return the offset behind an element that cannot just be jumped over; keep Request Attributes Sequence."""
        if tag in self._wanted:
            raise DoubtError(Doubt.OTHER_VR)
        end = start + length
        if length == _UNDEFINED:
            if self._explicit and vr not in self._order.groups:
                raise DoubtError(Doubt.UNDEFINED_LENGTH)
            end = _end_of_items(self._file, start, self._order, explicit=self._explicit)
        if tag == REQUEST_ATTRIBUTES_SEQUENCE:
            if end - start > VALUE_LIMIT:
                raise DoubtError(Doubt.LONG_VALUE)
            self.request_attributes = self._file.take(start, end)
        return end

    def requested_procedure(self) -> dict[int, bytes]:
        """Return the RequestedProcedureID within ``request_attributes`` by its tag, if it is there."""
        value = self.request_attributes
        return {} if value is None else _requested_procedure(value, self._order, explicit=self._explicit)

    def look_behind(self) -> None:
        """Look at the heads of the elements from ``position`` on that are here, up to the pixels.

        Raises
        ------
        DoubtError
            If one does not belong there, or goes beyond the end of the object.
        """
        position, previous = self.position, self._last
        for _ in self._turns:
            if position == self._file.size:
                return
            if position + 8 > self._file.size:
                raise DoubtError(Doubt.OBJECT_ENDS)
            head = self._head(position)
            if head is None:
                return
            if head.tag <= previous:
                raise DoubtError(Doubt.OUT_OF_ORDER)
            if head.tag >= _LAST_GROUP:
                raise DoubtError(Doubt.NOT_AN_ITEM)
            if head.length == _UNDEFINED:
                self._follow(head.start)
                return
            position, previous = head.start + head.length, head.tag
            if position > self._file.size:
                raise DoubtError(Doubt.OBJECT_ENDS)
            if head.tag >= _FLOAT_PIXEL_DATA:
                return
        raise DoubtError(Doubt.TOO_MANY_ELEMENTS)

    def _head(self, position: int) -> _Head | None:
        """Return what stands at the beginning of an element, or None where it is not here."""
        file = self._file
        if not file.holds(position, position + 8):
            return None
        head = file.take(position, position + 8)
        group, number, length = self._order.item(head)
        if not self._explicit:
            return _Head(group << 16 | number, position + 8, length)
        _, _, vr, length = self._order.element(head)
        if vr in self._order.short:
            return _Head(group << 16 | number, position + 8, length)
        if vr not in self._order.long:
            raise DoubtError(Doubt.UNKNOWN_VR)
        if position + 12 <= file.size and not file.holds(position + 8, position + 12):
            return None
        (length,) = self._order.length(file.take(position + 8, position + 12))
        return _Head(group << 16 | number, position + 12, length)

    def _follow(self, start: int) -> None:
        """Follow pixel fragments, or items, as far as their heads are here."""
        try:
            end_of_undefined(self._file, start, implicit=not self._explicit, little=True)
        except (NeedBytes, HeaderError):  # what they are and where they end concerns no wanted value
            return


class _Head(NamedTuple):
    """The beginning of an element: its tag, the offset of its value and the length that it declares."""

    tag: int
    start: int
    length: int


def _end_of_items(file: HeaderFile, start: int, order: _Order, *, explicit: bool) -> int:
    """Return the offset behind the delimiter of a sequence of undefined length (PS3.5 section 7.5).

    Parameters
    ----------
    file
        Where it lies.
    start
        Offset of its value.
    order, explicit
        How the elements in its items are encoded.
    """
    item_at, element_at, short = order.item, order.element, order.short
    in_item = [False]  # what is open, the outermost first: a sequence (False) or an item of undefined length (True)
    block, base, at, final = b"", 0, start, -1
    for _ in range(ELEMENT_LIMIT):
        if at > final:
            block, offset = file.stretch(base + at, base + at + 8)
            at, base, final = base + at - offset, offset, len(block) - 8
        group, number, length = item_at(block, at)
        if group == _DELIMITERS and number != _ITEM:
            if number != (_ITEM_END if in_item.pop() else _SEQUENCE_END):
                raise DoubtError(Doubt.NOT_AN_ITEM)
            if not in_item:
                return base + at + 8
            length = 0
        elif in_item[-1] is (group == _DELIMITERS):  # items are in sequences, elements in items
            raise DoubtError(Doubt.NOT_AN_ITEM)
        elif explicit and group != _DELIMITERS:
            _, _, vr, length = element_at(block, at)
            if vr not in short:
                length = _long_length(file, base + at, vr, order)
                at += 4
        at += 8
        if length == _UNDEFINED:
            _open(in_item, group == _DELIMITERS)
        else:
            at += length
    raise DoubtError(Doubt.TOO_MANY_ELEMENTS)


def _open(in_item: list[bool], item: bool) -> None:
    if len(in_item) == NESTING_LIMIT:
        raise DoubtError(Doubt.NESTED_TOO_DEEP)
    in_item.append(item)


def _long_length(file: HeaderFile, position: int, vr: int, order: _Order) -> int:
    if vr not in order.long:
        raise DoubtError(Doubt.UNKNOWN_VR)
    (length,) = order.length(file.take(position + 8, position + 12))
    if length == _UNDEFINED and vr not in order.groups:
        raise DoubtError(Doubt.UNDEFINED_LENGTH)
    return cast("int", length)


def _requested_procedure(value: bytes, order: _Order, *, explicit: bool) -> dict[int, bytes]:
    """Return the RequestedProcedureID of the first request that has one, by its tag (PS3.3 section 10.6).

    Parameters
    ----------
    value
        Of Request Attributes Sequence, with the delimiter where its length is undefined.
    order, explicit
        How it is encoded.
    """
    if order.tag(SPECIFIC_CHARACTER_SET) in value:
        raise DoubtError(Doubt.CHARACTER_SET)
    found: dict[int, bytes] = {}
    position = 0
    while position < len(value):
        group, number, length = _item_head(value, position, order)
        position += 8
        if (group, number) == (_DELIMITERS, _SEQUENCE_END) and position == len(value):
            break
        if (group, number) != (_DELIMITERS, _ITEM):
            raise DoubtError(Doubt.NOT_AN_ITEM)
        end = len(value) if length == _UNDEFINED else position + length
        walk = _Walk(_file_of(value, end), position, _REQUEST[order], last=_LAST_GROUP, order=order, explicit=explicit)
        walk.run()
        found = found or walk.values
        position = walk.position
        if length == _UNDEFINED:
            if _item_head(value, position, order)[:2] != (_DELIMITERS, _ITEM_END):
                raise DoubtError(Doubt.NOT_AN_ITEM)
            position += 8
        elif walk.passed:
            raise DoubtError(Doubt.NOT_AN_ITEM)
    return found


def _item_head(value: bytes, position: int, order: _Order) -> tuple[int, int, int]:
    if position + 8 > len(value):
        raise DoubtError(Doubt.NOT_AN_ITEM)
    return cast("tuple[int, int, int]", order.item(value, position))


def _file_of(value: bytes, end: int) -> BlockFile:
    if end > len(value):
        raise DoubtError(Doubt.NOT_AN_ITEM)
    file = BlockFile(end)
    file.add(0, value[:end])
    return file


def _texts(raw: Mapping[int, bytes]) -> dict[str, str]:
    """Return the text of the values by keyword, where all of it is plain (PS3.5 section 6.1)."""
    if not all(map(raw.get, _MANDATORY)):
        raise DoubtError(Doubt.MISSING_UID)
    for tag in _MANDATORY:
        if not _UID(raw[tag]):
            raise DoubtError(Doubt.ODD_UID)
    encoding = _CHARACTER_SETS.get(raw.get(SPECIFIC_CHARACTER_SET, b"").rstrip(b" "))
    if encoding is None:
        raise DoubtError(Doubt.CHARACTER_SET)
    if b"".join(raw.values()).isascii():
        texts = {_KEYWORDS[tag]: value.decode("ascii").rstrip("\0 ") for tag, value in raw.items()}
    else:
        texts = {_KEYWORDS[tag]: _text(value, _KEYWORDS[tag], encoding) for tag, value in raw.items()}
    everything = "".join(texts.values())
    if "\x1b" in everything:
        raise DoubtError(Doubt.TEXT)
    if "\\" in everything or "\0" in everything:
        texts = {keyword: strip(text) for keyword, text in texts.items()}
    for keyword in NAMES & texts.keys():
        texts[keyword] = texts[keyword].rstrip("=")  # component groups that are empty (PS3.5 section 6.2)
    return texts


def _text(value: bytes, keyword: str, encoding: str) -> str:
    if value.isascii():
        return value.decode("ascii").rstrip("\0 ")
    text, fits = decode(value, [encoding])
    if keyword not in GOVERNED or not fits:
        raise DoubtError(Doubt.TEXT)
    return text


def _uid(raw: bytes) -> str:
    """Return the text of a UID that has at most one byte of padding."""
    found = _UID(raw)
    if not found:
        raise DoubtError(Doubt.ODD_UID)
    return found[1].decode("ascii")
