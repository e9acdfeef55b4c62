"""A run's report as a page shows it: the sums with their ticks, the reasons, the jobs beside what the manifests say."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airlock.stages.pages.charts import Part, meter
from airlock.stages.pages.known_studies import COMPLETENESS, DECLARED, MATCHES, describe_counts
from airlock.stages.pages.numbers import count, size
from airlock.stages.reporting import counted_apart, summarize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from markupsafe import Markup

# What the words of a report are called on a page, and the classes of their colours.
NAMES = {
    "accept": ("accepted for import", "accepted"),
    "quarantine": ("rejected before import", "quarantined"),
    "duplicate": ("duplicates", "duplicate"),
    "ignore": ("ignored", "ignored"),
    "imported": ("imported", "released"),
    "imported_with_warning": ("imported with a warning", "held"),
    "non_primary": ("in a non-primary image set", "held"),
    "rejected": ("rejected by the service", "quarantined"),
    "server_error": ("failed by a server error", "failed"),
    "unaccounted": ("not accounted for", "failed"),
    "released": ("released", "released"),
    "awaiting_publication": ("waiting for publication", "waiting"),
    "held": ("held", "held"),
    "quarantined": ("rejected", "quarantined"),
    "ignored": ("ignored", "ignored"),
    "failed": ("failed", "failed"),
    "stopped": ("without an accepted file", "quarantined"),
    "published": ("published in HealthLake", "released"),
    "waiting": ("waiting for publication", "waiting"),
}
DISPOSITIONS = ("released", "held", "quarantined", "failed", "duplicate", "ignored")  # in the order of bars
_KNOWN = (
    ("completeness of released studies", "completeness", COMPLETENESS),
    ("declared numbers of instances", "declared", DECLARED),
    ("whose the studies are", "patient_match", MATCHES),
)
_SUBJECTS = ("studies", "publication", "patients", "files")
_WIDTH = 320  # of a bar, in pixels


@dataclass(frozen=True)
class Row:
    """A line of the balance: a word, its number, and its bar."""

    name: str
    number: str
    colour: str
    bar: Markup


@dataclass(frozen=True)
class Sum:
    """A sum of the balance; the step before says what it must be."""

    title: str
    number: int
    expected: int
    expected_as: str
    rows: tuple[Row, ...]

    @property
    def adds_up(self) -> bool:
        """Whether the parts are what they must be."""
        return self.number == self.expected


@dataclass(frozen=True)
class ReasonRow:
    """A reason with its count, its share, and the median share of the nights before."""

    code: str
    number: int
    share: float
    sentence: str
    median: float | None = None

    @property
    def is_unusual(self) -> bool:
        """Whether the share is above three times its median, and at least one in a hundred."""
        return self.median is not None and self.share >= 0.01 and self.share > 3 * self.median


@dataclass(frozen=True)
class JobRow:
    """An import job: the service's status beside what its manifest proved."""

    batch_id: str
    job_id: str
    status: str
    generation: int
    files: int
    size: str
    discrepancies: tuple[str, ...]


@dataclass(frozen=True)
class RunView:
    """A run's report for a page; it names no object, no identifier and no study."""

    pipeline: str
    run_id: str
    run_key: str
    window: tuple[str, str] | None
    balanced: bool
    problems: tuple[str, ...]
    brake: str | None
    sentences: tuple[str, ...]
    unit: str
    sums: tuple[Sum, ...]
    subjects: tuple[tuple[str, tuple[Row, ...]], ...]
    reasons: tuple[ReasonRow, ...]
    jobs: tuple[JobRow, ...]
    facts: tuple[tuple[str, str], ...]
    owed: tuple[tuple[str, int, int, str], ...]  # reason, objects, of them overdue, what to do

    @property
    def state(self) -> str:
        """The class of the run's state: ``bad``, ``attention`` or ``good``."""
        if not self.balanced or self.brake is not None:
            return "bad"
        return "attention" if any(one.is_unusual for one in self.reasons) else "good"


def view_run(report: Mapping[str, Any], medians: Mapping[str, float] | None = None) -> RunView:
    """Return a run's report for a page.

    Parameters
    ----------
    report
        The content of report.json.
    medians
        The median share of each reason in the nights before; a reason that is not in it was not there in half of them.
        None if there are too few nights.
    """
    content = counted_apart(dict(report))
    unit = "units" if "resources" in content else "files"
    return RunView(
        pipeline=content["pipeline"],
        run_id=content["run_id"],
        run_key=content["run_key"],
        window=None if content.get("window") is None else (content["window"][0], content["window"][1]),
        balanced=bool(content["balanced"]),
        problems=tuple(content["problems"]),
        brake=content.get("brake"),
        sentences=tuple(_summarize(content)),
        unit=unit,
        sums=tuple(_balance(content, unit)),
        subjects=tuple(
            (name, tuple(_rows(content[name]))) for name in _SUBJECTS if any(content.get(name, {}).values())
        ),
        reasons=tuple(_reasons(content, medians)),
        jobs=tuple(map(_job, content["jobs"])),
        facts=tuple(_facts(content)),
        owed=tuple(_owed(content)),
    )


def _summarize(content: dict[str, Any]) -> list[str]:
    """Return the report in sentences, without the one about the books, which the page shows apart."""
    first, *more = summarize(content)
    return [first.partition(". ")[2], *more]


def _balance(content: dict[str, Any], unit: str) -> Iterator[Sum]:
    verdicts, outcomes, dispositions = (content[name] for name in ("verdicts", "outcomes", "dispositions"))
    decided = sum(verdicts.values())
    arrived = content["arrivals"] if unit == "files" else sum(dispositions.values())
    yield _sum("Verdicts before import", verdicts, arrived, f"{unit} that arrived")
    yield _sum("Outcomes of import", outcomes, verdicts.get("accept", 0), f"{unit} accepted for import")
    yield _sum("What became of them", dispositions, decided, f"{unit} with a verdict")


def _sum(title: str, counts: Mapping[str, int], expected: int, expected_as: str) -> Sum:
    return Sum(title, sum(counts.values()), expected, expected_as, tuple(_rows(counts)))


def _rows(counts: Mapping[str, int]) -> Iterator[Row]:
    """Yield the lines of a sum as a waterfall: each bar begins where the one before ends."""
    whole, start = sum(counts.values()), 0
    for word, number in counts.items():
        name, colour = NAMES.get(word, (word.replace("_", " "), "c7"))
        bar = _bar(name, number, colour, start, whole)
        yield Row(name, count(number), colour, bar)
        start += number


def _bar(name: str, number: int, colour: str, start: int, whole: int) -> Markup:
    return meter([Part(name, number, colour)], whole, start=start, width=_WIDTH)


def _reasons(content: dict[str, Any], medians: Mapping[str, float] | None) -> Iterator[ReasonRow]:
    whole = sum(content["dispositions"].values())
    for code, item in content["reasons"].items():
        number = item.get("arrivals", item.get("units", 0))
        median = None if medians is None else medians.get(code, 0.0)
        yield ReasonRow(code, number, number / whole if whole else 0.0, item["sentence"], median)


def _job(entry: Mapping[str, Any]) -> JobRow:
    return JobRow(
        batch_id=entry["batch_id"],
        job_id=entry["job_id"] or "not started",
        status=entry["status"] or "not ended",
        generation=entry["generation"],
        files=entry["files"],
        size=size(entry["bytes"]),
        discrepancies=tuple(entry["discrepancies"]),
    )


def _facts(content: dict[str, Any]) -> Iterator[tuple[str, str]]:
    others = content.get("listed_too", {})
    named = (("settled", "settled by earlier runs"), ("claimed_elsewhere", "held by other runs"))
    listed = [f"{count(others[name])} {words}" for name, words in named if others.get(name)]
    if listed:
        yield "listed besides", ", ".join(listed)
    if "bytes" in content:
        yield "size", size(content["bytes"])
    if content.get("validation_level"):
        yield "validation level", str(content["validation_level"])
    reading = content.get("reading") or {}
    if reading.get("arrivals"):
        yield (
            "headers",
            (
                f"{count(reading['requests'])} requests, {size(reading['bytes_read'])}; "
                f"{reading['requests_per_arrival']:.2f} requests and {reading['kib_per_arrival']:.1f} KiB each"
            ),
        )
    for title, name, words in _KNOWN:
        if any(content.get(name, {}).get(word) for word in words):
            yield title, describe_counts(content[name], words)
    if content.get("overrides"):
        yield "decisions of people that counted", count(len(content["overrides"]))
    if "redrive" in content:
        yield "redrive", "yes: it processed again what earlier runs held, rejected or failed"


def _owed(content: dict[str, Any]) -> Iterator[tuple[str, int, int, str]]:
    for code, item in content.get("owed", {}).get("reasons", {}).items():
        yield code, item["objects"], item["overdue"], item["sentence"]
