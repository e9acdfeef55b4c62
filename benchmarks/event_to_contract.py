"""From the event of an object to the contract of its study: one study of 20 files on the idle local stack.

Run it::

    python -m benchmarks.event_to_contract BASE --rounds 2 --studies 3

Each turn starts the stack of one checkout as ``make demo-arrivals`` does, with a first study that is not measured.
It then delivers one study after the other, each when nothing runs any more, and takes the time from the moment that S3
has the last of the files until the study's contract lies at the destination. The checkouts take turns; the medians
count.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import boto3

from benchmarks.local_stack import local_stack
from benchmarks.small_files import make_study

if TYPE_CHECKING:
    from collections.abc import Callable

    from benchmarks.local_stack import LocalStack

HERE = Path(__file__).resolve().parents[1]
FILES = 20
_INBOX, _ARRIVALS, _CONTRACTS = "airlock-inbox", "arrivals/", "airlock-contracts"  # of the pipeline arrivals
_LOOK_EVERY, _PATIENCE = 0.05, 300.0  # seconds
_RUNNING = "SELECT run_id FROM dag_run WHERE state IN ('queued', 'running')"


def measure(checkout: Path, studies: int) -> list[float]:
    """Return the seconds of each study on a new stack of a checkout."""
    with local_stack(checkout) as stack, TemporaryDirectory(prefix="airlock-study-") as folder:
        for name, body in make_study(0, FILES).items():
            (Path(folder) / name).write_bytes(body)
        stack.call("demo-arrivals", SOURCE=folder)
        return [_deliver(stack, number) for number in range(1, studies + 1)]


def _deliver(stack: LocalStack, number: int) -> float:
    """Deliver a study and return the seconds until its contract is there."""
    s3 = boto3.client("s3", endpoint_url=stack.s3_url, region_name="us-east-1", **_LOGIN)
    _wait("no run is under way", lambda: not stack.read_airflow(_RUNNING), 1.0)
    before = _count_contracts(s3)
    for name, body in make_study(number, FILES).items():
        s3.put_object(Bucket=_INBOX, Key=f"{_ARRIVALS}study-{number}/{name}", Body=body)
    began = time.monotonic()
    _wait("the contract is there", lambda: _count_contracts(s3) > before, _LOOK_EVERY)
    return round(time.monotonic() - began, 2)


_LOGIN = {"aws_access_key_id": "bench", "aws_secret_access_key": "bench"}


def _count_contracts(s3: Any) -> int:
    return int(s3.list_objects_v2(Bucket=_CONTRACTS, Prefix=_ARRIVALS)["KeyCount"])


def _wait(what: str, holds: Callable[[], bool], every: float) -> None:
    until = time.monotonic() + _PATIENCE
    while not holds():
        if time.monotonic() > until:
            raise TimeoutError(f"Waited {_PATIENCE:.0f} s in vain until {what}.")
        time.sleep(every)


def main() -> int:
    """Print the seconds of both sides, and return 1 if this one is slower."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.event_to_contract", description="One small study.")
    parser.add_argument("checkout", type=Path, help="the folder of the other checkout, which has its own .venv")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--studies", type=int, default=3, help="of each turn")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    other = given.checkout.resolve()
    found: dict[Path, list[float]] = {other: [], HERE: []}
    for _ in range(given.rounds):
        for checkout in found:
            seconds = measure(checkout, given.studies)
            found[checkout] += seconds
            sys.stderr.write(f"  {checkout.name}: {seconds}, load {os.getloadavg()[0]:.1f}\n")
    before, now = median(found[other]), median(found[HERE])
    if given.json:
        given.json.write_text(json.dumps({"files": FILES, "other": found[other], "this": found[HERE]}))
    sys.stdout.write(f"event to contract, one study of {FILES} files, median of {len(found[HERE])}: ")
    sys.stdout.write(f"other {before:.1f} s, this {now:.1f} s, ratio {now / before:.2f}\n")
    return 0 if now <= before else 1


if __name__ == "__main__":
    sys.exit(main())
