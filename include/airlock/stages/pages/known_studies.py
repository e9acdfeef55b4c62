"""What a run's report knows of its studies: completeness, declared numbers, unread files, whose the studies are.

What a report does not count, as one of an earlier version, is a dash.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from airlock.stages.pages.numbers import count

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airlock.ledger.runs import RunRecord

COMPLETENESS = ("complete", "partial", "unknown")
DECLARED = ("equal", "fewer", "more")
MATCHES = ("matched", "none", "ambiguous", "unguarded", "contradicted")
NOT_COUNTED = "-"
_COUNTED = ("completeness", "declared", "unattributed", "patient_match")


@dataclass(frozen=True)
class KnownStudies:
    """What is known of the studies of a run, in words."""

    run: RunRecord
    completeness: str
    declared: str
    unattributed: str
    matches: str


def describe_known(run: RunRecord) -> KnownStudies | None:
    """Return what a run's report knows of its studies; None if it counts nothing of it, as those of FHIR do."""
    report = run.report or {}
    if not any(name in report for name in _COUNTED):
        return None
    return KnownStudies(
        run=run,
        completeness=describe_counts(report.get("completeness"), COMPLETENESS),
        declared=describe_counts(report.get("declared"), DECLARED),
        unattributed=describe_unattributed(report.get("unattributed")),
        matches=describe_counts(report.get("patient_match"), MATCHES),
    )


def describe_counts(counts: Mapping[str, Any] | None, words: Sequence[str]) -> str:
    """Return the counts of these words, as ``complete 12, unknown 3``; ``0`` if none is above zero."""
    if counts is None:
        return NOT_COUNTED
    return ", ".join(f"{word} {count(counts[word])}" for word in words if counts.get(word)) or "0"


def describe_unattributed(unattributed: Mapping[str, Any] | None) -> str:
    """Return the number of unread files of no known study with their sites, as ``3: north 2, no site 1``."""
    if unattributed is None:
        return NOT_COUNTED
    sites = ", ".join(f"{site or 'no site'} {count(number)}" for site, number in unattributed["sites"].items())
    return count(unattributed["files"]) + (f": {sites}" if sites else "")
