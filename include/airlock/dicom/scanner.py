"""The wanted attributes of a header, read from its bytes without building a data set.

``Scanner`` reads the file meta group (PS3.10 section 7.1), walks over the data set and decodes the wanted values.
Anything unusual is a ``Doubt``, and the caller, ``header``, gives the object to pydicom.

The scanner stops at the first element behind the last wanted tag. It then checks the element heads that are fetched
already: a tag out of order, or a length beyond the object's end, is a doubt too.
"""

from __future__ import annotations

import re
import zlib
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, cast

from pydicom.charset import default_encoding, python_encoding
from pydicom.datadict import dictionary_VR, tag_for_keyword
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    MediaStorageDirectoryStorage,
)

from airlock.dicom import magic
from airlock.dicom.elements import CODE_TAGS, PIXELS, REQUEST_ATTRIBUTES_SEQUENCE, SPECIFIC_CHARACTER_SET, join_code
from airlock.dicom.errors import Doubt, DoubtError, HeaderError
from airlock.dicom.ranged import INFLATE_LIMIT, BlockFile, EndOfObject, InflatedFile
from airlock.dicom.text import strip
from airlock.dicom.walk import BIG, DELIMITERS, ITEM, ITEM_END, LITTLE, SEQUENCE_END, UNDEFINED, Walk
from airlock.records import ATTRIBUTES, PROCEDURE_CODES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.dicom.ranged import HeaderFile
    from airlock.dicom.walk import Order

META_LIMIT = 1 << 14  # bytes of the file meta group; usual ones have some hundreds

TAGS = {keyword: cast("int", tag_for_keyword(keyword)) for keyword in ATTRIBUTES}
# the attributes whose text follows SpecificCharacterSet
GOVERNED = frozenset(
    keyword for keyword, tag in TAGS.items() if dictionary_VR(tag) in {"LO", "PN", "SH"} or keyword == PROCEDURE_CODES
)
_GOVERNED_TAGS = {TAGS[keyword] for keyword in GOVERNED}
NAMES = frozenset(keyword for keyword, tag in TAGS.items() if dictionary_VR(tag) == "PN")

_KEYWORD_OF = {tag: keyword for keyword, tag in TAGS.items()}.__getitem__
_GROUP_LENGTH, _MEDIA_STORAGE_CLASS, _TRANSFER_SYNTAX = 0x00020000, 0x00020002, 0x00020010
_FIRST_TAG = 0x00080000  # of a data set that is no directory (PS3.6)
_REQUESTED_PROCEDURE = TAGS["RequestedProcedureID"]
_PROCEDURE_CODES = TAGS[PROCEDURE_CODES]
_MANDATORY = tuple(TAGS[name] for name in ("SOPClassUID", "SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID"))
_NAMING = _MANDATORY[1:]
_DATA_SET_TAGS = tuple(tag for tag in TAGS.values() if tag != _TRANSFER_SYNTAX)
_LAST = max(_DATA_SET_TAGS)
_LAST_IN_ITEM = min(PIXELS) - 1  # pydicom may end a data set at pixels, wherever they stand

_META_START = magic.PREAMBLE + len(magic.PREFIX)
_META_LENGTH_FROM = _META_START + 12  # the group length counts from behind its own element
_META = LITTLE.wanted(_MEDIA_STORAGE_CLASS, _TRANSFER_SYNTAX)
_DIRECTORY = MediaStorageDirectoryStorage.encode()

_UID = re.compile(rb"([0-9.]+)[\0 ]?").fullmatch
_ESCAPE = b"\x1b"  # begins a code extension (ISO 2022), so no plain text holds it
_REPLACEMENT = "\ufffd"
_CHARACTER_SETS = {  # those without code extensions (PS3.3 section C.12.1.1.2)
    name.encode(): encoding for name, encoding in python_encoding.items() if not name.startswith("ISO 2022")
}


_REPEATED = 64  # sequences whose values are kept: the instances of a study have the same ones


@dataclass(frozen=True, eq=False)
class _Encoding:
    """The encoding of a data set's elements, and the wanted tags with their VRs in it; equal to itself alone."""

    order: Order
    explicit: bool
    wanted: Mapping[int, int]

    @classmethod
    def of(cls, order: Order, *, explicit: bool = True) -> _Encoding:
        """Return the encoding with this byte order."""
        wanted = order.wanted(*_DATA_SET_TAGS, REQUEST_ATTRIBUTES_SEQUENCE)
        return cls(order, explicit, wanted)

    def walk(self, file: HeaderFile, start: int) -> Walk:
        """Return the walk over a data set that starts at this offset."""
        return Walk(
            file, start, self.wanted, last=_LAST, previous=_FIRST_TAG - 1, order=self.order, explicit=self.explicit
        )

    def walk_in_item(self, content: bytes, wanted: Mapping[int, int]) -> Walk:
        """Return the walk over an item of a sequence."""
        file = BlockFile(len(content))
        file.add(0, content)
        return Walk(file, 0, wanted, last=_LAST_IN_ITEM, order=self.order, explicit=self.explicit)


_EXPLICIT = _Encoding.of(LITTLE)  # of every transfer syntax not named below, private ones too (PS3.5 annex A.4)
_ENCODINGS: dict[str, _Encoding] = {
    ImplicitVRLittleEndian: _Encoding.of(LITTLE, explicit=False),
    ExplicitVRBigEndian: _Encoding.of(BIG),
}


class Scanner:
    """Reads the header of one object if it is a plain one.

    Parameters
    ----------
    file
        The object; it begins with a preamble and the prefix.

    Attributes
    ----------
    doubt
        The cause for which pydicom must read the object; None while there is none.
    ends_without_pixels
        Whether the object is known to end before any pixels.
    """

    def __init__(self, file: BlockFile) -> None:
        self.doubt: Doubt | None = None
        self.ends_without_pixels = False
        self._file = file
        self._syntax = b""
        self._encoding = _EXPLICIT
        self._walk: Walk | None = None  # over the data set, once the file meta group was read

    def values(self) -> dict[str, str] | None:
        """Return the texts of the attributes as ``Header.values``; None, and set ``doubt``, if they are not plain.

        After ``NeedBytes``, call it again: it continues where it stopped.

        Raises
        ------
        NeedBytes
            If the bytes that it needs next are not fetched yet.
        """
        try:
            return self._values()
        except DoubtError as error:
            self.doubt = error.doubt
        except EndOfObject:
            self.doubt = Doubt.OBJECT_ENDS
        except (zlib.error, HeaderError):  # HeaderError: the inflated data set is too long
            self.doubt = Doubt.DEFLATE
        return None

    def uids_so_far(self) -> dict[str, str]:
        """Return the UIDs of instance, series and study that stand before the place where the scanner stopped.

        Only whole elements in their order count, at the top level: they name the study of a file that is cut or
        damaged behind them.
        """
        raw = {} if self._walk is None else self._walk.values
        found = {_KEYWORD_OF(tag): _UID(raw.get(tag, b"")) for tag in _NAMING}
        return {keyword: uid[1].decode("ascii") for keyword, uid in found.items() if uid}

    def _values(self) -> dict[str, str]:
        if self._walk is None:
            self._walk = self._data_set()
        walk = self._walk
        walk.run()
        self.ends_without_pixels = walk.look_behind() if walk.passed else True
        raw = walk.values
        requests = raw.pop(REQUEST_ATTRIBUTES_SEQUENCE, None)
        if requests is not None:
            raw |= _first_in_items(requests, self._encoding, _REQUESTED_PROCEDURE)  # PS3.3 section 10.6
        codes = raw.pop(_PROCEDURE_CODES, None)
        if codes is not None and (code := _first_in_items(codes, self._encoding, *CODE_TAGS)):
            raw[_PROCEDURE_CODES] = join_code(code)
        raw[_TRANSFER_SYNTAX] = self._syntax
        return _texts(raw)

    def _data_set(self) -> Walk:
        """Read the file meta group and return the walk over the data set."""
        end = _META_LENGTH_FROM + self._meta_length()
        self._file.take(_META_START, end)  # raises NeedBytes unless the whole group is fetched, for pydicom too
        meta = Walk(self._file, _META_LENGTH_FROM, _META, last=_GROUP_LENGTH | 0xFFFF, previous=_GROUP_LENGTH)
        meta.run()
        if not meta.passed or meta.position != end or _TRANSFER_SYNTAX not in meta.values:
            raise DoubtError(Doubt.FILE_META)
        if _DIRECTORY in meta.values.get(_MEDIA_STORAGE_CLASS, b""):
            raise DoubtError(Doubt.DICOMDIR)
        self._syntax = meta.values[_TRANSFER_SYNTAX]
        return self._data_set_from(end, _uid(self._syntax))

    def _meta_length(self) -> int:
        head = self._file.take(_META_START, _META_LENGTH_FROM)
        length = int.from_bytes(head[8:], "little")
        if head[:8] != b"\2\0\0\0UL\4\0" or length > META_LIMIT:
            raise DoubtError(Doubt.FILE_META)
        return length

    def _data_set_from(self, start: int, syntax: str) -> Walk:
        if syntax == DeflatedExplicitVRLittleEndian:
            return _EXPLICIT.walk(InflatedFile(self._file, start, INFLATE_LIMIT), 0)
        self._encoding = _ENCODINGS.get(syntax, _EXPLICIT)
        if not self._encoding.explicit and self._looks_explicit(start):
            raise DoubtError(Doubt.ENCODING)
        return self._encoding.walk(self._file, start)

    def _looks_explicit(self, start: int) -> bool:
        vr = self._file.take(start, start + 8)[4:6]
        return vr.isalpha() and vr.isupper()


@lru_cache(maxsize=_REPEATED)
def _first_in_items(value: bytes, encoding: _Encoding, *tags: int) -> Mapping[int, bytes]:
    """Return the values of these tags in the first item of a sequence that has any of them.

    Parameters
    ----------
    value
        The value of the sequence, with the delimiter if its length is undefined.
    encoding
        The encoding of the data set.
    tags
        The wanted ones, in the dictionary's VRs.

    Raises
    ------
    DoubtError
        If an item is not plain, or declares a character set of its own.
    """
    if encoding.order.tag(SPECIFIC_CHARACTER_SET) in value:
        raise DoubtError(Doubt.CHARACTER_SET)
    found: dict[int, bytes] = {}
    wanted = encoding.order.wanted(*tags)
    position = 0
    while position < len(value):
        head = _item_head(value, position, encoding.order)
        group, number, length = head
        position += 8
        if head == (DELIMITERS, SEQUENCE_END, 0) and position == len(value):
            break
        if (group, number) != (DELIMITERS, ITEM):
            raise DoubtError(Doubt.NOT_AN_ITEM)
        content = value[position:] if length == UNDEFINED else value[position : position + length]
        walk = encoding.walk_in_item(content, wanted)
        walk.run()
        found = found or walk.values
        position += walk.position
        if length == UNDEFINED:
            if _item_head(value, position, encoding.order) != (DELIMITERS, ITEM_END, 0):
                raise DoubtError(Doubt.NOT_AN_ITEM)
            position += 8
        elif walk.position != length:
            raise DoubtError(Doubt.NOT_AN_ITEM)
    return found


def _item_head(value: bytes, position: int, order: Order) -> tuple[int, int, int]:
    if position + 8 > len(value):
        raise DoubtError(Doubt.NOT_AN_ITEM)
    return order.item(value, position)


def _texts(raw: Mapping[int, bytes]) -> dict[str, str]:
    """Return the texts of the values by keyword (PS3.5 section 6.1).

    Raises
    ------
    DoubtError
        If a UID is missing or wrong, or a text is not plain.
    """
    uids = [raw.get(tag, b"") for tag in _MANDATORY]
    if not all(uids):
        raise DoubtError(Doubt.MISSING_UID)
    if not all(map(_UID, uids)):
        raise DoubtError(Doubt.ODD_UID)
    texts = [text.rstrip("\0 ") for text in _decoded(raw)]
    everything = "".join(texts)
    if "\0" in everything:
        raise DoubtError(Doubt.TEXT)
    if "\\" in everything:
        texts = [strip(text) if "\\" in text else text for text in texts]
    found = dict(zip(map(_KEYWORD_OF, raw), texts, strict=True))
    if "=" in everything:
        for keyword in NAMES & found.keys():
            found[keyword] = found[keyword].rstrip("=")  # component groups that are empty (PS3.5 section 6.2)
    return found


def _decoded(raw: Mapping[int, bytes]) -> list[str]:
    """Return the values as texts, decoded all at once."""
    encoding = _CHARACTER_SETS.get(raw.get(SPECIFIC_CHARACTER_SET, b"").rstrip(b" "))
    if encoding is None:
        raise DoubtError(Doubt.CHARACTER_SET)
    joined = _ESCAPE.join(raw.values())
    if not joined.isascii():
        tags = {tag for tag, value in raw.items() if not value.isascii()}
        if encoding == default_encoding or not tags <= _GOVERNED_TAGS:
            raise DoubtError(Doubt.TEXT)
    try:
        text = joined.decode(encoding)
    except UnicodeDecodeError:
        raise DoubtError(Doubt.TEXT) from None
    texts = text.split(_ESCAPE.decode())
    if len(texts) != len(raw) or _REPLACEMENT in text:
        raise DoubtError(Doubt.TEXT)
    return texts


def _uid(raw: bytes) -> str:
    """Return the text of a UID that has at most one byte of padding."""
    found = _UID(raw)
    if not found:
        raise DoubtError(Doubt.ODD_UID)
    return found[1].decode("ascii")
