"""A walk from element to element of a data set, which keeps the wanted values and skips all others.

It accepts only well-formed data sets (PS3.5 section 7); anything else is a ``Doubt``. So it needs no rules for broken
files, only to notice that a file may be broken.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from pydicom.datadict import dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from airlock.dicom.elements import ELEMENT_LIMIT, PIXELS, VALUE_LIMIT, end_if_here
from airlock.dicom.errors import Doubt, DoubtError, HeaderError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airlock.dicom.ranged import HeaderFile

NESTING_LIMIT = 16  # nested sequences; deeper ones are left to pydicom
LAST_TAG = 0xFFFCFFFF  # behind it are items and delimiters
DELIMITERS = 0xFFFE  # their group
ITEM, ITEM_END, SEQUENCE_END = 0xE000, 0xE00D, 0xE0DD
UNDEFINED = 0xFFFFFFFF  # a length

_HEAD, _LONG_HEAD = 8, 12  # bytes before a value (PS3.5 section 7.1.2)
_DIRECTORY_GROUP = 0x0004


class Order:
    """The unpacking of element heads in one byte order; a VR is a number here, which costs less than a text.

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
    sequence
        The VR of sequences.
    undefinable
        The VRs whose length may be undefined. UN is left out: its items have another encoding (PS3.5 section 6.2.2).
    """

    def __init__(self, sign: str) -> None:
        self.little = sign == "<"
        self.element: Callable[[bytes, int], tuple[int, int, int, int]] = struct.Struct(sign + "HHHH").unpack_from
        self.item: Callable[[bytes, int], tuple[int, int, int]] = struct.Struct(sign + "HHI").unpack_from
        self.length: Callable[..., tuple[int]] = struct.Struct(sign + "I").unpack_from
        self._vr = struct.Struct(sign + "H").unpack
        self._tag = struct.Struct(sign + "HH").pack
        self.short = frozenset(map(self.vr, EXPLICIT_VR_LENGTH_16))
        self.long = frozenset(map(self.vr, EXPLICIT_VR_LENGTH_32))
        self.sequence = self.vr("SQ")
        self.undefinable = frozenset(map(self.vr, ("SQ", "OB", "OW")))

    def vr(self, name: str) -> int:
        """Return the number that stands for a VR."""
        return int(self._vr(name.encode())[0])

    def tag(self, tag: int) -> bytes:
        """Return the four bytes of a tag."""
        return self._tag(tag >> 16, tag & 0xFFFF)

    def wanted(self, *tags: int) -> dict[int, int]:
        """Return the VRs that the dictionary (PS3.6) gives these tags."""
        return {tag: self.vr(dictionary_VR(tag)) for tag in tags}


LITTLE, BIG = Order("<"), Order(">")


class Walk:
    """A walk over the elements of a data set, a file meta group or an item; after ``NeedBytes`` it can continue.

    Parameters
    ----------
    file
        The file with the elements.
    position
        Offset of the first element.
    wanted
        The tags whose values are kept, each with its VR: texts, and sequences as stored, delimiters included.
    last
        The walk ends before the first tag behind this one.
    previous
        Every tag must be greater than this one.
    order, explicit
        The encoding of the elements.

    Attributes
    ----------
    position
        Offset of the next element.
    passed
        Whether its tag is behind ``last``; if not after ``run``, the elements end at ``position``.
    values
        The stored values of the wanted elements, by tag.
    """

    def __init__(
        self,
        file: HeaderFile,
        position: int,
        wanted: Mapping[int, int],
        *,
        last: int,
        previous: int = -1,
        order: Order = LITTLE,
        explicit: bool = True,
    ) -> None:
        self.position = position
        self.passed = False
        self.values: dict[int, bytes] = {}
        self._file = file
        self._wanted = wanted
        self._last = last
        self._previous = previous
        self._order = order
        self._explicit = explicit
        self._walked = 0  # bytes passed, of all blocks

    def run(self) -> None:
        """Walk until ``last`` is passed or the elements end.

        Raises
        ------
        NeedBytes
            If the bytes that it needs next are not fetched yet.
        DoubtError, EndOfObject
            If the data set is not a plain one.
        """
        over = self._over_explicit if self._explicit else self._over_implicit
        needed = _HEAD
        while not self.passed and self._has_more():
            needed = over(*self._file.stretch(self.position, self.position + needed))
            if self._walked > _HEAD * ELEMENT_LIMIT:
                raise DoubtError(Doubt.TOO_MANY_ELEMENTS)

    def _has_more(self) -> bool:
        """Return whether the file goes on behind ``position``; if not, the elements end here, all of them whole."""
        left = self._file.reach(self.position + _HEAD) - self.position
        if 0 < left < _HEAD or left < 0:
            raise DoubtError(Doubt.OBJECT_ENDS)
        return left > 0

    # The two loops below are most of the cost of reading a header. So names are local, calls are avoided, a product is
    # used since it is cheaper than a shift, and ``struct`` finds out that a head lies behind the block's end.

    def _over_explicit(self, block: bytes, base: int) -> int:
        """Walk over explicit elements as far as a block has them.

        Parameters
        ----------
        block, base
            Bytes of the file, and their offset in it.

        Returns
        -------
        int
            The number of bytes from ``position`` on that it needs to continue.
        """
        wanted, values, last, order, size = self._wanted, self.values, self._last, self._order, len(block)
        element_at, length_at, short, long = order.element, order.length, order.short, order.long
        first = at = self.position - base  # counted from the block's start
        previous = self._previous
        try:
            while True:
                group, number, vr, length = element_at(block, at)
                tag = group * 0x10000 + number
                if tag <= previous or tag > last:
                    self._pass(tag)
                    return _HEAD
                if vr in short:
                    end = at + 8 + length
                    if tag in wanted:
                        if vr != wanted[tag]:
                            raise DoubtError(Doubt.OTHER_VR)
                        if end > size:
                            return end - at
                        values[tag] = block[at + 8 : end]
                elif vr in long:
                    (length,) = length_at(block, at + 8)
                    end = at + 12 + length
                    if length == UNDEFINED or tag in wanted:
                        end = self._end_of_long(tag, vr, base + at + 12, length) - base
                else:
                    raise DoubtError(Doubt.UNKNOWN_VR)
                previous = tag
                at = end
        except struct.error:
            return _HEAD if at > size - _HEAD else _LONG_HEAD
        finally:
            self.position, self._previous = base + at, previous
            self._walked += min(at, size) - first

    def _over_implicit(self, block: bytes, base: int) -> int:
        """Walk over implicit elements as far as a block has them, as ``_over_explicit``."""
        wanted, values, last, order, size = self._wanted, self.values, self._last, self._order, len(block)
        element_at, sequence = order.item, order.sequence
        first = at = self.position - base
        previous = self._previous
        try:
            while True:
                group, number, length = element_at(block, at)
                tag = group * 0x10000 + number
                if tag <= previous or tag > last:
                    self._pass(tag)
                    return _HEAD
                end = at + 8 + length
                if tag in wanted and length <= VALUE_LIMIT:
                    if end > size:
                        return end - at
                    values[tag] = block[at + 8 : end]
                elif length == UNDEFINED or tag in wanted:
                    end = self._end_of_long(tag, wanted.get(tag, sequence), base + at + 8, length) - base
                previous = tag
                at = end
        except struct.error:
            return _HEAD
        finally:
            self.position, self._previous = base + at, previous
            self._walked += min(at, size) - first

    def _pass(self, tag: int) -> None:
        if tag <= self._last:
            raise DoubtError(Doubt.DICOMDIR if tag >> 16 == _DIRECTORY_GROUP else Doubt.OUT_OF_ORDER)
        self.passed = True

    def _end_of_long(self, tag: int, vr: int, start: int, length: int) -> int:
        """Return the offset behind a wanted value or one of undefined length, and keep it if it is wanted."""
        if vr != self._wanted.get(tag, vr):
            raise DoubtError(Doubt.OTHER_VR)
        end = start + length
        if length == UNDEFINED:
            if vr not in self._order.undefinable:
                raise DoubtError(Doubt.UNDEFINED_LENGTH)
            end = end_of_items(self._file, start, self._order, explicit=self._explicit)
        if tag in self._wanted:
            if end - start > VALUE_LIMIT:
                raise DoubtError(Doubt.LONG_VALUE)
            self.values[tag] = self._file.take(start, end)
        return end

    def look_behind(self) -> bool:
        """Check the fetched element heads from ``position`` on, up to the pixels.

        Returns
        -------
        bool
            Whether the object ends with these elements, without pixels.

        Raises
        ------
        DoubtError, EndOfObject
            If an element is out of order, or its length leads beyond the end of the object.
        """
        position, previous, size = self.position, self._last, self._file.size
        for _ in range(ELEMENT_LIMIT - self._walked // _HEAD):
            head = self._head(position) if position != size else None
            if head is None:
                return position == size
            tag, start, length = head
            if tag <= previous:
                raise DoubtError(Doubt.OUT_OF_ORDER)
            if tag > LAST_TAG:
                raise DoubtError(Doubt.NOT_AN_ITEM)
            end = start + length if length != UNDEFINED else self._end_if_here(tag, start)
            if end is None:
                return False
            if end > size:
                raise DoubtError(Doubt.OBJECT_ENDS)
            if tag in PIXELS:
                return False
            position, previous = end, tag
        raise DoubtError(Doubt.TOO_MANY_ELEMENTS)

    def _head(self, position: int) -> tuple[int, int, int] | None:
        """Return an element's tag, the offset of its value and its length; None if its head is not fetched."""
        file, order = self._file, self._order
        if position + 8 <= file.size and not file.holds(position, position + 8):
            return None
        block, offset = file.stretch(position, position + 8)
        group, number, length = order.item(block, position - offset)
        start = position + 8
        if self._explicit:
            _, _, vr, length = order.element(block, position - offset)
            if vr in order.long:
                if start + 4 <= file.size and not file.holds(start, start + 4):
                    return None
                start += 4
                (length,) = order.length(file.take(start - 4, start))
            elif vr not in order.short:
                raise DoubtError(Doubt.UNKNOWN_VR)
        return group << 16 | number, start, length

    def _end_if_here(self, tag: int, start: int) -> int | None:
        """Return the offset behind an element of undefined length, None if its end is not fetched."""
        try:
            end = end_if_here(self._file, tag, start, implicit=not self._explicit, little=self._order.little)
        except HeaderError:
            raise DoubtError(Doubt.NOT_AN_ITEM) from None
        if end is not None and tag not in PIXELS:
            _, delimiter, _ = self._order.item(self._file.take(end - _HEAD, end), 0)
            if delimiter != SEQUENCE_END:
                raise DoubtError(Doubt.NOT_AN_ITEM)
        return end


def end_of_items(  # noqa: C901, PLR0912  (a hot loop: a call costs as much as a head)
    file: HeaderFile, start: int, order: Order, *, explicit: bool
) -> int:
    """Return the offset behind the delimiter of a sequence of undefined length (PS3.5 section 7.5).

    Parameters
    ----------
    file
        The file with the sequence.
    start
        Offset of its value.
    order, explicit
        The encoding of the elements in its items.

    Raises
    ------
    NeedBytes
        If the bytes that it needs next are not fetched yet.
    DoubtError, EndOfObject
        If it is not a plain sequence.
    """
    item_at, element_at, length_at, short = order.item, order.element, order.length, order.short
    block, base, at, final, vr = b"", 0, start, -1, order.sequence
    depth, in_item = 1, False  # the number of open sequences, and whether an item of the innermost one is open
    for _ in range(ELEMENT_LIMIT):
        if at > final:
            block, offset = file.stretch(base + at, base + at + 8)
            at, base, final = base + at - offset, offset, len(block) - 8
        if explicit:
            group, number, vr, length = element_at(block, at)
        else:
            group, number, length = item_at(block, at)
        at += 8
        if group == DELIMITERS:
            (length,) = length_at(block, at - 4)
            if number == (ITEM_END if in_item else SEQUENCE_END) and not length:
                depth, in_item = depth - (not in_item), not in_item
                if not depth:
                    return base + at
            elif number != ITEM or in_item:
                raise DoubtError(Doubt.NOT_AN_ITEM)
            elif length == UNDEFINED:
                in_item = True
            else:
                at += length
            continue
        if not in_item:
            raise DoubtError(Doubt.NOT_AN_ITEM)
        if explicit and vr not in short:
            length = _long_length(file, base + at, vr, order)
            at += 4
        if length != UNDEFINED:
            at += length
        elif depth == NESTING_LIMIT:
            raise DoubtError(Doubt.NESTED_TOO_DEEP)
        else:
            depth, in_item = depth + 1, False
    raise DoubtError(Doubt.TOO_MANY_ELEMENTS)


def _long_length(file: HeaderFile, position: int, vr: int, order: Order) -> int:
    if vr not in order.long:
        raise DoubtError(Doubt.UNKNOWN_VR)
    (length,) = order.length(file.take(position, position + 4))
    if length == UNDEFINED and vr not in order.undefinable:
        raise DoubtError(Doubt.UNDEFINED_LENGTH)
    return length
