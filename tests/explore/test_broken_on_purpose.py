"""The search finds what it is for: of each rule of the library that is broken, some history shows it.

It searches in as many processes as `make explore`. The locks of PostgreSQL are broken in `test_on_postgres.py`.
"""

from __future__ import annotations

import multiprocessing
import os
import sys

import pytest

from tests.explore.broken import BROKEN
from tests.explore.process import search_broken, share_end

SECONDS = 900.0
SEED = 3

pytestmark = [pytest.mark.proof, pytest.mark.timeout(SECONDS + 120)]  # the search ends by itself


@pytest.mark.parametrize("rule", BROKEN)
def test_a_history_shows_it(rule: str) -> None:
    cores, processes = os.cpu_count() or 1, multiprocessing.get_context("spawn")
    asked = [(rule, SEED, SECONDS, number, cores) for number in range(cores)]
    with processes.Pool(cores, share_end, (processes.Event(),)) as pool:
        searches = pool.starmap(search_broken, asked)
    histories, seconds = sum(one.histories for one in searches), max(one.seconds for one in searches)
    assert any(one.findings for one in searches), f"{histories} histories in {seconds:.0f} s break nothing"
    sys.stdout.write(f"{rule}: {histories} histories, {seconds:.0f} s\n")
