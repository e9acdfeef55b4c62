"""The report of a reconciliation: a JSON document and a list of its findings as CSV, in the workspace."""

from __future__ import annotations

import math
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger.columns import FindingKind
from airlock.ledger.comparisons import FINDINGS
from airlock.records import schema
from airlock.stages.reporting import cells_to_csv

if TYPE_CHECKING:
    from airlock.ledger import Ledger
    from airlock.stages.reconcile import Reconciliation
    from airlock.storage.workspace import Workspace

SCHEMA = "airlock.reconcile/1"
CONFIDENCE = 0.95
MOST_LISTED = 100_000  # rows of findings.csv; the ledger has all
SENTENCES = {
    FindingKind.MISSING_IN_STORE: "The data store has lost what the ledger counts as stored. It no longer counts as "
    "stored. Redrive it with --findings, or record with airlock ledger forget that it was removed.",
    FindingKind.FOREIGN_IN_STORE: "The data store has what no run of this ledger imported. Find out who stored it; "
    "delete it in AWS if it does not belong there.",
    FindingKind.OTHER_VERSION: "Somebody has changed the image set since its import. Find out who and why before you "
    "import it again: a redrive would undo a correction.",
    FindingKind.OTHER_INSTANCE_COUNT: "The image set has another number of instances than was imported into it.",
    FindingKind.OTHER_CONTENT: "The content is not what was imported. Compare it with the source before you act.",
    FindingKind.VANISHED: "The object in the archive is gone. What was imported stays, and cannot be imported again.",
    FindingKind.NO_EVIDENCE: "A contract rests on a row or a file that is gone. Restore it from a backup.",
}
_LISTED = ("kind", "state", "subject", "study_key", "arrival_id", "image_set_id", "expected", "found", "found_at")
COLUMNS = (*_LISTED, "what_to_do")


def upper_bound(differing: int, sample: int) -> float:
    """Return the share of differing units that a random sample does not exceed with 95 % confidence.

    It is the upper limit of the exact (Clopper-Pearson) one-sided interval: the share at which so few differing units,
    or fewer, have a chance of 5 % only.
    """
    if sample == 0 or differing >= sample:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(60):
        share = (low + high) / 2
        low, high = (share, high) if _chance_of_at_most(differing, sample, share) > 1 - CONFIDENCE else (low, share)
    return high


def _chance_of_at_most(differing: int, sample: int, share: float) -> float:
    """Return the chance of at most so many differing units in a sample, of the binomial distribution."""
    log_share, log_rest = math.log(share), math.log1p(-share)
    terms = (
        math.lgamma(sample + 1)
        - math.lgamma(number + 1)
        - math.lgamma(sample - number + 1)
        + number * log_share
        + (sample - number) * log_rest
        for number in range(differing + 1)
    )
    return math.fsum(map(math.exp, terms))


def write_report(ledger: Ledger, workspace: Workspace, done: Reconciliation, unit: str) -> dict[str, Any]:
    """Write report.json and findings.csv into a comparison's folder, and return the report, schema `SCHEMA`.

    *unit* is what a sample consists of: ``studies`` or ``resources``.
    """
    comparison, counts = done.comparison, done.counts
    report: dict[str, Any] = {
        "schema": SCHEMA,
        "comparison": comparison.number,
        "datastore_id": comparison.datastore_id,
        "scope": comparison.scope,
        "asked_by": comparison.asked_by,
        "began_at": comparison.began_at.isoformat(),
        "ended_at": datetime.now(UTC).isoformat(),
        "counts": {name: round(number, 3) for name, number in counts.items() if not isinstance(number, dict)},
        "left_out": counts.get("left_out", {}),
        "requests": counts.get("requests", {}),
        "still_counted_as_stored": done.missing,
        "forget_at_most": done.limit,
    }
    if "sample" in comparison.scope:
        size = counts.get(unit, 0) - counts.get("undecided", 0)
        report["sample"] = _describe_sample(size, counts.get("differing", 0), unit)
    report["findings_uri"], report["listed"], numbers = _write_findings(ledger, workspace, done)
    report["closed"] = dict(numbers["closed"])
    report["findings"] = {
        kind: {"findings": number, "sentence": SENTENCES[FindingKind(kind)]}
        for kind, number in sorted(numbers["open"].items())
    }
    report["report_uri"] = str(workspace.root.join("report.json"))
    workspace.write_json("report.json", report)
    return report


def _describe_sample(size: int, differing: int, unit: str) -> dict[str, Any]:
    return {
        "unit": unit,
        "compared": size,
        "differing": differing,
        "at_most": round(upper_bound(differing, size), 6),
        "confidence": CONFIDENCE,
    }


def _write_findings(
    ledger: Ledger, workspace: Workspace, done: Reconciliation
) -> tuple[str, int, dict[str, Counter[str]]]:
    """Write the findings, and return the address, the number of rows, and the numbers of findings by state and kind."""
    comparison = done.comparison
    rows = [schema(FINDINGS, {"state": pl.String}).to_frame()]
    numbers = {"open": Counter[str](), "closed": Counter[str]()}
    for state, frames in {
        "open": ledger.find_findings(comparison=comparison.number),
        "closed": ledger.find_findings(
            pipeline=comparison.pipeline, datastore_id=comparison.datastore_id, closed_since=comparison.began_at
        ),
    }.items():
        for frame in frames:
            numbers[state].update(frame["kind"])
            room = MOST_LISTED - sum(one.height for one in rows)
            rows.append(frame.head(max(0, room)).with_columns(state=pl.lit(state)))
    sentences = {kind.value: text for kind, text in SENTENCES.items()}
    listed = pl.concat(rows).with_columns(
        pl.col("found_at").dt.to_string("iso:strict"),
        what_to_do=pl.col("kind").replace_strict(sentences, default=None, return_dtype=pl.String),
    )
    text = cells_to_csv(listed.select(COLUMNS))
    return workspace.write_text("findings.csv", text, "text/csv"), listed.height, numbers
