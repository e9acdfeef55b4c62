"""What a disk has after a power cut at some moment, from a trace (strace) of the calls that an edge made.

kill -9 loses nothing that the system has cached. This model loses everything that was not flushed: a file has the bytes
of its last fsync, and a folder has the names of its last fsync (`FLUSHED`); or a folder has the names of the moment
already, since a system may write them earlier than it must (`EARLY`). What counts as safe must be safe in both.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

CALLS = "openat,mkdir,write,pwrite64,fsync,fdatasync,rename,link,linkat,unlink,ftruncate,sendto,recvfrom"
OPTIONS = ("strace", "-f", "-yy", "-xx", "-s", "1000000", "-e", f"trace={CALLS}", "--seccomp-bpf")
_WHOLE = re.compile(r"(\d+) +(\w+)\((.*)\) += (-?\d+)")
_BEGUN = re.compile(r"(\d+) +(\w+)\((.*) <unfinished \.\.\.>")
_ENDED = re.compile(r"(\d+) +<\.\.\. (\w+) resumed>(.*)\) += (-?\d+)")
_HEX = re.compile(r"\\x([0-9a-f]{2})")
_TEXT = re.compile(r'"((?:\\x[0-9a-f]{2})*)"')
_DESCRIPTOR = re.compile(r"\d+<(TCP[^\]]*\]|[^>]*)>")


class Kind(Enum):
    """Which power cut: what folders have."""

    FLUSHED = "folders as of their last flush"
    EARLY = "folders as of the moment"


class Call(NamedTuple):
    """One call: where in the trace it began and ended, its thread, name, arguments as printed, and result."""

    began: int
    ended: int
    thread: str
    name: str
    arguments: str
    result: int

    @property
    def texts(self) -> list[bytes]:
        """The texts among the arguments."""
        return [_decode(found) for found in _TEXT.findall(self.arguments)]

    @property
    def target(self) -> str:
        """The path or the socket of the first descriptor, such as "TCP:[127.0.0.1:11112->127.0.0.1:40000]"."""
        found = _DESCRIPTOR.match(self.arguments)
        return _decode(found[1]).decode(errors="replace") if found else ""


def _decode(text: str) -> bytes:
    return b"".join(
        bytes.fromhex(part) if number % 2 else part.encode() for number, part in enumerate(_HEX.split(text))
    )


def read_trace(path: Path) -> list[Call]:
    """Return the calls that succeeded, in the order of their ends."""
    return list(_read_calls(path.read_text(errors="replace").splitlines()))


def _read_calls(lines: Iterable[str]) -> Iterator[Call]:
    begun: dict[str, tuple[int, str]] = {}
    for number, line in enumerate(lines):
        if found := _BEGUN.match(line):
            begun[found[1]] = number, found[3]
            continue
        if found := _ENDED.match(line):
            at, arguments = begun.pop(found[1], (number, ""))
            call = Call(at, number, found[1], found[2], arguments + found[3], int(found[4]))
        elif found := _WHOLE.match(line):
            call = Call(number, number, found[1], found[2], found[3], int(found[4]))
        else:
            continue
        if call.result >= 0:
            yield call


@dataclass
class _File:
    content: bytearray = field(default_factory=bytearray)
    flushed: bytes = b""


@dataclass
class _Folder:
    names: dict[str, _File | _Folder] = field(default_factory=dict)
    flushed: dict[str, _File | _Folder] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """What is left after a power cut: contents by path below the state folder."""

    files: dict[str, bytes]

    def write(self, folder: Path) -> None:
        """Write it into a folder."""
        for name, content in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)


class Disk:
    """The state folder as the calls made it.

    Parameters
    ----------
    root
        The state folder, which must be there, empty, before the first call.
    """

    def __init__(self, root: str) -> None:
        self._root = root.rstrip("/")
        self._folder = _Folder()

    def apply(self, calls: Sequence[Call]) -> Iterator[Call]:
        """Apply calls, and yield each whose effect is on the disk or on a socket, when it has it.

        A flush makes durable what was written before it began, when it has ended. A message leaves when it begins.
        """
        moments = [(call.ended, 1, call) for call in calls if call.name not in {"sendto", "fsync", "fdatasync"}]
        moments += [(call.began, 0, call) for call in calls if call.name == "sendto"]
        snapshots: dict[int, tuple[_File | _Folder, bytes | dict[str, _File | _Folder]]] = {}
        for call in calls:
            if call.name in {"fsync", "fdatasync"}:
                moments += [(call.began, 0, call), (call.ended, 2, call)]
        for at, part, call in sorted(moments, key=lambda moment: moment[:2]):
            if call.name in {"fsync", "fdatasync"}:
                if part == 0:
                    self._begin_flush(call, snapshots)
                    continue
                self._end_flush(call, snapshots)
            else:
                self._apply_one(call)
            del at
            yield call

    def _find(self, path: str) -> _File | _Folder | None:
        if path == self._root:
            return self._folder
        if not path.startswith(self._root + "/"):
            return None
        found: _File | _Folder | None = self._folder
        for part in path.removeprefix(self._root + "/").split("/"):
            found = found.names.get(part) if isinstance(found, _Folder) else None
        return found

    def _parent(self, path: str) -> tuple[_Folder | None, str]:
        head, _, name = path.rpartition("/")
        parent = self._find(head)
        return (parent if isinstance(parent, _Folder) else None), name

    def _begin_flush(self, call: Call, snapshots: dict[int, object]) -> None:
        found = self._find(call.target)
        if isinstance(found, _File):
            snapshots[call.began] = found, bytes(found.content)
        elif found is not None:
            snapshots[call.began] = found, dict(found.names)

    def _end_flush(self, call: Call, snapshots: dict[int, object]) -> None:
        found = snapshots.pop(call.began, None)
        if found is not None:
            found[0].flushed = found[1]  # type: ignore[index]

    def _apply_one(self, call: Call) -> None:
        texts = call.texts
        if call.name == "openat" and "O_CREAT" in call.arguments:
            parent, name = self._parent(texts[0].decode())
            if parent is not None:
                parent.names.setdefault(name, _File())
        elif call.name == "mkdir":
            parent, name = self._parent(texts[0].decode())
            if parent is not None:
                parent.names[name] = _Folder()
        elif call.name in {"rename", "link", "linkat"}:
            self._rename(call.name == "rename", *(text.decode() for text in texts))
        elif call.name == "unlink":
            parent, name = self._parent(texts[0].decode())
            if parent is not None:
                parent.names.pop(name, None)
        elif call.name in {"write", "pwrite64", "ftruncate"}:
            self._write(call)

    def _rename(self, moves: bool, old: str, new: str) -> None:
        source, name = self._parent(old)
        target, new_name = self._parent(new)
        if source is not None and target is not None:
            target.names[new_name] = source.names[name]
            if moves:
                del source.names[name]

    def _write(self, call: Call) -> None:
        found = self._find(call.target)
        if not isinstance(found, _File):
            return
        last = int(call.arguments.rpartition(",")[2].strip() or 0)
        if call.name == "ftruncate":
            found.content[last:] = bytes(max(0, last - len(found.content)))
            return
        at = last if call.name == "pwrite64" else len(found.content)
        content = call.texts[0][: call.result]
        found.content.extend(bytes(max(0, at - len(found.content))))
        found.content[at : at + len(content)] = content

    def cut(self, kind: Kind) -> Cut:
        """Return what is left if the power is cut now."""
        return Cut(dict(_list_files(self._folder, "", kind)))


def _list_files(folder: _Folder, path: str, kind: Kind) -> Iterator[tuple[str, bytes]]:
    for name, found in (folder.flushed if kind is Kind.FLUSHED else folder.names).items():
        if isinstance(found, _Folder):
            yield from _list_files(found, f"{path}{name}/", kind)
        elif not name.endswith("-shm"):  # SQLite makes it anew
            yield path + name, found.flushed
