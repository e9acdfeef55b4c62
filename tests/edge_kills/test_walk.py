"""kill -9 before and after every call with a side effect: what was acknowledged is on S3, once, byte for byte."""

from __future__ import annotations

import sys
from collections import Counter
from typing import TYPE_CHECKING

import pytest

from tests.edge_kills.walk import Walk

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.slow]
ROLES = [("spool", "run"), ("spool", "upload"), ("s3", "run")]


@pytest.mark.proof
@pytest.mark.timeout(3600)
@pytest.mark.parametrize(("store", "role"), ROLES)
def test_nothing_acknowledged_is_lost_by_a_kill_at_any_call(s3: str, tmp_path: Path, store: str, role: str) -> None:
    walk = Walk(s3, tmp_path, store, role)
    calls = walk.list_calls()
    for number in range(1, len(calls) + 1):
        for side in ("before", "after"):
            walk.kill_at(number, side)
    figures = ", ".join(f"{name} {count}" for name, count in walk.figures.items())
    sys.stderr.write(f"\nstore {store}, {role}: {len(calls)} calls ({dict(Counter(calls))}); {figures}\n")
    assert walk.figures["killed"] >= 1.8 * len(calls)  # a few calls more or less are the threads' matter
