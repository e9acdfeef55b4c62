"""The plot of a run of ``make bench``, as bars in an SVG: the contest above, the stage chain below.

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
_OF_STAGES = ("#0b6e99", "#d97706", "#4d7c0f")


def plot(found: Mapping[str, Any], target: Path) -> None:
    """Write the figure of `draw` as an SVG file, whose bytes depend on ``found`` alone."""
    with mpl.rc_context({"svg.hashsalt": "airlock", "svg.fonttype": "none", "font.family": "sans-serif"}):
        draw(found).savefig(target, format="svg", metadata={"Date": None})


def draw(found: Mapping[str, Any]) -> Figure:
    """Draw the measured figures as bars.

    Parameters
    ----------
    found
        The content of ``var/bench.json``; without the chain's part there is no lower half.
    """
    contest, sizes = found.get("headers"), found.get("chain", {}).get("sizes", [])
    halves = 2 if sizes else 1
    figure = Figure(figsize=(10, 3.5 * halves), layout="constrained", facecolor="white")
    panels = figure.subplots(halves, 2, squeeze=False)
    speed, cpu = panels[0]
    if contest:
        _draw_contest(speed, contest["contestants"], "objects_per_second", "Headers read per second (more is better)")
        _draw_contest(cpu, contest["contestants"], "cpu_ms_per_object", "CPU per header, ms (less is better)")
        cpu.set_yticklabels([])
    if sizes:
        _draw_seconds(panels[1][0], sizes)
        _draw_memory(panels[1][1], sizes)
    figure.suptitle(_title(found), fontsize=9)
    return figure


def _title(found: Mapping[str, Any]) -> str:
    machine, contest = found["machine"], found.get("headers")
    words = [f"{machine['cores']} cores, {machine['cpu']}, {found['began'][:10]}"]
    if contest:
        words.append(f"{contest['first_byte_ms']:.0f} ms to first byte, {contest['in_flight']} in flight")
    return "; ".join(words)


def _draw_contest(axes: Axes, contestants: Mapping[str, Mapping[str, Any]], figure: str, title: str) -> None:
    titles = [row["title"] for row in contestants.values()]
    values = [row[figure] for row in contestants.values()]
    drawn = axes.barh(titles, values, color=[_colour(name) for name in contestants])
    axes.bar_label(drawn, labels=[f"{value:,.0f}" if value >= 100 else f"{value:.2f}" for value in values], padding=3)
    _finish(axes, title)


def _colour(contestant: str) -> str:
    return _OURS if contestant == "airlock" else _FLOOR if contestant.startswith("floor") else _OTHERS


def _draw_seconds(axes: Axes, sizes: Sequence[Mapping[str, Any]]) -> None:
    """Draw a bar of stages per delivery; equal lengths mean that time is proportional to the delivery's size."""
    ends = [0.0] * len(sizes)
    for stage, colour in zip(STAGES, _OF_STAGES, strict=True):
        values = [size["stages"][stage]["seconds"] / size["arrivals"] * 1e6 for size in sizes]
        drawn = axes.barh(_titles(sizes), values, left=ends, color=colour, label=stage)
        axes.bar_label(drawn, label_type="center", fmt="%.0f", color="white")
        ends = [end + value for end, value in zip(ends, values, strict=True)]
    axes.bar_label(drawn, labels=[f"{end:.0f}" for end in ends], padding=3)
    _finish(axes, "Seconds per million files, by size of the delivery")
    axes.legend(frameon=False, ncols=len(STAGES), loc="upper center", bbox_to_anchor=(0.5, -0.1))


def _draw_memory(axes: Axes, sizes: Sequence[Mapping[str, Any]]) -> None:
    drawn = axes.barh(_titles(sizes), [size["peak_mib"] for size in sizes], color=_OURS)
    axes.bar_label(drawn, fmt="{:,.0f}", padding=3)
    axes.set_yticklabels([])
    _finish(axes, "Peak memory of the largest task process, MiB")


def _titles(sizes: Sequence[Mapping[str, Any]]) -> list[str]:
    return [f"{size['arrivals']:,} files" for size in sizes]


def _finish(axes: Axes, title: str) -> None:
    axes.invert_yaxis()
    axes.margins(x=0.18)
    axes.set_title(title, fontsize=10, loc="left")
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    plot(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")), Path(sys.argv[2]))
