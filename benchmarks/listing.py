"""A listing by ranges beside a plain one: seconds, CPU and requests, on a stub of S3 that answers after 50 ms.

``python -m benchmarks.listing KEYS KEYS_PER_FOLDER LISTINGS`` lists so many keys with so many listings at the same
time; without arguments a million keys in folders of 4,000 and in one folder, eight at a time.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any, NamedTuple

import boto3
import polars as pl

from airlock.storage.key_ranges import RangedListing
from airlock.storage.requests import RequestMeter
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from benchmarks.listing_s3 import ARCHIVE, PER_FOLDER, key, listing_s3

DELAY = 0.05  # seconds before an answer
KEYS, LISTINGS = 1_000_000, 8
MORE_REQUESTS = 1.1  # the bar, times those of a plain listing


class Figures(NamedTuple):
    """Of one listing."""

    seconds: float
    cpu_seconds: float
    requests: int


def measure(keys: int, per_folder: int, listings: int) -> dict[int, Figures]:
    """Return the figures of a plain listing and of one by ranges, by their listings at the same time.

    Raises
    ------
    RuntimeError
        If a listing does not have every key once.
    """
    with listing_s3(keys, per_folder, DELAY) as endpoint:
        wanted = pl.Series("key", [key(number, per_folder) for number in range(keys)])
        return {at_once: _list(endpoint, at_once, wanted) for at_once in (1, listings)}


def _list(endpoint: str, at_once: int, wanted: pl.Series) -> Figures:
    session = boto3.Session("bench", "bench", region_name="us-east-1")
    client: Any = session.client("s3", endpoint_url=endpoint)
    with RequestMeter().attached(client) as meter:
        began, cpu = time.perf_counter(), time.process_time()
        found = [rows["key"] for rows in RangedListing(S3(session, client), S3Uri(ARCHIVE, "in/"), at_once)]
        figures = Figures(time.perf_counter() - began, time.process_time() - cpu, meter.sent.total())
    if not pl.concat(found).sort().equals(wanted):
        raise RuntimeError(f"{at_once} listings at the same time found other keys than there are")
    return figures


def main(keys: int, per_folder: int, listings: int) -> None:
    """Print a table."""
    sys.stdout.write(f"{keys} keys, {per_folder} in a folder, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}\n")
    found = measure(keys, per_folder, listings)
    for at_once, each in found.items():
        is_met = each.requests <= found[1].requests * MORE_REQUESTS
        sys.stdout.write(
            f"  {at_once:3} at a time: {each.seconds:6.1f} s, {each.cpu_seconds:5.1f} s CPU, {each.requests} requests"
            f"{'' if is_met else ' (MISSED)'}\n"
        )
    sys.stdout.flush()


if __name__ == "__main__":
    given = [int(argument) for argument in sys.argv[1:]]
    for folder in given[1:2] or (PER_FOLDER, KEYS):
        main(*(given[:1] or [KEYS]), folder, *(given[2:3] or [LISTINGS]))
