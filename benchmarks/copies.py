"""Copies within S3: CPU and copies a second of Airlock's client and of boto3's ``copy_object`` in threads.

Both copy the same objects on a stub of S3, in turns, so many in flight. The ratios are medians over the turns.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import boto3
from botocore.config import Config
from tests.servers.network import certify_loopback

from airlock.storage.copies import copy_objects
from airlock.storage.copy_requests import Copy
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from benchmarks.copying_s3 import copying_s3

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

DELAY = 0.02  # seconds, of a copy in the median
IN_FLIGHT = 64
_TURN = 10  # copies of a thread: handing over each alone costs more CPU


class Size(NamedTuple):
    """How much is measured."""

    copies: int
    turns: int


FULL, QUICK = Size(5_000, 3), Size(1_000, 3)  # a batch has 5,000 files


@dataclass(frozen=True)
class Settings:
    """Of both clients."""

    copies_in_flight: int = IN_FLIGHT


def copies(number: int) -> list[Copy]:
    """Return what a batch of so many files is copied from and to."""
    folder = S3Uri("airlock", f"staging/bench/0123456789abcdef/{'b' * 32}/")
    return [
        Copy("archive", f"in/{n // 400:06}/{n:012} scan.dcm", None, "e" * 32, 526_618, folder.join(f"{n:06}.dcm"))
        for n in range(number)
    ]


def copy_by_boto3(s3: S3, wanted: Sequence[Copy]) -> int:
    """Copy in threads; return the number of copies."""
    turns = [wanted[first : first + _TURN] for first in range(0, len(wanted), _TURN)]

    def take(turn: Sequence[Copy]) -> int:
        for copy in turn:
            s3.copy(copy.source, copy.etag, copy.size, copy.target)
        return len(turn)

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        return sum(pool.map(take, turns))


def copy_by_airlock(s3: S3, wanted: Sequence[Copy]) -> int:
    """Copy as the stage does; return the number of copies."""
    return copy_objects(s3, wanted, Settings(), ()).count(None)


CLIENTS: dict[str, Callable[[S3, Sequence[Copy]], int]] = {"boto3": copy_by_boto3, "airlock": copy_by_airlock}


def measure(size: Size) -> dict[str, Any]:
    """Return the figures with TLS and without, by client, and their ratios to boto3."""
    with tempfile.TemporaryDirectory() as folder:
        bundle, _ = certify_loopback(Path(folder))
        with copying_s3(DELAY, Path(folder) / "server.pem") as tls, copying_s3(DELAY) as plain:
            figures = {"tls": _compare(tls, size, str(bundle)), "plain": _compare(plain, size, None)}
    return {"in_flight": IN_FLIGHT, "delay_ms": DELAY * 1000, **size._asdict(), **figures}


def _compare(endpoint: str, size: Size, bundle: str | None) -> dict[str, Any]:
    session = boto3.Session("bench", "benchbench", region_name="us-east-1")
    config = Config(max_pool_connections=256)
    s3 = S3(session, session.client("s3", endpoint_url=endpoint, config=config, verify=bundle))
    wanted = copies(size.copies)
    turns = [{name: _take(client, s3, wanted) for name, client in CLIENTS.items()} for _ in range(size.turns)]
    return {
        **{name: _middle([turn[name] for turn in turns]) for name in CLIENTS},
        "ratio": _middle([_divide(turn["airlock"], turn["boto3"]) for turn in turns]),
    }


def _take(client: Callable[[S3, Sequence[Copy]], int], s3: S3, wanted: Sequence[Copy]) -> dict[str, float]:
    cpu, began = time.process_time(), time.perf_counter()
    made = client(s3, wanted)
    seconds = time.perf_counter() - began
    if made != len(wanted):
        raise RuntimeError(f"{made} of {len(wanted)} copies were made: the stub refuses none")
    return {"cpu_us_per_copy": (time.process_time() - cpu) / made * 1e6, "copies_per_second": made / seconds}


def _divide(one: dict[str, float], other: dict[str, float]) -> dict[str, float]:
    return {name: one[name] / other[name] for name in one}


def _middle(turns: Sequence[dict[str, float]]) -> dict[str, float]:
    return {name: statistics.median(turn[name] for turn in turns) for name in turns[0]}


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(QUICK if sys.argv[1:] == ["quick"] else FULL), indent=1) + "\n")
