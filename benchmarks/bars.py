"""The bars of ``make bench``: the limit for each figure, and whether the figure meets it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MILLION = 1_000_000


@dataclass(frozen=True)
class Bar:
    """A measured figure and its limit.

    Parameters
    ----------
    figure
        The figure's name.
    value
        The measured value; None if it was not measured.
    limit
        The limit of the value.
    at_least
        Whether the limit is a minimum; otherwise it is a maximum.
    """

    figure: str
    value: float | None
    limit: float
    at_least: bool = False

    @property
    def met(self) -> bool | None:
        """Whether the value meets the limit; None if it was not measured."""
        if self.value is None:
            return None
        return self.value >= self.limit if self.at_least else self.value <= self.limit

    def __str__(self) -> str:
        """Return a line of the table."""
        value = "-" if self.value is None else f"{self.value:,.3g}" if self.value < 1000 else f"{self.value:,.0f}"
        verdict = {True: "met", False: "MISSED", None: "not measured"}[self.met]
        return f"{self.figure:64} {value:>9}   {'>=' if self.at_least else '<='} {self.limit:<7g} {verdict}"


def bars(figures: Mapping[str, Any]) -> list[Bar]:
    """Return all bars, in the order of the table of docs/performance.md.

    Parameters
    ----------
    figures
        The results of the parts ``headers``, ``series``, ``parse_memory``, ``copies``, ``tasks``, ``chain``, ``pages``
        and ``whole``; a missing part was not measured.
    """
    return [
        *_of_headers(figures.get("headers")),
        *_of_series(figures.get("series")),
        *_of_parse_memory(figures.get("parse_memory")),
        *_of_copies(figures.get("copies")),
        *_of_tasks(figures.get("tasks")),
        *_of_chain(figures.get("chain")),
        *_of_pages(figures.get("pages")),
        *bars_of_whole(figures.get("whole")),
    ]


def _of_headers(found: Mapping[str, Any] | None) -> Iterator[Bar]:
    ratios = found["ratios"] if found else {}
    airlock = found["contestants"]["airlock"] if found else {}

    def faster(other: str) -> float | None:
        return 1 / ratios[other]["objects_per_second"] if ratios else None

    def lighter(other: str) -> float | None:
        return float(ratios[other]["cpu_ms_per_object"]) if ratios else None

    yield Bar("objects/s against boto3 full GET + pydicom", faster("boto3_full"), 4, at_least=True)
    yield Bar("CPU against boto3 full GET + pydicom", lighter("boto3_full"), 6, at_least=True)
    yield Bar("objects/s against s3fs + pydicom", faster("s3fs"), 8, at_least=True)
    yield Bar("CPU against s3fs + pydicom", lighter("s3fs"), 12, at_least=True)
    yield Bar("requests per object", airlock.get("requests_per_object"), 1.10)
    yield Bar("KiB per object", airlock.get("kib_per_object"), 24)
    yield Bar("objects whose values differ from pydicom's, bench corpus", airlock.get("differing"), 0)


def _of_series(found: Mapping[str, Any] | None) -> Iterator[Bar]:
    airlock, ratio = (found["airlock"], found["ratio"]) if found else ({}, None)
    yield Bar("series of one kind: objects/s against GET only of the same ranges", ratio, 0.90, at_least=True)
    yield Bar("series of one kind: requests per object", airlock.get("requests_per_object"), 1.02)
    yield Bar("series of one kind: KiB per object", airlock.get("kib_per_object"), 34)
    yield Bar("series of one kind: objects whose values differ from pydicom's", airlock.get("differing"), 0)


def _of_parse_memory(found: Mapping[str, Any] | None) -> Iterator[Bar]:
    peak, spread = (found[name] if found else None for name in ("peak_mib", "spread"))
    yield Bar("peak RSS of a parse task, MiB", peak, 300)
    yield Bar("peak RSS of a parse task, the highest over the lowest", spread, 1.20)


def _of_copies(found: Mapping[str, Any] | None) -> Iterator[Bar]:
    tls, plain = (found[name]["ratio"] if found else {} for name in ("tls", "plain"))
    yield Bar("CPU per copy against boto3's in threads, TLS", tls.get("cpu_us_per_copy"), 1 / 3)
    yield Bar("copies/s against boto3's in threads", plain.get("copies_per_second"), 2.5, at_least=True)


def _of_tasks(found: Mapping[str, Any] | None) -> Iterator[Bar]:
    yield Bar("CPU of an Airlock task against an empty task", found["ratio"] if found else None, 1.8)


def _of_chain(found: Mapping[str, Any] | None) -> Iterator[Bar]:
    by_size = {size["arrivals"]: size for size in found["sizes"]} if found else {}
    one, five = by_size.get(MILLION), by_size.get(5 * MILLION)
    both = five["seconds"] / one["seconds"] if one and five else None
    yield Bar("validate + normalize + audit of 1 million arrivals, s", one["seconds"] if one else None, 120)
    yield Bar("peak RSS of their largest process, MiB", one["peak_mib"] if one else None, 2000)
    yield Bar("5 million arrivals over 1 million, time", both, 6)


def _of_pages(found: Mapping[str, Any] | None) -> Iterator[Bar]:
    most, slowest = (found.get(name) if found else None for name in ("most_questions", "slowest_above_empty_ms"))
    yield Bar("console: most questions of a page to the ledger", most, 8)
    yield Bar("console: slowest page over a page without questions, ms", slowest, 200)


def bars_of_whole(found: Mapping[str, Any] | None) -> Iterator[Bar]:
    """Yield the bars of the whole chain; parameters as for `bars`, of its part alone."""
    found = found or {}
    used = {row["limit"]: row["utilisation"] for row in found.get("limits", ())}
    staged = found.get("early", {}).get("staged_before_first_import")
    instances = found.get("instances", {})
    yield Bar("whole chain: copies/s against S3's limit, first to last copy", used.get("S3 COPY"), 0.85, at_least=True)
    yield Bar("whole chain: wall over binding stage + head + tail", found.get("whole", {}).get("ratio"), 1.25)
    yield Bar("24 batches, 4 slots: share staged before the first import", staged, 0.2)
    yield Bar("task instances of a million objects in one wave", instances.get("in_one_wave"), 450)
    yield Bar("task instances of each further wave", instances.get("of_each_further_wave"), 15)
