"""The whole chain: a delivery in waves through Airflow's own scheduler, from its listing to its contracts.

Run it::

    python -m benchmarks.whole            # a million objects in ten waves
    python -m benchmarks.whole quick      # 50,000
    python -m benchmarks.whole thin       # 4,000 in two waves, to see that everything runs
    python -m benchmarks.whole --minutes 20 --json

S3 is a stub that computes headers and accepts copies without holding bytes (`stub_s3`). HealthImaging is the emulator,
told not to read files. Both keep to AWS's limits, divided by one factor, and to the times that plans assume.
Airflow, the ledger (PostgreSQL) and all stages are real (`whole_stack`). Everything shares this machine: the CPU that
the servers need is printed beside that of the stages.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections import Counter
from contextlib import redirect_stdout
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from airlock_cli.airflow_api import ApiUnreachableError
from benchmarks.bars import bars_of_whole
from benchmarks.chain import PostgresUsage
from benchmarks.whole_figures import Instance, Seen, figures, share_staged_first, table
from benchmarks.whole_size import EARLY_BATCHES, SIZES, STAGING_SLOTS, WORKERS
from benchmarks.whole_stack import (
    ARCHIVES,
    EARLY,
    EARLY_SLOTS,
    IMPORT_POOL,
    STAGING,
    STAGING_POOL,
    WHOLE,
    await_dag,
    read_pipeline,
    whole_stack,
)
from benchmarks.whole_usage import Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airlock_cli.airflow_api import AirflowApi
    from benchmarks.whole_size import Size
    from benchmarks.whole_stack import Whole

MINUTES = 60.0
_LOOK_EVERY, _SAY_EVERY = 2.0, 15.0  # seconds


def measure(size: Size, minutes: float = MINUTES, folder: Path | None = None) -> dict[str, Any]:
    """Take the deliveries and return the figures.

    Parameters
    ----------
    size
        How much.
    minutes
        Longest duration; what was seen until then is returned.
    folder
        Where logs are left; by default nowhere.
    """
    until = time.monotonic() + 60 * minutes
    if folder is None:
        with tempfile.TemporaryDirectory(prefix="airlock-whole-", ignore_cleanup_errors=True) as temporary:
            return _measure(size, until, Path(temporary))
    return _measure(size, until, folder)


def _measure(size: Size, until: float, folder: Path) -> dict[str, Any]:
    found: dict[str, Any] = {"size": asdict(size), "limits_of_services": asdict(size.limits())}
    with whole_stack(folder, size) as whole:
        if size.early_batch:
            found["early"] = _take_early(whole, until)
        seen = _take_waves(whole, until)
    found |= figures(size, seen, ARCHIVES[WHOLE], STAGING[WHOLE], read_pipeline(WHOLE, size))
    return found


def _take_early(whole: Whole, until: float) -> dict[str, Any]:
    """Take a delivery of 24 batches, with four slots in all; return how much was staged before the first import."""
    with whole.up(EARLY_SLOTS) as api:
        _make_pools(api, whole.size)
        run = _begin(api, EARLY)
        ended = _follow(whole, api, EARLY, 1, until=until, describe=lambda: "")
        instances = _instances(api, EARLY, [run])
    return {
        "batches": EARLY_BATCHES,
        "slots": WORKERS * EARLY_SLOTS,
        "staged_before_first_import": share_staged_first(instances) if ended else None,
    }


def _take_waves(whole: Whole, until: float) -> Seen:
    size = whole.size
    with whole.up(size.slots) as api:
        _make_pools(api, size)
        counts, calls = whole.counts()["requests"], whole.calls()
        postgres = PostgresUsage(whole.postgres.folder)
        usage = Usage(whole.stack)
        began = time.time()
        try:
            with usage.watched():
                _begin(api, WHOLE)
                ended = _follow(whole, api, WHOLE, size.waves, until=until, describe=lambda: _describe(whole))
        finally:
            postgres.end()
        runs = [run["dag_run_id"] for run in api.runs(WHOLE)]
        seen = whole.counts()
        return Seen(
            began=began,
            ended=ended,
            instances=_instances(api, WHOLE, runs),
            requests=_subtract(seen["requests"], counts),
            spans=seen["spans"],
            refused=seen["refused"],
            calls=_subtract(whole.calls(), calls),
            jobs=[job for job in whole.jobs() if job[0] >= began],
            cpu_by_instance=dict(usage.by_instance),
            cpu_by_part=usage.by_part() | {"postgres": postgres.take()["postgres_cpu_seconds"]},
            cores=os.cpu_count() or 1,
            released=_count_released(whole, runs) if ended else 0,
        )


def _make_pools(api: AirflowApi, size: Size) -> None:
    api.make_pool(STAGING_POOL, STAGING_SLOTS, "batches copied at a time")
    api.make_pool(IMPORT_POOL, size.limits().jobs, "import jobs at a time")


def _begin(api: AirflowApi, dag: str) -> str:
    await_dag(api, dag)
    api.unpause(dag)
    return api.trigger(dag, {})


def _follow(
    whole: Whole, api: AirflowApi, dag: str, runs: int, *, until: float, describe: Callable[[], str]
) -> float | None:
    """Wait for the end of all runs of a DAG, so many at least, and return when it was; None if the time was up before.

    Raises
    ------
    RuntimeError
        If a run failed, with the tasks that did and their logs.
    """
    began = said = time.monotonic()
    while time.monotonic() < until:
        states = _read_states(api, dag)
        for run, state in states.items():
            if state == "failed":
                raise RuntimeError(whole.explain(api, dag, run))
        if len(states) >= runs and set(states.values()) == {"success"}:
            return time.time()
        if time.monotonic() - said > _SAY_EVERY:
            said = time.monotonic()
            shown = ", ".join(f"{number} {state}" for state, number in sorted(Counter(states.values()).items()))
            _say(f"{said - began:6.0f} s  {dag}: runs {shown}{describe()}")
        time.sleep(_LOOK_EVERY)
    return None


def _read_states(api: AirflowApi, dag: str) -> dict[str, str]:
    """Return the state of each run of a DAG; none if the API server is too busy to answer."""
    try:
        return {run["dag_run_id"]: str(run["state"]) for run in api.runs(dag)}
    except ApiUnreachableError:
        return {}


def _describe(whole: Whole) -> str:
    """Return how far a delivery in waves is."""
    asked = whole.counts()["requests"]
    read, copied = (asked.get(name, 0) for name in (f"get {ARCHIVES[WHOLE]}", f"copy {STAGING[WHOLE]}"))
    return f"; {read:,} headers read, {copied:,} of {whole.size.objects:,} copied"


def _instances(api: AirflowApi, dag: str, runs: Sequence[str]) -> list[Instance]:
    records = [record for run in runs for record in api.task_instances(dag, run)]
    return [one for record in records if (one := Instance.of(record)) is not None]


def _count_released(whole: Whole, runs: Sequence[str]) -> int:
    """Return how many objects the runs have released; all others are lost, which no figure is worth.

    Raises
    ------
    RuntimeError
        If the books of a run do not balance, or an object was not released.
    """
    reports = [whole.report(WHOLE, run) for run in runs]
    released = sum(report["dispositions"].get("released", 0) for report in reports)
    if released != whole.size.objects or not all(report["balanced"] for report in reports):
        found = [report["dispositions"] for report in reports]
        raise RuntimeError(f"{released} of {whole.size.objects} objects were released: {found}")
    return int(released)


def _subtract(now: dict[str, int], before: dict[str, int]) -> dict[str, int]:
    return {name: number - before.get(name, 0) for name, number in now.items() if number > before.get(name, 0)}


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def main(arguments: Sequence[str]) -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.whole", description="The whole chain, in waves")
    parser.add_argument("size", nargs="?", choices=SIZES, default="full")
    parser.add_argument("--minutes", type=float, default=MINUTES, help="longest duration")
    parser.add_argument("--json", action="store_true", help="print the figures as JSON")
    parser.add_argument("--folder", type=Path, help="leave logs and databases there")
    given = parser.parse_args(arguments)
    with redirect_stdout(sys.stderr):  # the stack tells its progress
        found = measure(SIZES[given.size], given.minutes, given.folder)
    text = [table(found), "", *map(str, bars_of_whole(found))]
    sys.stdout.write(json.dumps(found, indent=1) if given.json else "\n".join(text))
    sys.stdout.write("\n")


if __name__ == "__main__":
    main(sys.argv[1:])
