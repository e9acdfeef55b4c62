"""The digest of a file's pixels, by which two files with different headers can be proven to be the same image.

The digest covers what an image is made of: the encoding, the attributes that say how the pixels are stored, everything
from group 5000 on (functional groups, overlays), and the pixel data. A file that the scanner doubts, a deflated one, or
one without pixels has no digest: then nothing is proven.
"""

from __future__ import annotations

import hashlib
import mmap
from typing import IO, TYPE_CHECKING, cast

from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from airlock.dicom import magic
from airlock.dicom.elements import PIXELS, end_of_undefined
from airlock.dicom.errors import DoubtError, HeaderError
from airlock.dicom.ranged import BlockFile, EndOfObject, NeedBytes
from airlock.dicom.scanner import Scanner
from airlock.dicom.walk import UNDEFINED, Walk

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.dicom.walk import Order

# Of the Image Pixel Module (PS3.3 section C.7.6.3): samples, photometric interpretation, planes, frames, rows, columns,
# bits and sign; and the palettes.
_IMAGE_PIXEL = (
    *(0x00280002, 0x00280004, 0x00280006, 0x00280008, 0x00280010, 0x00280011),
    *(0x00280100, 0x00280101, 0x00280102, 0x00280103, 0x00281201, 0x00281202, 0x00281203),
)
_BEFORE_IMAGE = 0x4FFFFFFF
_BEFORE_PIXELS = 0x7FDFFFFF
_PIXEL_GROUP = 0x7FE0
# The pixels of both are stored in the same bytes (PS3.5 annexes A.1 and A.2).
_NATIVE = (ImplicitVRLittleEndian, ExplicitVRLittleEndian)


def digest_pixels(file: IO[bytes], size: int) -> str | None:
    """Return the digest of the pixels of a whole file on the local disk; None if nothing can be proven with it."""
    with mmap.mmap(file.fileno(), size, access=mmap.ACCESS_READ) as content:
        if not magic.is_part10(content[: magic.PREAMBLE + len(magic.PREFIX)]):
            return None
        block = BlockFile(size)
        block.add(0, cast("bytes", content))  # slices of a map are bytes
        return _PixelScanner(block).digest()


class _PixelScanner(Scanner):
    """Finds the pixels of a plain file and digests them."""

    def digest(self) -> str | None:
        """Return the digest; None if the file is not plain, or has no pixels."""
        try:
            return self._digest()
        except (DoubtError, EndOfObject, NeedBytes, HeaderError):
            return None

    def _digest(self) -> str | None:
        start = self._data_set().position
        syntax = self._syntax.rstrip(b"\0 ").decode("ascii")
        if syntax == DeflatedExplicitVRLittleEndian:
            return None
        order, explicit = self._encoding.order, self._encoding.explicit
        header = Walk(
            self._file, start, order.wanted(*_IMAGE_PIXEL), last=_BEFORE_IMAGE, order=order, explicit=explicit
        )
        header.run()
        image = Walk(
            self._file,
            header.position,
            {},
            last=_BEFORE_PIXELS,
            previous=_BEFORE_IMAGE,
            order=order,
            explicit=explicit,
        )
        image.run()
        found = hashlib.sha256(("native" if syntax in _NATIVE else syntax).encode())
        for tag, value in sorted(header.values.items()):
            found.update(b"%d %d " % (tag, len(value)) + value)
        self._add(found, header.position, image.position)
        tags = set()
        for tag, first, end in self._pixel_elements(image.position, order, explicit=explicit):
            tags.add(tag)
            found.update(b"%d %d " % (tag, end - first))
            self._add(found, first, end)
        return found.hexdigest() if tags & PIXELS else None

    def _add(self, found: hashlib._Hash, start: int, end: int) -> None:
        block, base = self._file.stretch(start, end)
        with memoryview(block) as view, view[start - base : end - base] as part:
            found.update(part)

    def _pixel_elements(self, position: int, order: Order, *, explicit: bool) -> Iterator[tuple[int, int, int]]:
        """Yield tag, offset and end of each value of the group of the pixels; nothing behind it counts."""
        while position < self._file.size:
            group, number, length = order.item(self._file.take(position, position + 8), 0)
            if group != _PIXEL_GROUP:
                return
            start = position + 8
            if explicit:
                *_, vr, length = order.element(self._file.take(position, start), 0)
                if vr in order.long:
                    (length,) = order.length(self._file.take(start, start + 4), 0)
                    start += 4
            end = start + length
            if length == UNDEFINED:
                end = end_of_undefined(self._file, start, implicit=not explicit, little=order.little)
            yield group << 16 | number, start, end
            position = end
