"""Lines out of a stream, lines into a file."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localaws.healthlake import ndjson
from localaws.healthlake.ndjson import Line, batch_lines, open_ndjson, read_lines


def found(body: bytes, longest: int = 100, head: int = 0) -> list[tuple[int, bytes | None]]:
    stream = io.BytesIO(body)
    return [(line.number, line.body) for line in read_lines(stream, longest, stream.read(head))]


def test_blank_lines_are_passed_over_and_counted() -> None:
    assert found(b"\n{}\n  \r\n[]\r\n\n") == [(2, b"{}"), (4, b"[]")]


def test_the_last_line_needs_no_end() -> None:
    assert found(b"1\n2") == [(1, b"1"), (2, b"2")]


def test_an_empty_file_has_no_line() -> None:
    assert found(b"") == []


def test_what_was_read_before_belongs_to_the_first_line() -> None:
    assert found(b"{}\n[]", head=2) == found(b"{}\n[]", head=3) == [(1, b"{}"), (2, b"[]")]


@pytest.mark.parametrize("chunk", [1, 7, 64, 1 << 20])
def test_a_line_that_is_too_long_costs_itself_alone(chunk: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "CHUNK_BYTES", chunk)
    body = b"a" * 10 + b"\n" + b"b" * 101 + b"\n" + b"c" * 100 + b"\n" + b"d" * 500
    assert list(read_lines(io.BytesIO(body), 100)) == [
        Line(1, b"a" * 10, 10),
        Line(2, None, 101),
        Line(3, b"c" * 100, 100),
        Line(4, None, 500),
    ]


def test_a_long_line_is_never_held_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    class Endless(io.RawIOBase):
        """A gigabyte without a line end; more than a chunk at a time is not asked for."""

        left = 1 << 30

        def read(self, size: int = -1) -> bytes:
            assert size == ndjson.CHUNK_BYTES
            part = min(size, self.left)
            self.left -= part
            return b"x" * part

    assert list(read_lines(Endless(), 1000)) == [Line(1, None, 1 << 30)]  # type: ignore[arg-type]


@given(st.binary(max_size=300), st.integers(1, 50), st.integers(1, 40))
def test_lines_are_those_of_the_whole_file(body: bytes, chunk: int, longest: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ndjson, "CHUNK_BYTES", chunk)
        seen = [(line.number, line.body, line.size) for line in read_lines(io.BytesIO(body), longest)]
    whole = enumerate(body.split(b"\n"), start=1)
    expected = [(number, None if len(part) > longest else part.strip(), len(part)) for number, part in whole]
    assert seen == [line for line in expected if line[1] != b""]


def test_batches_are_bounded_by_lines_and_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ndjson, "BATCH_LINES", 3)
    monkeypatch.setattr(ndjson, "BATCH_BYTES", 10)
    made = [Line(number, b"x" * size, size) for number, size in enumerate([1, 1, 1, 9, 2, 20, 1], start=1)]
    assert [[line.number for line in batch] for batch in batch_lines(made)] == [[1, 2, 3], [4, 5], [6], [7]]


def test_a_file_of_documents_has_one_line_each() -> None:
    with open_ndjson([{"a": 1}, {"b": "ä\n"}]) as file:
        assert file is not None
        assert file.read() == b'{"a":1}\n{"b":"\\u00e4\\n"}\n'
    with open_ndjson([]) as file:
        assert file is None
