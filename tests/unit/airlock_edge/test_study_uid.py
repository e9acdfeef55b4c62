"""The StudyInstanceUID of hostile data sets: found where it is, and never at the price of the data set's size."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

from airlock_edge.part10 import make_header
from airlock_edge.study_uid import HEAD, find_study_uid
from tests.dicom_files import ct, study_uid
from tests.servers.edge import data_set_of

if TYPE_CHECKING:
    from pathlib import Path

CONTENT = data_set_of(ct())
LARGE = 256 * 1024**2


def deflate(content: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(content) + packer.flush()


def write(path: Path, content: bytes, syntax: str) -> Path:
    path.write_bytes(make_header("1.2.840.10008.5.1.4.1.1.2", "1.2.3", syntax) + content)
    return path


@pytest.fixture
def find(tmp_path):
    return lambda content, syntax: find_study_uid(write(tmp_path / "a.dcm", content, syntax), syntax)


def private(length: int, content: bytes = b"") -> bytes:
    return struct.pack("<HH2sxxI", 9, 0x1010, b"UN", length) + content


def test_it_is_found_in_a_deflated_data_set(find):
    assert find(deflate(CONTENT), DeflatedExplicitVRLittleEndian) == study_uid(1)


def test_it_is_found_behind_the_first_bytes(find):
    assert find(private(2 * HEAD, bytes(2 * HEAD)) + CONTENT, ExplicitVRLittleEndian) == study_uid(1)
    assert find(deflate(private(2 * HEAD, bytes(2 * HEAD)) + CONTENT), DeflatedExplicitVRLittleEndian) == study_uid(1)


def test_it_is_found_in_another_syntax_than_negotiated(find):
    assert find(CONTENT, ImplicitVRLittleEndian) == study_uid(1)


@pytest.mark.parametrize(
    ("content", "syntax"),
    [
        (deflate(private(LARGE, bytes(LARGE)) + CONTENT), DeflatedExplicitVRLittleEndian),
        (private(0xFFFFFFFF, bytes(64 * 1024**2)), ExplicitVRLittleEndian),
        (b"\x09\0\x10\x10SQ\0\0\xff\xff\xff\xff" * 50_000, ExplicitVRLittleEndian),
        (CONTENT, DeflatedExplicitVRLittleEndian),
    ],
    ids=["deflated bomb", "undefined length", "nested", "not deflated"],
)
def test_one_that_would_cost_too_much_is_not_looked_for(tmp_path, content, syntax):
    path = write(tmp_path / "a.dcm", content, syntax)
    tracemalloc.start()
    try:
        assert not find_study_uid(path, syntax)
        assert tracemalloc.get_traced_memory()[1] < 64 * 1024**2  # three times what a deflated header may have
    finally:
        tracemalloc.stop()
