"""One side of the comparison of writes: what a run writes to the ledger about a delivery, in four steps.

`benchmarks.against` runs each step with the code of a checkout, in a process of its own::

    PYTHONPATH=<checkout>/include:. python benchmarks/writes.py claims URL 0 200000

It uses only what both versions have; where they differ, each one writes what its own stages write.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger import Ledger
from airlock.ledger.arrivals import scope
from airlock.ledger.instances import SCOPE
from benchmarks.claims import PIPELINE, listed, settled

if TYPE_CHECKING:
    from collections.abc import Callable

STORE = "d" * 32
_UIDS = {
    "SOPInstanceUID": "sop_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "StudyInstanceUID": "study_instance_uid",
}
_ELEMENTS = ("StudyDate", "AccessionNumber", "PatientID", "IssuerOfPatientID", "StudyID", "SeriesNumber")


def _run_of(first: int) -> str:
    return f"delivery-{first}"


def _find_words(first: int, end: int) -> pl.DataFrame:
    jobs = {name: pl.lit(name[0] * 32) for name in ("batch_id", "job_id", "image_set_id")}
    return settled(listed(first, end)).with_columns(**jobs)


def _find_outcomes(first: int, end: int) -> pl.DataFrame:
    """Return what an import brought, with the grouping elements of its studies and series."""
    words = _find_words(first, end)
    return words.select(
        "arrival_id",
        *(pl.col(name).alias(keyword) for keyword, name in _UIDS.items()),
        *(pl.lit("1").alias(name) for name in _ELEMENTS),
        "batch_id",
        "image_set_id",
        state=pl.lit("imported"),
        image_set_version=pl.lit(1, pl.Int64),
    )


def write_claims(ledger: Ledger, first: int, end: int) -> None:
    """Claim the arrivals, as buffer does."""
    run = _run_of(first)
    ledger.open_run(run, PIPELINE, run, None)
    ledger.claim(PIPELINE, run, listed(first, end))


def write_instances(ledger: Ledger, first: int, end: int) -> None:
    """Claim the instances, as validate does; versions from schema 0012 on write verdicts with them."""
    run, claims = _run_of(first), _find_outcomes(first, end)
    if getattr(ledger, "stage_verdicts", None) is None:
        ledger.claim_instances(STORE, PIPELINE, run, claims)
        return
    given = claims.rename(_UIDS).with_columns(verdict=pl.lit("accept"))
    with ledger.at_once(SCOPE, scope(PIPELINE)) as at_once:
        staged = at_once.stage_verdicts(given)
        at_once.claim_instances(STORE, PIPELINE, run, staged)
        at_once.record_verdicts(STORE, PIPELINE, run, staged)


def write_imports(ledger: Ledger, first: int, end: int) -> None:
    """Record what was imported, as audit does."""
    outcomes = _find_outcomes(first, end)
    studies, series = (outcomes.unique(name) for name in ("StudyInstanceUID", "SeriesInstanceUID"))
    ledger.record_imported(STORE, _run_of(first), outcomes, studies, series)


def write_words(ledger: Ledger, first: int, end: int) -> None:
    """Settle the arrivals, as audit does."""
    ledger.settle(PIPELINE, _run_of(first), _find_words(first, end))
    ledger.close_run(_run_of(first), "audited", {})


STEPS: dict[str, Callable[[Ledger, int, int], None]] = {
    "claims": write_claims,
    "instances": write_instances,
    "imports": write_imports,
    "words": write_words,
}

if __name__ == "__main__":
    step, url, *numbers = sys.argv[1:]
    with Ledger.open(url) as opened:
        STEPS[step](opened, int(numbers[0]), int(numbers[1]))
