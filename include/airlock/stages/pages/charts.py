"""Charts as SVG: bars, stacks and lines that need no script, print, and take their colours from the page's style sheet.

Colours are classes: the style sheet has each one for light and for dark. Every bar has a title, which browsers show as
a tooltip and read aloud.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from markupsafe import Markup, escape

from airlock.stages.pages.numbers import count

if TYPE_CHECKING:
    from collections.abc import Sequence

COLOURS = 8  # classes c0 to c7 of the style sheet; further series have the last one
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 8, 10, 22  # margins of a plot
_LABELS = 8  # of the horizontal axis, at most


@dataclass(frozen=True)
class Part:
    """A part of a bar: its name, its number, and the class of its colour."""

    name: str
    number: int
    colour: str


@dataclass(frozen=True)
class Series:
    """The numbers of one name at each place of the horizontal axis."""

    name: str
    numbers: Sequence[int]
    colour: str


def tag(name: str, *content: str | Markup, **attributes: object) -> Markup:
    """Return an element; its attributes and its content are escaped, but for content that is `Markup`.

    An underscore at the end of an attribute's name is left out, and one within it is a hyphen.
    """
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(str(value))}"' for key, value in attributes.items()
    )
    inner = Markup("").join(escape(one) for one in content)
    return Markup(f"<{name}{written}>{inner}</{name}>")  # noqa: S704  # name is ours, all else is escaped


def colour(number: int) -> str:
    """Return the class of the colour of a series, by its number from 0."""
    return f"c{min(number, COLOURS - 1)}"


def meter(parts: Sequence[Part], whole: int, *, start: int = 0, width: int = 320, height: int = 14) -> Markup:
    """Return one bar whose parts lie side by side on a scale from 0 to *whole*.

    Parameters
    ----------
    parts
        The parts, from left to right.
    whole
        The end of the scale.
    start
        Where the first part begins, for a waterfall.
    width, height
        In pixels.
    """
    rows, at = [tag("rect", class_="track", x=0, y=0, width=width, height=height, rx=3)], float(start)
    for part in parts:
        rows.append(
            _bar(part, at / whole * width if whole else 0, 0, part.number / whole * width if whole else 0, height)
        )
        at += part.number
    title = ", ".join(f"{part.name} {count(part.number)}" for part in parts) or "nothing"
    return _svg(width, height, title, *rows)


def stack(labels: Sequence[str], series: Sequence[Series], *, width: int = 1080, height: int = 220) -> Markup:
    """Return stacked bars: one bar per label, one part per series.

    Parameters
    ----------
    labels
        The places of the horizontal axis, from left to right.
    series
        The parts of the bars, from the bottom up.
    width, height
        In pixels.
    """
    highest = max((sum(one.numbers[place] for one in series) for place in range(len(labels))), default=0)
    top, plot = _round_up(highest), height - _TOP - _BOTTOM
    step = (width - _LEFT - _RIGHT) / max(len(labels), 1)
    drawn = [*_axes(top, width, height), *_places(labels, step, height)]
    for place, label in enumerate(labels):
        y = float(height - _BOTTOM)
        for one in series:
            tall = one.numbers[place] / top * plot
            y -= tall
            named = Part(f"{label}: {one.name}", one.numbers[place], one.colour)
            drawn += [_bar(named, _LEFT + place * step + step * 0.1, y, step * 0.8, tall)] if one.numbers[place] else []
    return _svg(width, height, f"{', '.join(one.name for one in series)}, by day", *drawn)


def line(
    labels: Sequence[str],
    values: Sequence[float | None],
    top: float,
    *,
    title: str,
    width: int = 340,
    height: int = 110,
    colour_class: str = "c0",
    unit: str = "",
) -> Markup:
    """Return a line with a dot per value, on a scale from 0 to *top* that several charts can share.

    Parameters
    ----------
    labels, values
        The places of the horizontal axis and their values; None where there is none: the line has a gap there.
    top
        The end of the scale.
    title
        Of the chart, for readers of screens.
    width, height
        In pixels.
    colour_class
        The class of the colour.
    unit
        Behind the numbers.
    """
    plot, step = height - _TOP - _BOTTOM, (width - _LEFT - _RIGHT) / max(len(labels), 1)
    drawn = [*_axes(top, width, height, unit), *_places(labels, step, height, most=2)]
    before: tuple[float, float] | None = None
    for place, value in enumerate(values):
        if value is None:
            before = None
            continue
        x, y = _LEFT + (place + 0.5) * step, height - _BOTTOM - min(value, top) / (top or 1) * plot
        if before is not None:
            drawn.append(_stroke(before, (x, y), f"stroke {colour_class}"))
        named = tag("title", f"{labels[place]}: {value:.4g}{unit}")
        drawn.append(tag("circle", named, class_=colour_class, cx=_at(x), cy=_at(y), r=2))
        before = x, y
    return _svg(width, height, title, *drawn)


def fan(
    days: Sequence[float], done: Sequence[float], whole: float, ends: tuple[float, float] | None, *, title: str
) -> Markup:
    """Return a burn-up chart: what was done by day, the whole, and the range in which it may end.

    Parameters
    ----------
    days, done
        Days since the beginning, and what was done up to each.
    whole
        What there is to do.
    ends
        The days on which everything is done, at the earliest and at the latest; None if nobody can say.
    title
        Of the chart.
    """
    width, height, top = 1080, 240, _round_up(max(whole, *done, 1))
    last = max(days[-1], *(ends or (0.0,)), 1)

    def spot(x: float, y: float) -> tuple[float, float]:
        across = _LEFT + x / last * (width - _LEFT - _RIGHT)
        return across, height - _BOTTOM - y / top * (height - _TOP - _BOTTOM)

    drawn = [*_axes(top, width, height), _stroke(spot(0, whole), spot(last, whole), "whole")]
    spots = [spot(x, y) for x, y in zip(days, done, strict=True)]
    drawn += [_stroke(one, other, "stroke released") for one, other in pairwise(spots)]
    if ends is not None:
        now = spot(days[-1], done[-1])
        points = " ".join(f"{_at(x)},{_at(y)}" for x, y in (now, spot(ends[0], whole), spot(ends[1], whole)))
        drawn.append(
            tag("polygon", tag("title", "if it goes on as in the last 14 nights"), points=points, class_="range")
        )
    return _svg(width, height, title, *drawn)


def _svg(width: int, height: int, title: str, *content: Markup) -> Markup:
    box = f"0 0 {width} {height}"
    return tag(
        "svg", *content, xmlns="http://www.w3.org/2000/svg", viewBox=box, width=width, height=height, role="img",
        aria_label=title, class_="chart",
    )  # fmt: skip


def _bar(part: Part, x: float, y: float, width: float, height: float) -> Markup:
    named = tag("title", f"{part.name}: {count(part.number)}")
    size = {"width": _at(max(width, 1 if part.number else 0)), "height": _at(max(height, 1 if part.number else 0))}
    return tag("rect", named, class_=part.colour, x=_at(x), y=_at(y), **size)


def _stroke(start: tuple[float, float], end: tuple[float, float], class_: str) -> Markup:
    return tag("line", class_=class_, x1=_at(start[0]), y1=_at(start[1]), x2=_at(end[0]), y2=_at(end[1]))


def _axes(top: float, width: int, height: int, unit: str = "") -> list[Markup]:
    """Return the horizontal lines at the bottom, the middle and the top, with their numbers."""
    drawn = []
    for value in (0, top / 2, top):
        y = height - _BOTTOM - value / (top or 1) * (height - _TOP - _BOTTOM)
        drawn.append(_stroke((_LEFT, y), (width - _RIGHT, y), "axis"))
        drawn.append(tag("text", _shorten(value) + unit, x=_LEFT - 6, y=_at(y + 4), text_anchor="end"))
    return drawn


def _shorten(value: float) -> str:
    """Return a number for an axis, as ``500``, ``20 k`` or ``1.5 M``."""
    for factor, letter in ((1_000_000, "M"), (10_000, "k")):
        if value >= factor:
            return f"{value / (1_000 if letter == 'k' else factor):.3g} {letter}"
    return f"{value:,.0f}" if value >= 1_000 else f"{value:.3g}"


def _places(labels: Sequence[str], step: float, height: int, most: int = _LABELS) -> list[Markup]:
    every = max(1, -(-len(labels) // most))
    return [
        tag("text", label, x=_at(_LEFT + (place + 0.5) * step), y=height - 6, text_anchor="middle")
        for place, label in enumerate(labels)
        if place % every == every // 2
    ]


def _round_up(number: float) -> float:
    """Return the next number of the form 1, 2 or 5 times a power of ten; 1 for nothing."""
    if number <= 1:
        return 1.0
    power = 10.0 ** (len(str(int(number))) - 1)
    return next(factor * power for factor in (1, 2, 5, 10) if factor * power >= number)


def _at(number: float) -> str:
    return f"{number:.1f}".removesuffix(".0")
