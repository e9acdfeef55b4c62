"""The report of a run: report.json with the counts, dispositions.csv with one row per arrival.

Both are written for every run, successful or not. report.json names no key, no identifier and no UID; it names sites
if the pipeline's source.site_pattern does. dispositions.csv is the list that people fix and resubmit, and stays in the
workspace.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging.completeness import compare_counts
from airlock.imaging.reading import Reading
from airlock.reasons import Reason
from airlock.records import DISPOSITIONS, Gate, Verdict
from airlock.stages.reporting import (
    by_frequency,
    compare_ids,
    count_by_site,
    count_values,
    describe_run,
    explain_reasons,
)
from airlock.stages.review import overrides_by_key

if TYPE_CHECKING:
    from airlock.run import Run

# The last column identifies a row when people choose what to redrive.
CSV_COLUMNS = (*(name for name in DISPOSITIONS.names() if name != "arrival_id"), "what_to_do", "arrival_id")
_ID = "arrival_id"
_MOST_FINDINGS = 1_000  # studies with fewer instances than declared that a report names
# The steps by the names of their books, as the report names them.
_STEPS = {name: name for name in ("arrivals", "verdicts", "outcomes", "dispositions")} | {"held": "the ledger"}


@dataclass
class Tally:
    """The counts of a run's books, added part by part. A part has whole studies, so that each study counts once."""

    arrivals: int = 0
    bytes: int = 0
    studies: int = 0  # named by an arrival
    verdicts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    dispositions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    gates: Counter[str] = field(default_factory=Counter)
    held: list[dict[str, Any]] = field(default_factory=list)  # study_key and reason
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)  # review decisions by study_key
    declared: Counter[str] = field(default_factory=Counter)  # studies with equal, fewer or more instances than declared
    fewer: list[dict[str, Any]] = field(default_factory=list)  # the first of those with fewer
    reading: Reading = field(default_factory=Reading)
    completeness: Counter[str] = field(default_factory=Counter)  # released contracts by what they say of themselves
    unattributed: Counter[str] = field(default_factory=Counter)  # unread files that belong to no known study, by site
    redrive: dict[str, Any] | None = None  # who asked for it, why and of what; None if the run is not one

    def add(self, books: dict[str, pl.DataFrame]) -> None:
        """Count a part: the frames of `settle.settle_part`."""
        verdicts, gates, dispositions = books["verdicts"], books["gates"], books["dispositions"]
        self.studies += verdicts.filter(pl.col("StudyInstanceUID") != "")["StudyInstanceUID"].n_unique()
        for counter, column in (
            (self.verdicts, verdicts["verdict"]),
            (self.outcomes, books["outcomes"]["outcome"]),
            (self.dispositions, dispositions["disposition"]),
            (self.reasons, dispositions["reason"]),
            (self.gates, gates["gate"]),
        ):
            counter.update(count_values(column))
        self.held += gates.filter(pl.col("gate") == Gate.HOLD).select("study_key", "reason").to_dicts()
        self.overrides |= overrides_by_key(books["overrides"])
        self._add_counts(books["counts"], gates)
        self._add_completeness(books["contracts"], gates)

    def _add_counts(self, counts: pl.DataFrame, gates: pl.DataFrame) -> None:
        compared = compare_counts(counts)
        self.declared.update(count_values(compared["is"]))
        fewer = compared.filter(pl.col("is") == "fewer").join(gates, on="StudyInstanceUID", how="inner")
        columns = ("study_key", "known", "declared", "declared_by", "gate")
        self.fewer += fewer.select(columns).head(_MOST_FINDINGS - len(self.fewer)).to_dicts()

    def _add_completeness(self, contracts: pl.DataFrame, gates: pl.DataFrame) -> None:
        released = gates.filter(pl.col("gate") == Gate.RELEASE)["StudyInstanceUID"]
        texts = contracts.filter(pl.col("subject").is_in(released.implode()))["contract"]
        self.completeness.update(count_values(texts.str.json_path_match("$.completeness.state")))


def build(run: Run, tally: Tally, jobs: list[dict[str, Any]], problems: list[str]) -> dict[str, Any]:
    """Return a run's report.

    Parameters
    ----------
    run
        The run.
    tally
        The counts of its books.
    jobs
        One entry per import job.
    problems
        What keeps the books from balancing; empty when they do.
    """
    released, held = (tally.gates[word.value] for word in (Gate.RELEASE, Gate.HOLD))
    return {
        "schema": "airlock.report/1",
        **describe_run(run),
        "arrivals": tally.arrivals,
        "bytes": tally.bytes,
        "reading": tally.reading.counts(),
        "verdicts": by_frequency(tally.verdicts),
        "outcomes": by_frequency(tally.outcomes),
        "dispositions": by_frequency(tally.dispositions),
        "reasons": explain_reasons(tally.reasons),
        "studies": {
            "released": released,
            "held": held,
            "stopped": tally.studies - released - held,  # without an accepted file
        },
        "unattributed": count_by_site(run.pipeline.source, tally.unattributed),
        "completeness": by_frequency(tally.completeness),
        "declared": by_frequency(tally.declared) | {"findings": sorted(tally.fewer, key=itemgetter("study_key"))},
        **_publication(run, tally),
        **({} if tally.redrive is None else {"redrive": tally.redrive}),
        "held": sorted(tally.held, key=itemgetter("study_key")),
        "overrides": [{"study_key": key, **word} for key, word in sorted(tally.overrides.items())],
        "jobs": jobs,
        "balanced": not problems,
        "problems": problems,
    }


def _publication(run: Run, tally: Tally) -> dict[str, Any]:
    """Return the counts of published studies and of those that wait for it; empty if the pipeline publishes none."""
    if run.pipeline.healthlake is None:
        return {}
    waiting = sum(study["reason"] == Reason.NOT_PUBLISHED for study in tally.held)
    return {"publication": {"published": tally.gates[Gate.RELEASE.value], "waiting": waiting}}


def imbalances(books: dict[str, pl.DataFrame]) -> Counter[tuple[str, str]]:
    """Return the imbalances between the steps: conservation, arrival by arrival.

    Parameters
    ----------
    books
        The frame ``arrivals``, and of ``verdicts``, ``outcomes``, ``dispositions`` and ``held`` those that are there:
        whole, or of each the rows of the same arrivals.

    Returns
    -------
    Counter
        How many arrivals are wrong, by step and in words, for `describe_imbalances`. Counts of parts add up.
    """
    found: Counter[tuple[str, str]] = Counter()
    for name, step in _STEPS.items():
        if name in books:
            expected = books["verdicts"].filter(pl.col("verdict") == Verdict.ACCEPT) if name == "outcomes" else None
            wrong = compare_ids((books["arrivals"] if expected is None else expected)[_ID], books[name][_ID])
            found.update({(step, what): number for what, number in wrong.items()})
    return found
