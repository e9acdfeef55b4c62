"""The report of a clinical run, counted in units: report.json, dispositions.csv and the OperationOutcomes.

All are written for every run, successful or not. report.json names no key and no identifier. dispositions.csv has a row
for each unit that is not simply released, which is the list that people fix and resubmit; operation-outcomes.ndjson has
what the validators said of them. Both stay in the workspace.
"""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.reasons import Reason
from airlock.records import Disposition, Gate, Verdict
from airlock.stages.reporting import by_frequency, count_values, describe_run, explain_reasons, to_csv
from airlock.stages.resources import CSV_COLUMNS, TYPES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run


@dataclass
class Tally:
    """A run's books as counted, part by part: whole subjects and whole files at a time."""

    arrivals: int = 0
    bytes: int = 0
    resources: int = 0
    verdicts: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    dispositions: Counter[str] = field(default_factory=Counter)
    reasons: Counter[str] = field(default_factory=Counter)
    patients: Counter[str] = field(default_factory=Counter)
    files: Counter[str] = field(default_factory=Counter)
    held: list[tuple[str, str, str]] = field(default_factory=list)  # subject, subject_key and reason
    overrides: dict[str, dict[str, Any]] = field(default_factory=dict)  # a person's decision by subject_key
    dangling: Counter[str] = field(default_factory=Counter)  # units by the types of what is nowhere
    ended: list[dict[str, Any]] = field(default_factory=list)  # of `parked.count_ended`

    def add_units(self, verdicts: pl.DataFrame, outcomes: pl.DataFrame, dispositions: pl.DataFrame) -> None:
        """Count units."""
        self.resources += verdicts["content_digest"].count()
        for counter, column in (
            (self.verdicts, verdicts["verdict"]),
            (self.outcomes, outcomes["outcome"]),
            (self.dispositions, dispositions["disposition"]),
            (self.reasons, dispositions["reason"]),
        ):
            counter.update(count_values(column))
        noted, accepted = pl.col("reason") == Reason.DANGLING_REFERENCE, pl.col("verdict") == Verdict.ACCEPT
        for rows in (verdicts.filter(noted & accepted), outcomes.filter(noted)):
            self.dangling.update(count_values(rows["detail"].str.split(TYPES).explode()))

    def add_gates(self, gates: pl.DataFrame) -> None:
        """Count gates of patients or of files."""
        of_patient = gates.filter(pl.col("subject").str.starts_with("Patient/"))
        self.patients.update(count_values(of_patient["gate"]))
        self.held += gates.filter(pl.col("gate") == Gate.HOLD).select("subject", "subject_key", "reason").rows()


def build(run: Run[ClinicalPipeline], tally: Tally, jobs: list[dict[str, Any]], problems: list[str]) -> dict[str, Any]:
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
    gates = {"released": tally.patients[Gate.RELEASE], "held": tally.patients[Gate.HOLD]}
    return {
        "schema": "airlock.report/1",
        "kind": run.pipeline.kind,
        **describe_run(run),
        "arrivals": tally.arrivals,
        "bytes": tally.bytes,
        "resources": tally.resources,
        "verdicts": by_frequency(tally.verdicts),
        "outcomes": by_frequency(tally.outcomes),
        "dispositions": by_frequency(tally.dispositions),
        "reasons": explain_reasons(tally.reasons, "units"),
        "dangling_references": by_frequency(tally.dangling),
        "waited_too_long": tally.ended,
        "patients": gates,
        "files": {"released": 0, "held": 0} | by_frequency(tally.files),
        "held": [{"subject_key": key, "reason": reason} for _, key, reason in sorted(tally.held)],
        "overrides": [{"subject_key": key, **word} for key, word in sorted(tally.overrides.items())],
        "jobs": jobs,
        "validation_level": run.pipeline.risk.validation_level.value,
        **_find_conversion(run),
        **_find_redrive(run),
        "balanced": not problems,
        "problems": problems,
    }


def _find_conversion(run: Run[ClinicalPipeline]) -> dict[str, Any]:
    """Return the summary of the conversion's audit; empty where nothing was converted."""
    try:
        return {"conversion": json.loads(run.s3.get(run.within("").workspace.root.join("conversion.json")))}
    except FileNotFoundError:
        return {}


def _find_redrive(run: Run[ClinicalPipeline]) -> dict[str, Any]:
    """Return who asked for the redrive, why and of what; empty if the run is not one."""
    redrive = run.ledger.find_redrive(run.key)
    return {} if redrive is None else {"redrive": redrive}


def dispositions_csv(dispositions: pl.DataFrame, *, head: bool = True) -> str:
    """Return dispositions.csv: all units that are not simply released."""
    return to_csv(dispositions.filter(pl.col("disposition") != Disposition.RELEASED), CSV_COLUMNS, head=head)


def operation_outcomes(rows: pl.DataFrame) -> str:
    """Return rows of the operation_outcomes dataset, with their files' ``key``, as lines of JSON by key and line."""
    return "".join(_outcome_lines(rows.sort("key", "line", "source")))


def _outcome_lines(rows: pl.DataFrame) -> Iterator[str]:
    names = ("key", "line", "resource_type", "resource_id", "source")
    for *values, outcome in rows.select(*names, "outcome").iter_rows():
        head = json.dumps(dict(zip(names, values, strict=True)))
        # A line break in JSON is only layout.
        yield f'{head[:-1]}, "outcome": {outcome.replace(chr(10), " ")}}}\n'
