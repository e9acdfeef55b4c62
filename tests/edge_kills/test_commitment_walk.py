"""kill -9 before and after every call of storage commitment: each request gets its complete result, and the same."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.edge_kills.commitment_walk import CommitmentWalk
from tests.servers.committed import Peer, listening
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(3600)]


def test_a_kill_at_any_call_costs_no_request_its_result(s3: str, tmp_path: Path) -> None:
    with moto_server() as sqs, listening(Peer()) as peer:
        walk = CommitmentWalk(s3, sqs, tmp_path, peer)
        walk.store_items()
        calls = walk.list_calls()
        for number in calls:
            for side in ("before", "after"):
                walk.kill_at(number, side)
    figures = ", ".join(f"{name} {count}" for name, count in walk.figures.items())
    sys.stderr.write(f"\ncommitment: {len(calls)} calls ({dict(Counter(calls.values()))}); {figures}\n")
    assert walk.figures["killed"] >= 1.8 * len(calls)  # a few calls more or less are the threads' matter
