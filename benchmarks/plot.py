"""The plot of a run of ``make bench``, as SVG: the contest above, the stage chain below.

``python -m benchmarks.plot var/bench.json docs/performance.svg`` draws one anew.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib as mpl
from matplotlib.figure import Figure

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from matplotlib.axes import Axes

STAGES = ("validate", "normalize", "audit")
_OURS, _OTHERS, _FLOOR = "#0b6e99", "#b8b8b8", "#5f5f5f"
_LINES = ("#0b6e99", "#d97706", "#4d7c0f")


def plot(found: Mapping[str, Any], target: Path) -> None:
    """Write what `draw` draws as an SVG file, whose bytes depend on ``found`` alone."""
    with mpl.rc_context({"svg.hashsalt": "airlock", "svg.fonttype": "none", "font.family": "sans-serif"}):
        draw(found).savefig(target, format="svg", metadata={"Date": None})


def draw(found: Mapping[str, Any]) -> Figure:
    """Draw what was measured.

    Parameters
    ----------
    found
        As ``var/bench.json`` holds it; without the chain's part there is no lower half.
    """
    contest, sizes = found.get("headers"), found.get("chain", {}).get("sizes", [])
    halves = 2 if sizes else 1
    figure = Figure(figsize=(10, 3.5 * halves), layout="constrained")
    panels = figure.subplots(halves, 2, squeeze=False)
    speed, cpu = panels[0]
    if contest:
        _draw_bars(speed, contest["contestants"], "objects_per_second", "objects read per second")
        _draw_bars(cpu, contest["contestants"], "cpu_ms_per_object", "CPU per object, ms")
        cpu.set_yticklabels([])
    if sizes:
        _draw_stages(panels[1][0], sizes, "seconds", "seconds of each stage")
        _draw_stages(panels[1][1], sizes, "peak_mib", "peak memory of each stage, MiB")
    figure.suptitle(_title(found), fontsize=9)
    return figure


def _title(found: Mapping[str, Any]) -> str:
    machine, contest = found["machine"], found.get("headers")
    words = [f"{machine['cores']} cores, {machine['cpu']}, {found['began'][:10]}"]
    if contest:
        words.append(f"{contest['first_byte_ms']:.0f} ms to first byte, {contest['in_flight']} in flight")
    return "; ".join(words)


def _draw_bars(axes: Axes, contestants: Mapping[str, Mapping[str, Any]], figure: str, title: str) -> None:
    titles = [row["title"] for row in contestants.values()]
    values = [row[figure] for row in contestants.values()]
    drawn = axes.barh(titles, values, color=[_colour(name) for name in contestants])
    axes.bar_label(drawn, labels=[f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for value in values], padding=3)
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


def _colour(contestant: str) -> str:
    return _OURS if contestant == "airlock" else _FLOOR if contestant.startswith("floor") else _OTHERS


def _draw_stages(axes: Axes, sizes: Sequence[Mapping[str, Any]], figure: str, title: str) -> None:
    for stage, colour in zip(STAGES, _LINES, strict=True):
        points = [(size["arrivals"] / 1e6, size["stages"][stage][figure]) for size in sizes]
        axes.plot(*zip(*points, strict=True), marker="o", color=colour, label=stage)
    axes.set_title(title, fontsize=10, loc="left")
    axes.set_xlabel("million arrivals")
    axes.set_ylim(bottom=0)
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(visible=True, axis="y", alpha=0.3)
    axes.legend(frameon=False)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
