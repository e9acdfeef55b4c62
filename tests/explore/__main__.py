"""`make explore`: play histories for some seconds, or one history again, and print what was found.

Environment: SECONDS (60), SEED (1), CORES (all), HISTORY (one line of JSON, as a finding prints it), WITHOUT (numbers
of invariants that do not count), KEEP_GOING (search for other violations after the first).
"""

from __future__ import annotations

import multiprocessing
import os
import sys

os.environ.setdefault("POLARS_MAX_THREADS", "1")  # before polars is imported: the frames have a few rows

from tests.explore.explorer import Checks, play
from tests.explore.history import History
from tests.explore.play import Coverage
from tests.explore.process import search
from tests.explore.report import find_findings, report
from tests.explore.world import World


def main() -> int:
    """Search, print the findings and return the exit code: 1 if an invariant was broken."""
    asked = os.environ.get
    without = frozenset(map(int, filter(None, asked("WITHOUT", "").split(","))))
    if text := asked("HISTORY"):
        return _play_one(History.from_json(text), Checks(without=without))
    seconds, seed = float(asked("SECONDS") or 60), int(asked("SEED") or 1)
    cores = int(asked("CORES") or os.cpu_count() or 1)
    with multiprocessing.get_context("spawn").Pool(cores) as pool:
        found = pool.starmap(search, [(seed, seconds, number, cores, without) for number in range(cores)])
    _say(*report(seed, found))
    return int(bool(find_findings(found)))


def _play_one(history: History, checks: Checks) -> int:
    with World() as world:
        played = play(world, history, Coverage(), checks)
    _say(*(f"run {name}: {plan}" for name, plan in history.runs.items()), *played.timeline)
    return int(bool(played.violations))


def _say(*lines: str) -> None:
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
