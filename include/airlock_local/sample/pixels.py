"""Small invented images, and the few frame encoders that need no codec library."""

import hashlib
import struct
import sys
from array import array
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from itertools import groupby

from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import ExplicitVRBigEndian, JPEG2000Lossless, JPEGBaseline8Bit, JPEGLosslessSV1, RLELossless


def noise(length: int, *parts: object) -> bytes:
    """Return `length` bytes that look random and belong to `parts`, the same on every machine and Python."""
    return hashlib.shake_256("/".join(map(str, parts)).encode()).digest(length)


@lru_cache
def _disc(rows: int, columns: int, low: int, high: int) -> list[int]:
    """Return the samples of a bright disc on a dark ground, row by row."""
    centre_y, centre_x, limit = rows / 2, columns / 2, (min(rows, columns) * 0.42) ** 2
    return [
        high if (y - centre_y) ** 2 + (x - centre_x) ** 2 < limit else low for y in range(rows) for x in range(columns)
    ]


def phantom(rows: int, columns: int, bits: int, *parts: object) -> bytes:
    """Return one frame, little endian: a disc with noise that belongs to `parts`.

    Parameters
    ----------
    rows, columns
        Size in pixels.
    bits
        Bits Stored; up to 8 make one byte per sample, more make two.
    *parts
        What tells this frame from all others, such as its SOP Instance UID and frame number.
    """
    top = 1 << bits
    grain = noise(rows * columns, *parts)
    step = max(1, top >> 6)
    disc = _disc(rows, columns, top // 16, top // 2)
    samples = [level + (byte & 7) * step for level, byte in zip(disc, grain, strict=True)]
    return bytes(samples) if bits <= 8 else little_endian_words(samples)


def little_endian_words(samples: list[int]) -> bytes:
    """Return `samples` as 16-bit little endian words."""
    words = array("H", samples)
    if sys.byteorder == "big":
        words.byteswap()
    return words.tobytes()


def swap_words(data: bytes) -> bytes:
    """Return `data` with the two bytes of each 16-bit word exchanged."""
    words = array("H", data)
    words.byteswap()
    return words.tobytes()


@dataclass(frozen=True)
class Frame:
    """One frame of native little endian samples, with the attributes that encoders need."""

    data: bytes
    rows: int
    columns: int
    samples: int
    bits_allocated: int
    bits_stored: int

    def values(self) -> list[int]:
        """Return the samples as numbers."""
        if self.bits_allocated == 8:
            return list(self.data)
        return [low | high << 8 for low, high in zip(self.data[::2], self.data[1::2], strict=True)]

    def byte_planes(self) -> list[bytes]:
        """Return the byte planes in RLE order: per sample, most significant byte first (PS3.5 section G.2)."""
        width = self.bits_allocated // 8
        stride = width * self.samples
        return [
            self.data[sample * width + width - 1 - byte :: stride]
            for sample in range(self.samples)
            for byte in range(width)
        ]


def rle_frame(frame: Frame) -> bytes:
    """Return the frame in RLE Lossless (PS3.5 annex G)."""
    segments = []
    for plane in frame.byte_planes():
        rows = [plane[at : at + frame.columns] for at in range(0, len(plane), frame.columns)]
        segment = b"".join(map(_pack_bits, rows))
        segments.append(segment + bytes(len(segment) % 2))
    offsets = [64 + sum(map(len, segments[:index])) for index in range(len(segments))]
    header = struct.pack("<16L", len(segments), *offsets, *[0] * (15 - len(segments)))
    return header + b"".join(segments)


def _pack_bits(row: bytes) -> bytes:
    """Return one row as PackBits runs: replicate runs of up to 128 bytes, else literal bytes."""
    out = bytearray()
    literal = bytearray()

    def flush() -> None:
        for at in range(0, len(literal), 128):
            part = literal[at : at + 128]
            out.extend((len(part) - 1, *part))
        literal.clear()

    for value, run in groupby(row):
        count = sum(1 for _ in run)
        if count < 3:
            literal.extend([value] * count)
            continue
        flush()
        for at in range(0, count, 128):
            length = min(128, count - at)
            out.extend((0, value) if length == 1 else (257 - length, value))
    flush()
    return bytes(out)


class _BitWriter:
    """Bits of a JPEG entropy-coded segment, most significant first, with 0xFF stuffed."""

    def __init__(self) -> None:
        self._bits: list[str] = []

    def code(self, value: int, length: int) -> None:
        """Append the lowest `length` bits of `value`."""
        if length:
            self._bits.append(f"{value:0{length}b}")

    def difference(self, value: int, code_length: int) -> None:
        """Append a difference: its category as a Huffman code, then its bits (ITU-T T.81 section F.1.2.1)."""
        category = abs(value).bit_length()
        self.code(category, code_length)
        self.code(value if value >= 0 else value + (1 << category) - 1, category)

    def getvalue(self) -> bytes:
        """Return the bytes, the last one filled up with ones."""
        bits = "".join(self._bits)
        bits += "1" * (-len(bits) % 8)
        return int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")


def _segment(marker: int, payload: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(payload) + 2) + payload


def _huffman_table(table: int, code_length: int, symbols: int) -> bytes:
    """Return a DHT segment in which symbol n has the code n of `code_length` bits (ITU-T T.81 section B.2.4.2)."""
    counts = [symbols if length == code_length else 0 for length in range(1, 17)]
    return _segment(0xC4, bytes([table, *counts, *range(symbols)]))


def jpeg_baseline_frame(frame: Frame) -> bytes:
    """Return an 8-bit grey frame in JPEG baseline (ITU-T T.81), reduced to the mean of each 8 x 8 block.

    The mean alone needs no cosine transform: it is the DC coefficient, divided here by a quantiser of 8.
    Rows and columns must be multiples of 8.
    """
    bits, previous = _BitWriter(), 0
    for y in range(0, frame.rows, 8):
        for x in range(0, frame.columns, 8):
            lines = (frame.data[(y + line) * frame.columns + x :][:8] for line in range(8))
            level = sum(map(sum, lines)) // 64 - 128
            bits.difference(level - previous, 4)
            bits.code(0, 1)  # end of block: no AC coefficients
            previous = level
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xDB, bytes([0, *[8] * 64])),
            _segment(0xC0, struct.pack(">BHHBBBB", 8, frame.rows, frame.columns, 1, 1, 0x11, 0)),
            _huffman_table(0x00, 4, 12),
            _huffman_table(0x10, 1, 1),
            _segment(0xDA, bytes([1, 1, 0x00, 0, 63, 0])),
            bits.getvalue(),
            b"\xff\xd9",
        )
    )


def jpeg_lossless_frame(frame: Frame) -> bytes:
    """Return a grey frame in JPEG lossless, first-order prediction (ITU-T T.81 annex H, selection value 1)."""
    values, bits = frame.values(), _BitWriter()
    for index, value in enumerate(values):
        if index == 0:
            predicted = 1 << (frame.bits_stored - 1)
        else:
            predicted = values[index - 1] if index % frame.columns else values[index - frame.columns]
        bits.difference(value - predicted, 5)
    return b"".join(
        (
            b"\xff\xd8",
            _segment(0xC3, struct.pack(">BHHBBBB", frame.bits_stored, frame.rows, frame.columns, 1, 1, 0x11, 0)),
            _huffman_table(0x00, 5, 16),
            _segment(0xDA, bytes([1, 1, 0x00, 1, 0, 0])),
            bits.getvalue(),
            b"\xff\xd9",
        )
    )


def jpeg2000_frame(frame: Frame) -> bytes:
    """Return an even grey frame in JPEG 2000 (ITU-T T.800): one tile, no decomposition, its one packet empty.

    An empty packet leaves every coefficient at zero, so that the level shift alone makes the picture. It is the
    smallest valid codestream of this size, and takes no wavelet coder to write.
    """
    size = (frame.columns, frame.rows)
    siz = struct.pack(">HLLLLLLLLH", 0, *size, 0, 0, *size, 0, 0, 1) + bytes([frame.bits_stored - 1, 1, 1])
    cod = struct.pack(">BBHBBBBBB", 0, 0, 1, 0, 0, 4, 4, 0, 1)
    qcd = bytes([0x40, frame.bits_stored << 3])
    return b"".join(
        (
            b"\xff\x4f",
            _segment(0x51, siz),
            _segment(0x52, cod),
            _segment(0x5C, qcd),
            _segment(0x90, struct.pack(">HLBB", 0, 15, 0, 1)),
            b"\xff\x93\x00",
            b"\xff\xd9",
        )
    )


FRAME_ENCODERS: dict[str, Callable[[Frame], bytes]] = {
    RLELossless: rle_frame,
    JPEGBaseline8Bit: jpeg_baseline_frame,
    JPEGLosslessSV1: jpeg_lossless_frame,
    JPEG2000Lossless: jpeg2000_frame,
}


def frames_of(ds: Dataset) -> list[Frame]:
    """Return the frames of native little endian Pixel Data (7FE0,0010)."""
    length = ds.Rows * ds.Columns * ds.SamplesPerPixel * ds.BitsAllocated // 8
    shape = (ds.Rows, ds.Columns, ds.SamplesPerPixel, ds.BitsAllocated, ds.BitsStored)
    return [Frame(ds.PixelData[at : at + length], *shape) for at in range(0, len(ds.PixelData) - length + 1, length)]


def encode_pixels(ds: Dataset, transfer_syntax: str) -> None:
    """Bring native little endian Pixel Data into the encoding of a transfer syntax."""
    if transfer_syntax in FRAME_ENCODERS:
        _compress_pixels(ds, transfer_syntax)
    elif transfer_syntax == ExplicitVRBigEndian and ds.get("BitsAllocated") == 16:
        ds.PixelData = swap_words(ds.PixelData)


def _compress_pixels(ds: Dataset, transfer_syntax: str) -> None:
    """Replace native Pixel Data by encapsulated frames, one fragment each (PS3.5 section A.4)."""
    encode = FRAME_ENCODERS[transfer_syntax]
    ds.PixelData = encapsulate([encode(frame) for frame in frames_of(ds)])
    ds["PixelData"].VR = "OB"
    ds["PixelData"].is_undefined_length = True
    if transfer_syntax == JPEGBaseline8Bit:
        ds.LossyImageCompression = "01"
        ds.LossyImageCompressionRatio = "50"
        ds.LossyImageCompressionMethod = "ISO_10918_1"
