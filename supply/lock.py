"""The packages of a lock that uv has written: version, marker, hashes, and the packages that require each."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

_PIN = re.compile(r"(?P<name>[a-z0-9._-]+)==(?P<version>[^\s;\\]+)(?: ; (?P<marker>[^\\\n]+?))? *\\?$")
_HASH = re.compile(r"--hash=sha256:([0-9a-f]{64})")
_VIA = re.compile(r"^    #(?: via|  ) (\S.*)$", re.MULTILINE)


class LockError(ValueError):
    """A lock cannot be read; the message names the line."""


@dataclass(frozen=True)
class Pin:
    """One package of a lock."""

    name: str
    version: str
    marker: str  # where the package is installed; empty: everywhere
    hashes: tuple[str, ...]  # SHA-256 of each file of this version, hexadecimal
    required_by: tuple[str, ...]  # the packages that require it


def read_lock(path: Path) -> list[Pin]:
    """Return the packages of a lock, in its order.

    Parameters
    ----------
    path
        A file in pip's requirements format, as ``uv pip compile --generate-hashes`` writes it.

    Raises
    ------
    LockError
        If an entry has no exact version or no hash, or there is no entry.
    """
    text = path.read_text(encoding="utf-8")
    pins = [_read_entry(path.name, entry) for entry in re.split(r"\n(?=[a-z0-9])", text)[1:]]
    if not pins:
        raise LockError(f"{path.name} has no packages. Write it again: make lock")
    return pins


def read_direct(path: Path) -> set[str]:
    """Return the names of the packages that a requirements file names itself, as the lock writes them."""
    found = re.findall(r"^([A-Za-z0-9][\w.-]*)", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[-_.]+", "-", name).lower() for name in found}


def _read_entry(name: str, entry: str) -> Pin:
    first, _, rest = entry.partition("\n")
    found, hashes = _PIN.fullmatch(first), tuple(_HASH.findall(rest))
    if found is None or not hashes:
        raise LockError(f"{name}: {first!r} has no exact version or no hashes. Write the lock again: make lock")
    sources = [source for source in _VIA.findall(rest) if not source.startswith("-")]
    return Pin(found["name"], found["version"], found["marker"] or "", hashes, tuple(sources))
