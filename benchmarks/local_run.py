"""``make run SOURCE=<a folder of many small files>`` on the local stack: time, and peak memory of every process.

Run it::

    python -m benchmarks.local_run --files 100000            # this checkout
    python -m benchmarks.local_run --files 4000 BASE .       # another checkout, then this one

Each checkout works with its own ``.venv`` and on a copy of its own code, on a new stack without earlier data.
The files are CT slices of 16 x 16 pixels, 100 to a study (`small_files`). The exit status is 1 if a run failed, or did
not release every file.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from benchmarks.local_stack import local_stack
from benchmarks.process_memory import watched
from benchmarks.small_files import write_files

if TYPE_CHECKING:
    from benchmarks.local_stack import LocalStack

HERE = Path(__file__).resolve().parents[1]
PIPELINE = "sample"


def measure(checkout: Path, source: Path) -> dict[str, Any]:
    """Run the pipeline ``sample`` on a folder.

    Returns
    -------
    dict
        ``checkout``, ``status`` (of ``make run``), ``seconds``, ``load`` (at the end), ``dispositions``, ``peak_mib``
        and ``processes`` by name, ``together_mib``, ``tail`` (the last lines that were printed).
    """
    with local_stack(checkout) as stack:
        began = time.monotonic()
        command = stack.begin("run", SOURCE=str(source), PIPELINE=PIPELINE)
        with watched(stack.var / "run", command.pid) as peaks:
            status = command.wait()
        seconds = time.monotonic() - began
        peaks.sum_up(_name_tasks(stack))
        report = stack.var / "report.json"
        dispositions = json.loads(report.read_text())["dispositions"] if report.exists() else {}
        tail = stack.output.read_text(encoding="utf-8").splitlines()[-12:]
    return {
        "checkout": checkout.name,
        "status": status,
        "seconds": round(seconds, 1),
        "load": round(os.getloadavg()[0], 1),
        "dispositions": dispositions,
        "peak_mib": peaks.by_name,
        "processes": peaks.processes,
        "together_mib": peaks.together,
        "tail": tail,
    }


def _name_tasks(stack: LocalStack) -> dict[str, str]:
    """Return the names of the tasks by their instances' ids."""
    rows = stack.read_airflow("SELECT id, task_id FROM task_instance")
    return {_with_dashes(instance): task for instance, task in rows}


def _with_dashes(digits: str) -> str:
    """Return a UUID as Airflow shows it; SQLite may have it without dashes."""
    plain = digits.replace("-", "")
    return "-".join((plain[:8], plain[8:12], plain[12:16], plain[16:20], plain[20:]))


def describe(figures: dict[str, Any]) -> str:
    """Return the figures of a checkout as text."""
    lines = [f"{figures['checkout']}: {figures['seconds']:,.0f} s, load {figures['load']}, {figures['dispositions']}"]
    for name, mib in sorted(figures["peak_mib"].items(), key=lambda item: -item[1]):
        lines.append(f"  {mib:7,} MiB  {name} ({figures['processes'][name]} processes)")
    lines.append(f"  {figures['together_mib']:7,} MiB  all together, shared pages once")
    return "\n".join(lines if not figures["status"] else [*lines, *figures["tail"]])


def main() -> int:
    """Print the figures of each checkout and return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.local_run", description="make run with many files.")
    parser.add_argument("checkouts", type=Path, nargs="*", default=[HERE], help="folders that have their own .venv")
    parser.add_argument("--files", type=int, default=100_000)
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    given = parser.parse_args()
    found = []
    with TemporaryDirectory(prefix="airlock-files-") as folder:
        write_files(Path(folder), given.files)
        for checkout in given.checkouts:
            found.append(measure(checkout.resolve(), Path(folder)))
            sys.stdout.write(f"{given.files:,} files: {describe(found[-1])}\n")
            sys.stdout.flush()
    if given.json:
        given.json.write_text(json.dumps({"schema": "airlock.bench.local_run/1", "files": given.files, "runs": found}))
    whole = all(one["status"] == 0 and one["dispositions"].get("released") == given.files for one in found)
    return 0 if whole else 1


if __name__ == "__main__":
    sys.exit(main())
