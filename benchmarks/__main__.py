"""``make bench``: measure every figure that has a bar; ``QUICK=1`` measures less.

It prints the figures and the bars, and writes ``var/bench.json`` and the plot ``var/bench.svg``. The exit status is 0
unless a part raises an error; with ``--strict`` a missed bar makes it 1. A run takes a quarter of an hour at most: it
leaves out, and names, each size of the stage chain that would take longer, judging by the size before.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
import traceback
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import headers
from benchmarks.bars import bars
from benchmarks.machine import facts
from benchmarks.plot import plot
from benchmarks.whole_figures import table as whole_table

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from benchmarks.bars import Bar

SIZES = (100_000, 1_000_000, 5_000_000)  # arrivals
OBJECTS = (10_000, 300_000)  # of a parse task; python -m benchmarks.parse_memory has a million
QUICK_SIZES, QUICK_OBJECTS = SIZES[:1], (2_000, 20_000)
MINUTES = 15
PARTS = ("headers", "series", "parse_memory", "copies", "tasks", "chain", "pages", "whole")
PAGES_MINUTES = 5  # of the part pages
WHOLE_MINUTES = 60  # unless told otherwise, where nothing but the whole chain is measured


def parts(var: Path, until: float, *, quick: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """Return the parts by name, in their order; each part imports its own libraries when it starts.

    Parameters
    ----------
    var
        The folder for results.
    until
        The time of ``time.monotonic`` by which the run should end.
    quick
        Whether to measure less.
    """

    def series() -> dict[str, Any]:
        from benchmarks.series import PAIRS, measure  # noqa: PLC0415

        return measure(var / "bench" / "series", 1 if quick else PAIRS)

    def parse_memory() -> dict[str, Any]:
        from benchmarks.parse_memory import measure  # noqa: PLC0415

        return measure(QUICK_OBJECTS if quick else OBJECTS)

    def copies() -> dict[str, Any]:
        from benchmarks.copies import FULL, QUICK, measure  # noqa: PLC0415

        return measure(QUICK if quick else FULL)

    def tasks() -> dict[str, Any]:
        from benchmarks.tasks import QUICK, measure  # noqa: PLC0415

        return measure(*QUICK) if quick else measure()

    def chain() -> dict[str, Any]:
        from benchmarks.chain import measure  # noqa: PLC0415

        return _growing(measure, QUICK_SIZES if quick else SIZES, until)

    def pages() -> dict[str, Any]:
        from benchmarks.pages import MILLION, QUICK, measure  # noqa: PLC0415

        if not quick and until - time.monotonic() < 60 * PAGES_MINUTES:
            sys.stdout.write(f"left out, because time is short: {PAGES_MINUTES} minutes; allow more with --minutes\n")
            return {"left_out": True}
        return measure(QUICK if quick else MILLION)

    def whole() -> dict[str, Any]:
        from benchmarks.whole import measure  # noqa: PLC0415
        from benchmarks.whole_size import FULL, QUICK  # noqa: PLC0415

        size, minutes = QUICK if quick else FULL, (until - time.monotonic()) / 60
        if minutes < size.minutes:
            sys.stdout.write(f"left out, because time is short: {size.minutes:g} minutes; allow more with --minutes\n")
            return {"left_out": True}
        return measure(size, minutes)

    contest = headers.QUICK if quick else headers.FULL
    return {
        "headers": lambda: headers.measure(var / "bench", contest),
        "series": series,
        "parse_memory": parse_memory,
        "copies": copies,
        "tasks": tasks,
        "chain": chain,
        "pages": pages,
        "whole": whole,
    }


def _growing(measure: Callable[[int], dict[str, Any]], sizes: Sequence[int], until: float) -> dict[str, Any]:
    """Measure one size after the other, until the next would probably not end in time."""
    found: list[dict[str, Any]] = []
    took = 0.0  # seconds for each arrival of the size before
    for arrivals in sizes:
        if time.monotonic() + took * arrivals > until:
            left_out = [size for size in sizes if size >= arrivals]
            sys.stdout.write(f"left out, because time is short: {left_out}; allow more with --minutes\n")
            return {"sizes": found, "left_out": left_out}
        began = time.monotonic()
        found.append(measure(arrivals))
        took = (time.monotonic() - began) / arrivals
    return {"sizes": found, "left_out": []}


def main(arguments: Sequence[str]) -> int:
    """Run the requested parts and return the exit status."""
    quick, var = os.environ.get("QUICK", "") not in {"", "0"}, Path(os.environ.get("AIRLOCK_VAR", "var"))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Measure every figure that has a bar.")
    parser.add_argument("--strict", action="store_true", help="exit with 1 if a bar is missed")
    parser.add_argument("--only", choices=PARTS, action="append", help="measure only this part; can be repeated")
    parser.add_argument(
        "--minutes",
        type=float,
        help=f"longest duration of the run, {MINUTES} by default, {WHOLE_MINUTES} of the part whole alone",
    )
    given = parser.parse_args(arguments)
    minutes = given.minutes or (WHOLE_MINUTES if given.only == ["whole"] else MINUTES)
    known = parts(var, time.monotonic() + 60 * minutes, quick=quick)
    (var / "bench").mkdir(parents=True, exist_ok=True)
    began = datetime.now(UTC).isoformat(timespec="seconds")
    found: dict[str, Any] = {"schema": "airlock.bench/1", "began": began, "quick": quick, "machine": facts()}
    broken = [name for name in given.only or PARTS if not _run(name, known[name], found)]
    lines = bars(found)
    found["bars"] = [vars(bar) | {"met": bar.met} for bar in lines]
    (var / "bench.json").write_text(json.dumps(found, indent=1, ensure_ascii=False), encoding="utf-8")
    plot(found, var / "bench.svg")
    _print(found, lines, var)
    missed = any(bar.met is False for bar in lines)
    return 1 if broken or (missed and given.strict) else 0


def _run(name: str, measure: Callable[[], dict[str, Any]], found: dict[str, Any]) -> bool:
    """Add a part's figures to ``found`` and return True, or print its error and return False."""
    sys.stdout.write(f"measuring: {name}\n")
    sys.stdout.flush()
    began = time.monotonic()
    try:
        found[name] = measure()
    except Exception:  # noqa: BLE001  (the other parts still give figures)
        sys.stderr.write(f"{name} failed:\n{traceback.format_exc()}")
        return False
    found.setdefault("took_seconds", {})[name] = round(time.monotonic() - began, 1)
    return True


def _print(found: dict[str, Any], lines: Sequence[Bar], var: Path) -> None:
    machine = found["machine"]
    text = [f"\n{machine['cores']} cores, {machine['cpu']}, load {machine['load']} at the start, {machine['python']}"]
    if "stages" in found.get("whole", {}):
        text += ["", whole_table(found["whole"])]
    if "headers" in found:
        text += _table(found["headers"])
    text += ["", *map(str, lines), "", f"written: {var / 'bench.json'}, {var / 'bench.svg'}", ""]
    sys.stdout.write("\n".join(text))


def _table(found: dict[str, Any]) -> list[str]:
    """Return the lines of the contest's table, with ratios to Airlock."""
    corpus = found["corpus"]
    lines = [
        f"\n{corpus['objects']} objects, {corpus['mib']} MiB; in brackets, the ratio to Airlock",
        f"{found['first_byte_ms']:.0f} ms to first byte (median, lognormal), {found['in_flight']} in flight",
        f"{'':26}{'objects/s':>16}{'CPU ms/object':>16}{'requests':>16}{'KiB/object':>16}{'peak MiB':>16}{'differ':>8}",
    ]
    for name, row in found["contestants"].items():
        cells = [_cell(row[figure], found["ratios"][name][figure]) for figure in headers.FIGURES]
        lines.append(f"{row['title']:26}{''.join(cells)}{'-' if row['differing'] is None else row['differing']:>8}")
    return lines


def _cell(value: float, ratio: float) -> str:
    amount = f"{value:,.0f}" if value >= 100 else f"{value:.2f}"
    return f"{f'{amount} ({ratio:.2f})':>16}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
