"""The frame encoders, decoded again by what their standards say."""

import struct

import pytest

from airlock_local.sample.pixels import (
    Frame,
    jpeg2000_frame,
    jpeg_baseline_frame,
    jpeg_lossless_frame,
    noise,
    phantom,
    rle_frame,
)

GREY_12 = Frame(phantom(32, 24, 12, "test"), 32, 24, 1, 16, 12)
GREY_8 = Frame(phantom(64, 64, 8, "test"), 64, 64, 1, 8, 8)


def unpack_bits(data: bytes, size: int) -> bytes:
    """Decode PackBits (PS3.5 section G.3.2) up to `size` bytes."""
    out, at = bytearray(), 0
    while len(out) < size:
        control = data[at]
        if control < 128:
            out += data[at + 1 : at + 2 + control]
            at += 2 + control
        else:
            out += data[at + 1 : at + 2] * (257 - control)
            at += 2
    return bytes(out)


def decode_rle(data: bytes, size: int) -> list[bytes]:
    count, *offsets = struct.unpack("<16L", data[:64])
    return [unpack_bits(data[offset:], size) for offset in offsets[:count]]


class Bits:
    """The entropy-coded segment between SOS and EOI, bit by bit."""

    def __init__(self, codestream: bytes) -> None:
        start = codestream.index(b"\xff\xda")
        (length,) = struct.unpack_from(">H", codestream, start + 2)
        scan = codestream[start + 2 + length : -2].replace(b"\xff\x00", b"\xff")
        self.bits = "".join(f"{byte:08b}" for byte in scan)

    def take(self, count: int) -> int:
        head, self.bits = self.bits[:count], self.bits[count:]
        return int(head, 2) if count else 0

    def difference(self, code_length: int) -> int:
        category = self.take(code_length)
        value = self.take(category)
        return value if not category or value >> (category - 1) else value - (1 << category) + 1


@pytest.mark.parametrize(
    "frame",
    [
        GREY_12,
        GREY_8,
        Frame(noise(16 * 16 * 3, "rgb"), 16, 16, 3, 8, 8),
        Frame(bytes(300 * 2), 2, 300, 1, 8, 8),
        Frame(noise(300 * 2, "literal"), 2, 300, 1, 8, 8),
        Frame(bytes(129), 1, 129, 1, 8, 8),
    ],
    ids=["grey 12", "grey 8", "rgb", "long runs", "long literals", "run of 129"],
)
def test_rle_gives_back_every_byte(frame: Frame) -> None:
    planes = decode_rle(rle_frame(frame), frame.rows * frame.columns)
    width = frame.bits_allocated // 8
    back = bytearray(len(frame.data))
    for index, plane in enumerate(planes):
        sample, byte = divmod(index, width)
        back[sample * width + width - 1 - byte :: width * frame.samples] = plane
    assert bytes(back) == frame.data


def test_rle_segments_have_even_lengths() -> None:
    data = rle_frame(GREY_12)
    assert [offset % 2 for offset in struct.unpack_from("<2L", data, 4)] == [0, 0]
    assert len(data) % 2 == 0


def test_jpeg_lossless_gives_back_every_sample() -> None:
    bits, samples = Bits(jpeg_lossless_frame(GREY_12)), []
    for index in range(GREY_12.rows * GREY_12.columns):
        predicted = samples[index - (1 if index % GREY_12.columns else GREY_12.columns)] if index else 1 << 11
        samples.append(predicted + bits.difference(5))
    assert samples == GREY_12.values()


def test_jpeg_baseline_keeps_the_mean_of_each_block() -> None:
    bits, level = Bits(jpeg_baseline_frame(GREY_8)), 0
    for y in range(0, 64, 8):
        for x in range(0, 64, 8):
            level += bits.difference(4)
            assert bits.take(1) == 0
            block = [GREY_8.data[(y + line) * 64 + x + column] for line in range(8) for column in range(8)]
            assert level + 128 == sum(block) // 64


@pytest.mark.parametrize(
    ("codestream", "marker", "precision"),
    [(jpeg_baseline_frame(GREY_8), 0xC0, 8), (jpeg_lossless_frame(GREY_12), 0xC3, 12)],
    ids=["baseline", "lossless"],
)
def test_jpeg_frame_header_says_size_and_precision(codestream: bytes, marker: int, precision: int) -> None:
    at = codestream.index(bytes([0xFF, marker]))
    frame = GREY_8 if precision == 8 else GREY_12
    assert struct.unpack_from(">BHH", codestream, at + 4) == (precision, frame.rows, frame.columns)
    assert (codestream[:2], codestream[-2:]) == (b"\xff\xd8", b"\xff\xd9")


def test_jpeg_2000_tile_length_reaches_the_end_of_codestream() -> None:
    codestream = jpeg2000_frame(GREY_12)
    tile = codestream.index(b"\xff\x90")
    (length,) = struct.unpack_from(">L", codestream, tile + 6)
    assert codestream[tile + length :] == b"\xff\xd9"
    assert struct.unpack_from(">LL", codestream, 8) == (GREY_12.columns, GREY_12.rows)


def test_phantoms_stay_within_the_bits_stored_and_differ() -> None:
    assert max(GREY_12.values()) < 1 << 12
    assert phantom(32, 32, 12, "a") != phantom(32, 32, 12, "b")
    assert phantom(32, 32, 12, "a") == phantom(32, 32, 12, "a")
