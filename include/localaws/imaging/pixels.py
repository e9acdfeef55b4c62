"""Frames of an instance: split, in the encoding in which they are stored."""

from __future__ import annotations

import zlib
from array import array
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from pydicom.encaps import generate_fragments, generate_frames, parse_basic_offsets
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian

from localaws.imaging.elements import PIXEL_KEYWORDS, UNREADABLE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataset import Dataset

HTJ2K_RPCL = "1.2.840.10008.1.2.4.202"
NATIVE = frozenset(f"1.2.840.10008.1.2{suffix}" for suffix in ("", ".1", ".2", ".1.99"))
TRANSCODED_SUFFIXES = ".4.51 .4.57 .4.70 .4.80 .4.81 .4.90 .4.92 .4.93 .4.201 .4.202 .5"
TRANSCODED = frozenset(f"1.2.840.10008.1.2{suffix}" for suffix in TRANSCODED_SUFFIXES.split())
VIDEO = frozenset(
    f"1.2.840.10008.1.2.4.{number}{fragmentable}" for number in range(100, 107) for fragmentable in ("", ".1")
) | {"1.2.840.10008.1.2.4.107", "1.2.840.10008.1.2.4.108"}
KEPT = frozenset({"1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.91", "1.2.840.10008.1.2.4.203"}) | VIDEO
SUPPORTED = NATIVE | TRANSCODED | KEPT
"""Transfer syntaxes that HealthImaging supports (developer guide, "Supported transfer syntaxes")."""

CONTENT_TYPES = {
    HTJ2K_RPCL: "image/jph",
    "1.2.840.10008.1.2.4.203": "image/jphc",
    "1.2.840.10008.1.2.4.91": "image/j2c",
    "1.2.840.10008.1.2.4.50": "image/jpeg",
    "1.2.840.10008.1.2.4.112": "image/jxl",
    **{syntax: "video/mpeg" if ".4.100" in syntax or ".4.101" in syntax else "video/mp4" for syntax in VIDEO},
    "1.2.840.10008.1.2.4.107": "video/H256",
    "1.2.840.10008.1.2.4.108": "video/H256",
}
"""Content type per stored transfer syntax, spelled as AWS prints it; anything else is application/octet-stream."""

BROKEN = (*UNREADABLE, RuntimeError)
"""The exceptions of pydicom on pixel data that it cannot split or decode."""
UNPACKED = {8: "B", 16: "H", 32: "I"}


@dataclass(frozen=True)
class Frame:
    """One frame's bytes, and their description in the metadata."""

    data: bytes
    size: int
    checksum: int
    width: int
    height: int
    lowest: int | None
    highest: int | None

    @classmethod
    def of(cls, data: bytes, dataset: Dataset, values: array[int] | None = None) -> Frame:
        """Describe one frame of `dataset`; `values` are its pixel values, if they are known."""
        lowest, highest = (min(values), max(values)) if values else (None, None)
        return cls(data, len(data), zlib.crc32(data), int(dataset.Columns), int(dataset.Rows), lowest, highest)

    def without_data(self) -> Frame:
        """Return the frame's description alone, once its bytes are on disk."""
        return replace(self, data=b"")

    def description(self) -> dict[str, Any]:
        """Return the frame's entry of ``ImageFrames``, without its ID."""
        return {
            "MinPixelValue": self.lowest,
            "MaxPixelValue": self.highest,
            "FrameSizeInBytes": self.size,
            "PixelDataChecksumFromBaseToFullResolution": [
                {"Width": self.width, "Height": self.height, "Checksum": self.checksum}
            ],
        }


@dataclass
class Frames:
    """The frames of an instance, their encoding, and the types of the warnings that cutting them apart gave."""

    transfer_syntax: str
    frames: list[Frame] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)


def read_frames(dataset: Dataset, transfer_syntax: str) -> Frames:
    """Cut the pixel data of an instance into frames.

    Native data becomes Explicit VR Little Endian. Encapsulated data that HealthImaging stores unchanged is stored
    unchanged; data that it would transcode to HTJ2K is decoded if a decoder is installed, else stored unchanged: this
    emulator has no HTJ2K encoder.

    Parameters
    ----------
    dataset : Dataset
    transfer_syntax : str
        Of the file meta information.
    """
    keyword = next((name for name in sorted(PIXEL_KEYWORDS) if name in dataset), None)
    if transfer_syntax not in SUPPORTED:
        return Frames(transfer_syntax, warnings=["UNSUPPORTED_TRANSFER_SYNTAX"] if keyword else [])
    if keyword is None:
        return Frames(transfer_syntax)
    try:
        if transfer_syntax in NATIVE:
            return _native(dataset, keyword, transfer_syntax)
        return _encapsulated(dataset, transfer_syntax)
    except BROKEN:
        return Frames(transfer_syntax, warnings=["FRAMES_EXTRACTION_FAILURE"])


def _number_of_frames(dataset: Dataset) -> int:
    return int(dataset.get("NumberOfFrames") or 1)


def _native(dataset: Dataset, keyword: str, transfer_syntax: str) -> Frames:
    found = Frames(ExplicitVRLittleEndian)
    bits, count = int(dataset.BitsAllocated), _number_of_frames(dataset)
    samples = 2 if dataset.get("PhotometricInterpretation") == "YBR_FULL_422" else int(dataset.SamplesPerPixel)
    frame_bits = int(dataset.Rows) * int(dataset.Columns) * samples * bits
    data: bytes = dataset[keyword].value
    if frame_bits <= 0 or count <= 0 or (frame_bits % 8 and count > 1) or len(data) * 8 < frame_bits:
        found.warnings.append("FRAMES_EXTRACTION_FAILURE")
        return found
    size = (frame_bits + 7) // 8
    complete = len(data) // size
    if complete < count:
        found.warnings.append("FRAMES_EXTRACTION_FAILURE")
        return found
    if complete > count:
        found.warnings.append("FRAME_NUMBER_MISMATCH")
    if transfer_syntax == ExplicitVRBigEndian and dataset[keyword].VR == "OW":
        data = _swap_bytes(data)
    for index in range(count):
        found.frames.append(_described(data[index * size : (index + 1) * size], dataset, bits))
    return found


def _swap_bytes(data: bytes) -> bytes:
    words = array("H", data[: len(data) // 2 * 2])
    words.byteswap()
    return words.tobytes()


def _described(data: bytes, dataset: Dataset, bits: int) -> Frame:
    code = UNPACKED.get(bits)
    if code is None or len(data) * 8 % bits:
        return Frame.of(data, dataset)
    signed = bool(dataset.get("PixelRepresentation", 0))
    return Frame.of(data, dataset, array(code.lower() if signed else code, data))


def _encapsulated(dataset: Dataset, transfer_syntax: str) -> Frames:
    found = Frames(transfer_syntax)
    data: bytes = dataset.PixelData
    count = _number_of_frames(dataset)
    if not _offsets_are_sound(data):
        found.warnings.append("INVALID_OFFSET_TABLE")
        return found
    if transfer_syntax in TRANSCODED and transfer_syntax != HTJ2K_RPCL:
        decoded = _decoded(dataset, transfer_syntax)
        if decoded:
            return Frames(ExplicitVRLittleEndian, decoded, _count_warning(len(decoded), count))
    cut = list(_split_frames(data, transfer_syntax, count))
    found.frames = [Frame.of(part, dataset) for part in cut]
    found.warnings = [] if transfer_syntax in VIDEO else _count_warning(len(cut), count)
    if found.warnings or not all(cut):
        found.frames = []
    return found


def _count_warning(found: int, announced: int) -> list[str]:
    return [] if found == announced else ["FRAME_NUMBER_MISMATCH"]


def _offsets_are_sound(data: bytes) -> bool:
    """Return whether every entry of the Basic Offset Table points at a fragment's item tag (PS3.5 A.4)."""
    offsets = parse_basic_offsets(data)
    start = 8 + 4 * len(offsets)
    return all(data[start + offset : start + offset + 4] == b"\xfe\xff\x00\xe0" for offset in offsets)


def _split_frames(data: bytes, transfer_syntax: str, count: int) -> Iterator[bytes]:
    if transfer_syntax in VIDEO:
        # A video is one stream in one or more fragments, whatever its NumberOfFrames.
        start = 8 + 4 * len(parse_basic_offsets(data))
        yield b"".join(generate_fragments(data[start:]))
    else:
        yield from generate_frames(data, number_of_frames=count)


def _decoded(dataset: Dataset, transfer_syntax: str) -> list[Frame]:
    try:
        decoder = get_decoder(UID(transfer_syntax))
    except NotImplementedError:
        return []
    if not decoder.is_available:
        return []
    bits = int(dataset.BitsAllocated)
    try:
        return [_described(bytes(data), dataset, bits) for data, _ in decoder.iter_buffer(dataset, raw=True)]
    except BROKEN:  # a limit of the installed decoder, as 12 bits are for Pillow's, is not a fault of the file
        return []
