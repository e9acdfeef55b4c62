"""Trends: rejects by reason and night, and the reject rate of each site on one scale."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import TYPE_CHECKING

from airlock.stages.pages.charts import COLOURS, Series, colour, line, stack
from airlock.stages.pages.medians import REJECTED
from airlock.stages.pages.run_view import DISPOSITIONS, NAMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from datetime import date, datetime

    from markupsafe import Markup

    from airlock.ledger.nights import NightTotal

    _Name = Callable[[NightTotal], str]

DAYS = (30, 90, 365)
MOST_SITES = 12
_OTHER = "other reasons"


@dataclass(frozen=True)
class Legend:
    """A series of a chart with its sum."""

    name: str
    number: int
    colour: str


@dataclass(frozen=True)
class SiteTrend:
    """The reject rate of a site, on the scale of all sites."""

    site: str
    chart: Markup
    arrivals: int
    rejected: int


@dataclass(frozen=True)
class Trends:
    """The page of a pipeline."""

    by_disposition: Markup
    dispositions: tuple[Legend, ...]
    by_reason: Markup
    reasons: tuple[Legend, ...]
    sites: tuple[SiteTrend, ...]
    more_sites: int
    throughput: Markup
    arrivals: int


def draw(totals: Sequence[NightTotal], days: int, now: datetime) -> Trends:
    """Return the charts of a pipeline's last days."""
    span = [now.astimezone(UTC).date() - timedelta(days=back) for back in reversed(range(days))]
    labels = [f"{one:%m-%d}" for one in span]
    words = _by_day(totals, span, lambda row: row.disposition)
    rejects = [row for row in totals if row.disposition in REJECTED]
    reasons = _keep_largest(_by_day(rejects, span, lambda row: row.reason or "no reason"))
    dispositions = [Series(NAMES[word][0], words[word], NAMES[word][1]) for word in DISPOSITIONS if word in words]
    by_reason = [Series(code, numbers, colour(place)) for place, (code, numbers) in enumerate(reasons.items())]
    sites, more = _draw_sites(totals, span, labels)
    sizes = _gigabytes(totals, span)
    return Trends(
        by_disposition=stack(labels, dispositions),
        dispositions=_legends(dispositions),
        by_reason=stack(labels, by_reason),
        reasons=_legends(by_reason),
        sites=sites,
        more_sites=more,
        throughput=line(labels, sizes, max([1.0, *sizes]), title="GiB by day", width=1080, height=140, unit=" GiB"),
        arrivals=sum(row.arrivals for row in totals),
    )


def _by_day(totals: Iterable[NightTotal], span: Sequence[date], name: _Name) -> dict[str, list[int]]:
    """Return the arrivals of each day by a name of their rows."""
    places = {one: place for place, one in enumerate(span)}
    found: dict[str, list[int]] = {}
    for row in totals:
        place = places.get(row.started_at.astimezone(UTC).date())
        if place is not None:
            found.setdefault(name(row), [0] * len(span))[place] += row.arrivals
    return {key: [max(number, 0) for number in numbers] for key, numbers in found.items()}


def _keep_largest(by_name: Mapping[str, list[int]]) -> dict[str, list[int]]:
    """Return the largest series, one per colour, with all others as one."""
    ordered = sorted(by_name.items(), key=lambda item: (-sum(item[1]), item[0]))
    if len(ordered) <= COLOURS:
        return dict(ordered)
    others = [sum(numbers) for numbers in zip(*(numbers for _, numbers in ordered[COLOURS - 1 :]), strict=True)]
    return dict(ordered[: COLOURS - 1]) | {_OTHER: others}


def _draw_sites(
    totals: Sequence[NightTotal], span: Sequence[date], labels: Sequence[str]
) -> tuple[tuple[SiteTrend, ...], int]:
    """Return the sites with the most arrivals, on one scale, and the number of the others."""
    sizes = Counter[str]()
    for row in totals:
        sizes[row.site] += row.arrivals
    shown = [site for site, _ in sizes.most_common(MOST_SITES)]
    shares = {site: _reject_shares([row for row in totals if row.site == site], span) for site in shown}
    top = max((value for values in shares.values() for value in values if value is not None), default=0.0)
    drawn = [
        SiteTrend(
            site=site,
            chart=line(labels, shares[site], max(top, 1.0), title=f"reject rate of {site or 'no site'}", unit=" %"),
            arrivals=sizes[site],
            rejected=sum(row.arrivals for row in totals if row.site == site and row.disposition in REJECTED),
        )
        for site in shown
    ]
    return tuple(drawn), max(0, len(sizes) - len(shown))


def _reject_shares(totals: Sequence[NightTotal], span: Sequence[date]) -> list[float | None]:
    """Return the rejects of each day in percent; None on days without arrivals."""
    whole = _by_day(totals, span, lambda _: "all").get("all", [0] * len(span))
    rejects = [row for row in totals if row.disposition in REJECTED]
    bad = _by_day(rejects, span, lambda _: "all").get("all", [0] * len(span))
    return [100 * part / number if number else None for part, number in zip(bad, whole, strict=True)]


def _gigabytes(totals: Iterable[NightTotal], span: Sequence[date]) -> list[float]:
    places = {one: place for place, one in enumerate(span)}
    found = [0.0] * len(span)
    for row in totals:
        place = places.get(row.started_at.astimezone(UTC).date())
        if place is not None:
            found[place] += row.bytes / 1024**3
    return [max(one, 0.0) for one in found]


def _legends(series: Iterable[Series]) -> tuple[Legend, ...]:
    return tuple(Legend(one.name, sum(one.numbers), one.colour) for one in series if sum(one.numbers))
