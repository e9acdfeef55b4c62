"""The model of a power cut that the proofs use: only what was flushed is left, and names may be there earlier."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.edge_kills.power_cut import Disk, Kind, read_trace

if TYPE_CHECKING:
    from pathlib import Path

ROOT = "/state"


def encode(text: str | bytes) -> str:
    raw = text.encode() if isinstance(text, str) else text
    return '"' + "".join(f"\\x{byte:02x}" for byte in raw) + '"'


def on(path: str) -> str:
    return f"7<{encode(path)[1:-1]}>"


MKDIRS = [f"1 mkdir({encode(f'{ROOT}/{name}')}, 0700) = 0" for name in ("incoming", "spool")]
FLUSH_STATE = f"1 fsync({on(ROOT)}) = 0"
OPEN = f"1 openat(AT_FDCWD, {encode(f'{ROOT}/incoming/a')}, O_WRONLY|O_CREAT|O_EXCL, 0600) = 7"
WRITE = f"1 write({on(f'{ROOT}/incoming/a')}, {encode(b'bytes')}, 5) = 5"
FLUSH = f"1 fdatasync({on(f'{ROOT}/incoming/a')}) = 0"
RENAME = f"1 rename({encode(f'{ROOT}/incoming/a')}, {encode(f'{ROOT}/spool/a')}) = 0"
LINK = f"1 link({encode(f'{ROOT}/incoming/a')}, {encode(f'{ROOT}/spool/a')}) = 0"
FLUSH_SPOOL = f"1 fsync({on(f'{ROOT}/spool')}) = 0"
UNLINK = f"1 unlink({encode(f'{ROOT}/spool/a')}) = 0"


def left(folder: Path, lines: list[str], kind: Kind) -> dict[str, bytes]:
    trace = folder / "trace"
    trace.write_text("\n".join([*MKDIRS, FLUSH_STATE, *lines]))
    disk = Disk(ROOT)
    for _ in disk.apply(read_trace(trace)):
        pass
    return disk.cut(kind).files


@pytest.mark.parametrize("name", [RENAME, LINK])
def test_what_is_flushed_is_left(tmp_path: Path, name: str) -> None:
    lines = [OPEN, WRITE, FLUSH, name, FLUSH_SPOOL]
    assert left(tmp_path, lines, Kind.FLUSHED)["spool/a"] == b"bytes"
    assert left(tmp_path, lines, Kind.EARLY)["spool/a"] == b"bytes"


def test_a_name_that_is_not_flushed_is_lost_or_there(tmp_path: Path) -> None:
    lines = [OPEN, WRITE, FLUSH, RENAME]
    assert left(tmp_path, lines, Kind.FLUSHED) == {}
    assert left(tmp_path, lines, Kind.EARLY) == {"spool/a": b"bytes"}


def test_bytes_that_are_not_flushed_are_lost_under_a_name_that_is(tmp_path: Path) -> None:
    lines = [OPEN, WRITE, RENAME, FLUSH_SPOOL]
    assert left(tmp_path, lines, Kind.FLUSHED) == {"spool/a": b""}


def test_a_removed_name_is_back_or_gone(tmp_path: Path) -> None:
    lines = [OPEN, WRITE, FLUSH, RENAME, FLUSH_SPOOL, UNLINK]
    assert left(tmp_path, lines, Kind.FLUSHED) == {"spool/a": b"bytes"}
    assert left(tmp_path, lines, Kind.EARLY) == {}


def test_bytes_that_come_while_a_flush_is_under_way_are_not_flushed_by_it(tmp_path: Path) -> None:
    begun, ended = f"2 fdatasync({on(f'{ROOT}/incoming/a')} <unfinished ...>", "2 <... fdatasync resumed>) = 0"
    lines = [OPEN, begun, WRITE, ended, RENAME, FLUSH_SPOOL]
    assert left(tmp_path, lines, Kind.FLUSHED) == {"spool/a": b""}
