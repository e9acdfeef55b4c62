"""The report of a clinical run, counted in units: report.json, dispositions.csv and the OperationOutcomes.

All are written for every run, successful or not. report.json names no key and no identifier. dispositions.csv has a row
for each unit that is not simply released, which is the list that people fix and resubmit; operation-outcomes.ndjson has
what the validators said of them. Both stay in the workspace.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.records import Disposition, Gate, Verdict
from airlock.stages.reporting import (
    compare_ids,
    count_values,
    describe_imbalances,
    describe_run,
    explain_reasons,
    to_csv,
)
from airlock.stages.resources import CSV_COLUMNS
from airlock.stages.review import overrides_by_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run

_NONE = {"released": 0, "held": 0}


def build(
    run: Run[ClinicalPipeline], books: dict[str, pl.DataFrame], jobs: list[dict[str, Any]], problems: list[str]
) -> dict[str, Any]:
    """Return a run's report, counted from its books.

    Parameters
    ----------
    run
        The run.
    books
        The frames ``arrivals``, ``verdicts``, ``outcomes``, ``gates``, ``dispositions``,
        ``file_words`` and ``overrides``.
    jobs
        One entry per import job.
    problems
        What keeps the books from balancing; empty when they do.
    """
    verdicts, gates, dispositions = books["verdicts"], books["gates"], books["dispositions"]
    of_patient = pl.col("subject").str.starts_with("Patient/")
    return {
        "schema": "airlock.report/1",
        "kind": run.pipeline.kind,
        **describe_run(run),
        "arrivals": books["arrivals"].height,
        "bytes": int(books["arrivals"]["size"].sum()),
        "resources": verdicts["content_digest"].count(),
        "verdicts": count_values(verdicts["verdict"]),
        "outcomes": count_values(books["outcomes"]["outcome"]),
        "dispositions": count_values(dispositions["disposition"]),
        "reasons": explain_reasons(count_values(dispositions["reason"]), "units"),
        "patients": _count_gates(gates.filter(of_patient)),
        "files": _NONE | count_values(books["file_words"]["disposition"]),
        "held": gates.filter(pl.col("gate") == Gate.HOLD).select("subject_key", "reason").to_dicts(),
        "overrides": [
            {"subject_key": key, **word} for key, word in sorted(overrides_by_key(books["overrides"]).items())
        ],
        "jobs": jobs,
        "validation_level": run.pipeline.risk.validation_level.value,
        **_find_conversion(run),
        **_find_redrive(run),
        "balanced": not problems,
        "problems": problems,
    }


def _count_gates(gates: pl.DataFrame) -> dict[str, int]:
    words = {Gate.RELEASE.value: "released", Gate.HOLD.value: "held"}
    return _NONE | {words[gate]: number for gate, number in count_values(gates["gate"]).items()}


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


def dispositions_csv(dispositions: pl.DataFrame) -> str:
    """Return dispositions.csv: all units that are not simply released."""
    return to_csv(dispositions.filter(pl.col("disposition") != Disposition.RELEASED), CSV_COLUMNS)


def operation_outcomes(found: pl.DataFrame, arrivals: pl.DataFrame) -> str:
    """Return the OperationOutcomes as lines of JSON, in the order of keys and lines.

    Parameters
    ----------
    found
        Rows of the operation_outcomes dataset.
    arrivals
        The delivery, for the files' keys.
    """
    keys = arrivals.select("arrival_id", "key")
    rows = found.join(keys, on="arrival_id", how="inner").sort("key", "line", "source")
    return "".join(_outcome_lines(rows))


def _outcome_lines(rows: pl.DataFrame) -> Iterator[str]:
    names = ("key", "line", "resource_type", "resource_id", "source")
    for *values, outcome in rows.select(*names, "outcome").iter_rows():
        head = json.dumps(dict(zip(names, values, strict=True)))
        # A line break in JSON is only layout.
        yield f'{head[:-1]}, "outcome": {outcome.replace(chr(10), " ")}}}\n'


def imbalances(books: dict[str, pl.DataFrame]) -> list[str]:
    """Return the imbalances between the steps: conservation, unit by unit.

    Parameters
    ----------
    books
        The frames ``arrivals``, ``files``, ``verdicts``, ``outcomes``, ``dispositions`` and ``held``.

    Returns
    -------
    list of str
        One sentence per imbalance, without identifiers; empty when every unit of every file that was parsed is in
        exactly one place at each step. A file that was not parsed yet is open, which is no imbalance.
    """
    arrivals, files, verdicts = books["arrivals"], books["files"], books["verdicts"]
    accepted = verdicts.filter(pl.col("verdict") == Verdict.ACCEPT)
    open_files = arrivals.join(verdicts, on="arrival_id", how="anti").with_columns(line=pl.lit(None, pl.Int64))
    decided = pl.concat([_name_units(verdicts), _name_units(open_files)])
    ids = arrivals["arrival_id"]
    parsed = ids.filter(ids.is_in(files["arrival_id"].implode()))
    return [
        *_differences("arrivals", ids, ids),
        *_differences("files", parsed, files["arrival_id"]),
        *_find_miscounts(files, verdicts),
        *_differences("verdicts", _name_units(verdicts), _name_units(verdicts), "units"),
        *_differences("outcomes", _name_units(accepted), _name_units(books["outcomes"]), "units"),
        *_differences("dispositions", decided, _name_units(books["dispositions"]), "units"),
        *_differences("the ledger", ids, books["held"]["arrival_id"]),
    ]


def _differences(step: str, expected: pl.Series, actual: pl.Series, counted: str = "arrivals") -> list[str]:
    found = compare_ids(expected, actual)
    return describe_imbalances({(step, what): number for what, number in found.items()}, counted)


def _name_units(units: pl.DataFrame) -> pl.Series:
    """Return the name of each unit: its file and line."""
    line = pl.col("line").cast(pl.String).fill_null("")
    return units.select(unit=pl.format("{}:{}", pl.col("arrival_id"), line))["unit"]


def _find_miscounts(files: pl.DataFrame, verdicts: pl.DataFrame) -> list[str]:
    """Return a sentence if parse found another number of units in a file than was decided on; an empty file is one."""
    decided = verdicts.group_by("arrival_id").agg(decided=pl.len())
    both = files.select("arrival_id", "units").join(decided, on="arrival_id", how="full", coalesce=True)
    wrong = both.filter(pl.max_horizontal("units", 1).ne_missing(pl.col("decided"))).height
    return [f"verdicts: {wrong} files have another number of units than parse found"] if wrong else []
