"""The report of a run: report.json with the counts, dispositions.csv with one row per arrival.

Both are written for every run, successful or not. report.json names no key, no identifier and no UID; dispositions.csv
is the list that people fix and resubmit, and stays in the workspace.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging.reading import Reading
from airlock.reasons import SENTENCES, Reason
from airlock.records import DISPOSITIONS, Gate, Verdict
from airlock.stages.review import words_by_key

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airlock.run import Run

# By its last column a row is known again when people choose what to redrive.
CSV_COLUMNS = (*(name for name in DISPOSITIONS.names() if name != "arrival_id"), "what_to_do", "arrival_id")
# What makes a formula of a cell, and of the rest of one that a spreadsheet with other separators cuts in two.
_FORMULAS = ((r"^([=+\-@\t\r\n])", "'${1}"), (r"([;\t\r\n])([=+\-@])", "${1}'${2}"))
_TO_QUOTE = r'[",\r\n]'
_ID = "arrival_id"
WAITING = "awaiting_publication"
_IN_WORDS = {
    "released": "released",
    WAITING: "waiting for their publication",
    "duplicate": "duplicates",
    "stopped": "without an accepted file",
}
# The steps by the names of their books, as people read them.
_STEPS = {name: name for name in ("arrivals", "verdicts", "outcomes", "dispositions")} | {"held": "the ledger"}


@dataclass
class Tally:
    """A run's books as counted, part by part: whole studies at a time, so that each study counts once."""

    arrivals: int = 0
    bytes: int = 0
    studies: int = 0  # that an arrival names
    verdicts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    dispositions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    gates: Counter[str] = field(default_factory=Counter)
    held: list[dict[str, Any]] = field(default_factory=list)  # study_key and reason
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)  # a person's word by study_key
    reading: Reading = field(default_factory=Reading)
    redrive: dict[str, Any] | None = None  # who wanted it, why and what, where the run is one

    def add(self, books: dict[str, pl.DataFrame]) -> None:
        """Count a part: the frames ``verdicts``, ``outcomes``, ``gates``, ``dispositions`` and ``overrides``."""
        verdicts, gates, dispositions = books["verdicts"], books["gates"], books["dispositions"]
        self.studies += verdicts.filter(pl.col("StudyInstanceUID") != "")["StudyInstanceUID"].n_unique()
        for counter, column in (
            (self.verdicts, verdicts["verdict"]),
            (self.outcomes, books["outcomes"]["outcome"]),
            (self.dispositions, dispositions["disposition"]),
            (self.reasons, dispositions["reason"]),
            (self.gates, gates["gate"]),
        ):
            counter.update(counts(column))
        self.held += gates.filter(pl.col("gate") == Gate.HOLD).select("study_key", "reason").to_dicts()
        self.overrides |= words_by_key(books["overrides"])


def build(run: Run, tally: Tally, jobs: list[dict[str, Any]], problems: list[str]) -> dict[str, Any]:
    """Write a run's report.

    Parameters
    ----------
    run
        Whose report this is.
    tally
        Its books, counted.
    jobs
        One entry per import job.
    problems
        What keeps the books from balancing; empty when they do.
    """
    released, held = (tally.gates[word.value] for word in (Gate.RELEASE, Gate.HOLD))
    return {
        "schema": "airlock.report/1",
        "pipeline": run.pipeline.name,
        "run_id": run.run_id,
        "run_key": run.key,
        "window": None if run.window is None else [run.window.start.isoformat(), run.window.end.isoformat()],
        "arrivals": tally.arrivals,
        "bytes": tally.bytes,
        "reading": tally.reading.counts(),
        "verdicts": _by_number(tally.verdicts),
        "outcomes": _by_number(tally.outcomes),
        "dispositions": _by_number(tally.dispositions),
        "reasons": _explained(tally.reasons),
        "studies": {
            "released": released,
            "held": held,
            "stopped": tally.studies - released - held,  # none of whose files were accepted
        },
        **_publication(run, tally),
        **({} if tally.redrive is None else {"redrive": tally.redrive}),
        "held": sorted(tally.held, key=itemgetter("study_key")),
        "overrides": [{"study_key": key, **word} for key, word in sorted(tally.overrides.items())],
        "jobs": jobs,
        "balanced": not problems,
        "problems": problems,
    }


def _publication(run: Run, tally: Tally) -> dict[str, Any]:
    """Count the studies that are proven in HealthLake, and those that wait for it, where the pipeline publishes."""
    if run.pipeline.healthlake is None:
        return {}
    waiting = sum(study["reason"] == Reason.NOT_PUBLISHED for study in tally.held)
    return {"publication": {"published": tally.gates[Gate.RELEASE.value], "waiting": waiting}}


def counted_apart(report: dict[str, Any]) -> dict[str, Any]:
    """Return a report in which what only waits for its publication in HealthLake is not counted among what is held."""
    files = report["reasons"].get(str(Reason.NOT_PUBLISHED), {}).get("arrivals", 0)
    studies = report.get("publication", {}).get("waiting", 0)
    waiting = {name: number for name, number in (("dispositions", files), ("studies", studies)) if number}
    apart = {
        name: report[name] | {"held": report[name]["held"] - number, WAITING: number}
        for name, number in waiting.items()
    }
    return report | apart


def summary(report: dict[str, Any]) -> list[str]:
    """Return what a report comes to, in a few sentences for a log."""
    books = "The books balance" if report["balanced"] else "The books do not balance, so everything is held"
    subjects = [name for name in ("studies", "patients", "files") if name in report]
    return [
        f"{books}. Of {counted_units(report)}: {_counted(report['dispositions'])}.",
        *(f"{name.capitalize()}: {_counted(report[name])}." for name in subjects),
    ]


def counted_units(report: dict[str, Any]) -> str:
    """Return in words how many units a report has a disposition for: files, or resources and what is in their place."""
    if "resources" not in report:
        return f"{report['arrivals']} files"
    units = sum(report["dispositions"].values())
    return f"{units} units in {report['arrivals']} files ({report['resources']} resources)"


def _counted(counts: dict[str, int]) -> str:
    """Return counts in words: first, in any case, what is released, then what waits, then the rest as it stands."""
    first = {name: counts.get(name, 0) for name in ("released", WAITING)}
    named = (first | counts).items()
    words = ((n, _IN_WORDS.get(name, name)) for name, n in named if n or name == "released")
    return ", ".join(f"{n} {word.removesuffix('s') if n == 1 else word}" for n, word in words)


def _by_number(counter: Mapping[str, int]) -> dict[str, int]:
    """Return the counts, highest first, and then by name."""
    return dict(sorted(counter.items(), key=lambda item: (-item[1], item[0])))


def _explained(counter: Mapping[str, int], counted: str = "arrivals") -> dict[str, dict[str, Any]]:
    return {code: {counted: number, "sentence": SENTENCES[code]} for code, number in _by_number(counter).items()}


def counts(column: pl.Series) -> dict[str, int]:
    """Return how often each value occurs, most frequent first."""
    return _by_number(dict(column.drop_nulls().value_counts().iter_rows()))


def reasons(dispositions: pl.DataFrame, counted: str = "arrivals") -> dict[str, dict[str, Any]]:
    """Return how often each reason occurs, most frequent first, with what to do about it."""
    return _explained(counts(dispositions["reason"]), counted)


def to_csv(dispositions: pl.DataFrame, columns: Sequence[str] = CSV_COLUMNS, *, head: bool = True) -> str:
    """Return these columns as CSV (RFC 4180), with cells that a spreadsheet would run as a formula made harmless.

    An apostrophe, which is not part of the value, stands there before what would begin a formula: at the cell's start,
    and after a semicolon, tab or line break, where a spreadsheet may cut it. Without ``head`` there are the rows only.
    """
    advice = pl.col("reason").replace_strict(SENTENCES, default=None, return_dtype=pl.String)
    table = dispositions.with_columns(what_to_do=advice).select(columns)
    return table.with_columns(_cell()).write_csv(include_header=head, line_terminator="\r\n", quote_style="never")


def harmless_text(value: str) -> str:
    """Return what `to_csv` makes of a value before it quotes it."""
    return str(pl.select(_harmless(pl.lit(value))).item())


def _harmless(text: pl.Expr) -> pl.Expr:
    for start, apart in _FORMULAS:
        text = text.str.replace_all(start, apart)
    return text


def _cell() -> pl.Expr:
    """Write each text as a cell: harmless, and quoted where it must be; what is empty or missing is nothing."""
    harmless = _harmless(pl.col(pl.String))
    quoted = harmless.str.replace_all('"', '""', literal=True).str.replace(r"(?s)\A(.*)\z", '"${1}"')
    return pl.when(harmless.str.contains(_TO_QUOTE)).then(quoted).otherwise(harmless)


def imbalances(books: dict[str, pl.DataFrame]) -> Counter[tuple[str, str]]:
    """Hold the books against each other: conservation, arrival by arrival, at each step.

    Parameters
    ----------
    books
        The frame ``arrivals``, and of ``verdicts``, ``outcomes``, ``dispositions`` and ``held`` those that are there:
        whole, or of each the rows of the same arrivals.

    Returns
    -------
    Counter
        How many arrivals are wrong, by the step and in words, for `sentences`; sums over the arrivals are the whole.
    """
    found: Counter[tuple[str, str]] = Counter()
    for name, step in _STEPS.items():
        if name in books:
            expected = books["verdicts"].filter(pl.col("verdict") == Verdict.ACCEPT) if name == "outcomes" else None
            wrong = _difference((books["arrivals"] if expected is None else expected)[_ID], books[name][_ID])
            found.update({(step, what): number for what, number in wrong.items()})
    return found


def sentences(found: Mapping[tuple[str, str], int], counted: str = "arrivals") -> list[str]:
    """Say what `imbalances` has found: one sentence each, without identifiers; none where all is in its one place."""
    return [f"{step}: {number} {counted} {what}" for (step, what), number in found.items() if number]


def differences(step: str, expected: pl.Series, actual: pl.Series, counted: str = "arrivals") -> list[str]:
    """Say how what a step has differs from what it must have, as `sentences` does."""
    return sentences({(step, what): number for what, number in _difference(expected, actual).items()}, counted)


def _difference(expected: pl.Series, actual: pl.Series) -> dict[str, int]:
    return {
        "are missing": expected.len() - int(expected.is_in(actual.implode()).sum()),
        "do not belong there": actual.len() - int(actual.is_in(expected.implode()).sum()),
        "occur more than once": actual.len() - actual.n_unique(),
    }
