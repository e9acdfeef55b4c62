"""Lines of a stream: the same wherever it is cut, packed or not, and never more of them in memory than one."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.storage.lines import BrokenGzipError, Line, split, unpack

if TYPE_CHECKING:
    from collections.abc import Iterator

BOM = b"\xef\xbb\xbf"
# Bytes in which what matters is frequent: line ends, blanks, parts of a byte order mark.
TEXT = st.lists(st.sampled_from([b"\n", b"\r\n", b" ", b"\t", b"a", b"bc", b"\xef", b"\xbb", BOM, b"\0"])).map(b"".join)
CUTS = st.lists(st.integers(0, 60), max_size=6)
PACKED = gzip.compress(b"one\n") + gzip.compress(b"") + gzip.compress(b"two\nthree")


def cut(data: bytes, at: list[int]) -> list[bytes]:
    """Return the pieces of a stream that is cut there; some are empty."""
    edges = [0, *sorted(min(place, len(data)) for place in at), len(data)]
    return [data[start:end] for start, end in pairwise(edges)]


def expected(data: bytes, limit: int) -> list[Line]:
    """Return the lines of a text that is there as a whole."""
    lines = enumerate(data.removeprefix(BOM).split(b"\n"), start=1)
    kept = [(number, None if len(text) > limit else text.strip(), len(text)) for number, text in lines]
    return [Line(*line) for line in kept if line[1] != b""]


class TestSplit:
    @given(TEXT, CUTS, st.integers(0, 8))
    def test_where_the_stream_is_cut_does_not_matter(self, data: bytes, at: list[int], limit: int) -> None:
        assert list(split(cut(data, at), limit)) == expected(data, limit)

    def test_blank_lines_count_and_are_left_out(self) -> None:
        assert list(split([b"\n \r\na\r\n\n\tb"], 10)) == [Line(3, b"a", 2), Line(5, b"b", 2)]

    def test_of_a_line_that_is_too_long_only_its_size_is_known(self) -> None:
        assert list(split([b"12345\n123456\n1"], 5)) == [Line(1, b"12345", 5), Line(2, None, 6), Line(3, b"1", 1)]

    def test_no_more_than_a_line_of_the_size_allowed_is_held(self) -> None:
        def stream() -> Iterator[bytes]:
            yield from (b"x" * 100_000 for _ in range(500))
            yield b"\nlast"

        tracemalloc.start()
        lines = list(split(stream(), 1_000_000))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert lines == [Line(1, None, 50_000_000), Line(2, b"last", 4)]
        assert peak < 4_000_000


class TestUnpacked:
    @given(CUTS)
    def test_several_members_are_one_stream_wherever_it_is_cut(self, at: list[int]) -> None:
        assert b"".join(unpack(cut(PACKED, at))) == b"one\ntwo\nthree"

    @given(st.lists(st.tuples(st.binary(max_size=50), st.integers(0, 5)), min_size=1, max_size=4), CUTS)
    def test_padding_after_a_member_is_skipped(self, members: list[tuple[bytes, int]], at: list[int]) -> None:
        stream = b"".join(gzip.compress(content) + bytes(padding) for content, padding in members)
        assert b"".join(unpack(cut(stream, at))) == b"".join(content for content, _ in members)

    @given(st.binary(max_size=50).filter(lambda data: not data.startswith(b"\x1f\x8b")), CUTS)
    def test_what_is_not_packed_stays_as_it_is(self, data: bytes, at: list[int]) -> None:
        assert b"".join(unpack(cut(data, at))) == data

    @pytest.mark.parametrize("end", range(2, len(PACKED)))
    def test_a_stream_that_is_cut_short_is_told_unless_a_member_ends_there(self, end: int) -> None:
        first, second = len(gzip.compress(b"one\n")), len(gzip.compress(b"one\n") + gzip.compress(b""))
        if end in (first, second):
            assert b"".join(unpack([PACKED[:end]])) == b"one\n"
        else:
            with pytest.raises(BrokenGzipError, match="before its end"):
                list(unpack([PACKED[:end]]))

    @pytest.mark.parametrize("place", [12, len(gzip.compress(b"one\n")) - 6])  # in the data, in its checksum
    def test_damage_is_told(self, place: int) -> None:
        damaged = bytearray(PACKED)
        damaged[place] ^= 0xFF
        with pytest.raises(BrokenGzipError):
            list(unpack([bytes(damaged)]))

    def test_other_bytes_after_the_last_member_are_damage(self) -> None:
        with pytest.raises(BrokenGzipError, match="damaged"):
            list(unpack([PACKED, b"\0\0 more"]))

    def test_what_came_before_the_damage_was_yielded(self) -> None:
        content = unpack([gzip.compress(b"whole"), b"\x1f\x8b and no more"])
        assert next(content) == b"whole"
        with pytest.raises(BrokenGzipError):
            next(content)

    def test_a_bomb_is_unpacked_a_little_at_a_time(self) -> None:
        packer = zlib.compressobj(9, wbits=31)
        bomb = b"".join(packer.compress(bytes(1_000_000)) for _ in range(100)) + packer.flush()
        tracemalloc.start()
        size = sum(len(piece) for piece in unpack([bomb]))
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert size == 100_000_000
        assert peak < 8_000_000
