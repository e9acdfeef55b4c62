"""Damaged headers: never an exception that is no reason, never a value that silently went missing, never much read."""

from __future__ import annotations

import random
import zlib

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from airlock.dicom.errors import HeaderError
from airlock.dicom.header import Header
from airlock.reasons import Reason
from tests.unit.airlock.dicom.objects import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    Memory,
    element,
    elements,
    item,
    meta,
    read_header,
    sequence,
)


def rich(syntax: str) -> list[bytes]:
    """The elements of a CT with sequences of both kinds and a private blob."""
    request = [item(element(0x00401001, "SH", b"RP-1", syntax), syntax)]
    reference = [item(element(0x00081155, "UI", b"1.2.9 ", syntax), syntax) for _ in range(2)]
    changes: dict[int, tuple[str, bytes] | bytes | None] = {
        0x00081140: sequence(0x00081140, reference, syntax),
        0x00091010: ("OB", bytes(300)),
        0x00400275: sequence(0x00400275, request, syntax, undefined=syntax != BIG_ENDIAN),
    }
    return elements(changes, syntax)


def whole(syntax: str) -> bytes:
    if syntax != DEFLATED:
        return meta(syntax) + b"".join(rich(syntax))
    packer = zlib.compressobj(wbits=-15)
    return meta(DEFLATED) + packer.compress(b"".join(rich(EXPLICIT))) + packer.flush()


def outcome(data: bytes, first_range: int = 16 * 1024) -> Header | HeaderError:
    source = Memory(data)
    try:
        return read_header(source, first_range=first_range)
    except HeaderError as error:
        return error
    finally:
        assert source.bytes_read <= len(data)
        assert len(source.spans) <= 2 + len(data) // first_range


def ends_of_elements(syntax: str) -> set[int]:
    ends, position = set(), len(meta(syntax))
    for encoded in rich(syntax):
        position += len(encoded)
        ends.add(position)
    return ends


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
def test_a_cut_object_never_silently_lacks_a_value(syntax: str) -> None:
    data = whole(syntax)
    full = outcome(data)
    assert isinstance(full, Header)
    allowed = set() if syntax == DEFLATED else ends_of_elements(syntax)
    for cut in range(1, len(data)):
        found = outcome(data[:cut])
        if isinstance(found, Header) and found.values != full.values:
            assert cut in allowed
            assert found.values.items() <= full.values.items()
        elif isinstance(found, HeaderError):
            assert found.reason in {Reason.TRUNCATED, Reason.NOT_DICOM, Reason.UNREADABLE}
            assert found.values.items() <= full.values.items()


@pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
def test_a_cut_inside_an_element_is_called_a_cut(syntax: str) -> None:
    data, ends = whole(syntax), ends_of_elements(syntax)
    first = len(meta(syntax))
    for cut in range(first, len(data)):
        if cut not in ends:
            found = outcome(data[:cut])
            assert isinstance(found, HeaderError)
            assert found.reason is Reason.TRUNCATED


DAMAGE = st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8)


@settings(max_examples=400, deadline=2000, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED]), damage=DAMAGE, cut=st.integers(0, 400))
@example(syntax=EXPLICIT, damage=[(132, 0xFF)], cut=0)
def test_a_damaged_object_gives_a_header_or_a_reason_however_it_is_read(
    syntax: str, damage: list[tuple[int, int]], cut: int
) -> None:
    data = bytearray(whole(syntax))
    for offset, byte in damage:
        data[offset % len(data)] = byte
    broken = bytes(data[: len(data) - cut])
    at_once, in_pieces = outcome(broken), outcome(broken, first_range=64)
    if isinstance(at_once, Header):
        assert isinstance(in_pieces, Header)
        assert in_pieces.values.items() <= at_once.values.items()  # what stands out of order is taken where it is here
    else:
        # only what was read anyway may show a cut behind the last wanted value
        assert isinstance(in_pieces, Header) or in_pieces.reason is at_once.reason


@settings(max_examples=200, deadline=2000, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(
    syntax=st.sampled_from([EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED]),
    damage=DAMAGE,
    first_range=st.integers(16, 400),
    prefetch=st.integers(0, 2000),
)
def test_prefetched_bytes_change_nothing(
    syntax: str, damage: list[tuple[int, int]], first_range: int, prefetch: int
) -> None:
    broken = bytearray(whole(syntax))
    for offset, byte in damage:
        broken[offset % len(broken)] = byte
    sources = Memory(bytes(broken)), Memory(bytes(broken))
    alone = told(sources[0], first_range=first_range)
    assert told(sources[1], first_range=first_range, prefetch=prefetch) == alone
    assert len(sources[1].spans) <= len(sources[0].spans)


def told(source: Memory, **sizes: int) -> object:
    try:
        header = read_header(source, **sizes)
    except HeaderError as error:
        return error.reason, error.detail, error.values, error.doubt
    return header, header.reach


@settings(max_examples=300, deadline=2000, derandomize=True)
@given(st.binary(max_size=3000))
def test_noise_behind_a_prefix_or_a_meta_group_gives_a_reason(noise: bytes) -> None:
    for start in (b"", b"\0" * 128 + b"DICM", meta(), meta(IMPLICIT), meta(DEFLATED)):
        outcome(start + noise)


def test_a_shuffled_data_set_never_raises_anything_else() -> None:
    shuffle = random.Random(7)
    for _ in range(300):
        parts = rich(EXPLICIT)
        shuffle.shuffle(parts)
        outcome(meta() + b"".join(parts))
