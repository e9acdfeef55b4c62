"""Empty ledgers for the tests: migrated once per process, then copied."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from airlock.ledger import upgrade


@cache
def _migrated() -> bytes:
    with TemporaryDirectory(prefix="airlock-ledger-") as folder:
        file = Path(folder, "ledger.db")
        upgrade(f"sqlite:///{file}")
        return file.read_bytes()


def new_ledger(file: Path) -> str:
    """Create an empty ledger in a SQLite file and return its URL."""
    file.write_bytes(_migrated())
    return f"sqlite:///{file}"


def restore(file: Path, backup: bytes) -> None:
    """Put a backup in the place of a SQLite ledger, which may be open."""
    for one in file.parent.glob(f"{file.name}*"):
        one.unlink()
    file.write_bytes(backup)
