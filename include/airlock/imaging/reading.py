"""The cost of reading a run's headers: parse counts it shard by shard, and the run's report adds it up."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.storage.workspace import Workspace

_AT_A_TIME = 16
_KIB = 1024


@dataclass
class Reading:
    """The counts of some headers, without a key or an identifier."""

    arrivals: int = 0
    unread: int = 0  # arrivals whose header could not be read
    requests: int = 0
    bytes_read: int = 0
    fallbacks: dict[str, int] = field(default_factory=dict)  # headers that the scanner left to pydicom, by its doubt

    def add(self, other: Reading) -> None:
        """Add the counts of another shard."""
        self.arrivals += other.arrivals
        self.unread += other.unread
        self.requests += other.requests
        self.bytes_read += other.bytes_read
        for doubt, headers in other.fallbacks.items():
            self.left_to_pydicom(doubt, headers)

    def left_to_pydicom(self, doubt: str, headers: int = 1) -> None:
        """Count headers that the scanner doubted."""
        self.fallbacks[doubt] = self.fallbacks.get(doubt, 0) + headers

    def counts(self) -> dict[str, Any]:
        """Return the counts, and the average of an arrival where there was one."""
        counted = asdict(self) | {"fallbacks": dict(sorted(self.fallbacks.items()))}
        if not self.arrivals:
            return counted
        each = {"requests": self.requests / self.arrivals, "kib": self.bytes_read / _KIB / self.arrivals}
        return counted | {f"{name}_per_arrival": round(number, 3) for name, number in each.items()}


def keep_reading(workspace: Workspace, shard: str, reading: Reading) -> None:
    """Keep the counts of a shard in the workspace."""
    workspace.write_json(_name(shard), asdict(reading))


def find_reading(workspace: Workspace, shards: Iterable[str]) -> Reading:
    """Return the sum of the kept counts; a shard that was not read counts nothing."""
    total = Reading()
    with ThreadPoolExecutor(_AT_A_TIME) as pool:
        for reading in pool.map(lambda shard: _find_one(workspace, shard), shards):
            total.add(reading)
    return total


def _find_one(workspace: Workspace, shard: str) -> Reading:
    try:
        kept = json.loads(workspace.s3.get(workspace.root.join(_name(shard))))
    except FileNotFoundError:
        return Reading()
    return Reading(**kept)


def _name(shard: str) -> str:
    return f"reading/{shard}.json"
