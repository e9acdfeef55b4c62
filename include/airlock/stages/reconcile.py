"""Reconcile: compare the ledger with S3 and a data store, page by page, and record the differences as findings.

Nothing is imported or deleted. What the data store has lost no longer counts as stored in the ledger, so that a redrive
imports it again; above a limit a person is asked first. A difference that is gone is closed, and the report says so.
"""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from airlock.ledger.columns import ComparisonKind, FindingKind
from airlock.stages.adopt import UnknownStoreError, require_known
from airlock.stages.reconcile_scope import ReconcileError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from airlock.ledger import Ledger
    from airlock.ledger.comparisons import Comparison
    from airlock.stages.reconcile_comparer import AnyComparer
    from airlock.stages.reconcile_scope import Page, Scope
    from airlock.storage.requests import RequestMeter

LEAST_FORGOTTEN = 10_000  # instances that are forgotten without a question, and
FORGOTTEN_SHARE = 0.01  # of what was released, if that is more

ReportT = TypeVar("ReportT")


@dataclass(frozen=True)
class Request:
    """A person's request to reconcile."""

    scope: Scope
    asked_by: str
    forget_at_most: int | None = None  # None: `LEAST_FORGOTTEN`, or `FORGOTTEN_SHARE`


@dataclass(frozen=True)
class Reconciliation:
    """A comparison of everything in its scope."""

    comparison: Comparison
    counts: dict[str, Any]
    missing: int  # that still count as stored, since they are more than the limit
    limit: int


def reconcile(
    comparer: AnyComparer,
    pipeline: str,
    request: Request,
    report: Callable[[Reconciliation], ReportT],
    *,
    progress: Callable[[dict[str, Any]], None] = lambda _: None,
) -> ReportT:
    """Compare, or go on with the same comparison where it was interrupted; return the report.

    Parameters
    ----------
    comparer
        The comparison of the pipeline's kind. Its ledger has a journal, which keeps what the data store has lost.
    pipeline
        The pipeline's name.
    request
        What a person asks for.
    report
        Writes the report. The comparison ends after that, so that an interruption loses no report.
    progress
        Gets the counts after each page.

    Raises
    ------
    ReconcileError
        If the data store cannot be compared, or the ledger does not know it.
    LedgerError
        If another process has gone on with the same comparison.
    """
    comparer.check()
    ledger, scope, store = comparer.ledger, request.scope, comparer.datastore_id
    _require_known(ledger, store)
    comparison = _begin(ledger, pipeline, store, request)
    counts = comparison.counts or {}
    clock = time.monotonic()
    for page in comparer.pages(comparison.number, scope, comparison.position):
        counts = _add(counts, page, comparer.meters, time.monotonic() - clock)
        clock = time.monotonic()
        _keep_left_out(ledger, comparer, comparison, page, request)
        comparison = ledger.advance_comparison(comparison, page.position, counts, page.found)
        counts = _sum_numbers(counts, {"closed": _close(ledger, comparer, comparison, page, request)})
        progress(counts)
    limit = _find_limit(ledger, store, pipeline, request)
    missing = comparer.count_missing(comparison.number)
    forgotten = missing if missing <= limit else 0
    counts = counts | {"forgotten": max(forgotten, counts.get("forgotten", 0))}
    if forgotten:
        comparison = ledger.advance_comparison(comparison, comparison.position, counts)  # once forgotten, they are none
        comparer.forget_missing(comparison.number)
    counts = _sum_numbers(counts, {"closed": _close_rest(ledger, comparer, comparison, request)})
    written = report(Reconciliation(comparison, counts, missing - forgotten, limit))
    ledger.end_comparison(comparison, counts)
    return written


def _require_known(ledger: Ledger, datastore_id: str) -> None:
    """Refuse a data store without imports of this ledger: all in it would count as foreign, for somebody to delete."""
    try:
        require_known(ledger, datastore_id, None, "nothing is compared")
    except UnknownStoreError as error:
        raise ReconcileError(str(error)) from None


def _begin(ledger: Ledger, pipeline: str, datastore_id: str, request: Request) -> Comparison:
    """Return the interrupted comparison of the same scope, or a new one."""
    kind, scope = ComparisonKind.RECONCILE, request.scope.as_json()
    named = {"pipeline": pipeline, "datastore_id": datastore_id}
    begun = ledger.last_comparison(kind, scope=scope, has_ended=False, **named)
    return begun or ledger.begin_comparison(kind, scope, is_dry=False, asked_by=request.asked_by, **named)


def _kinds_of_page(comparer: AnyComparer, request: Request) -> list[FindingKind]:
    """Return the kinds of differences that a page finds; losses are looked for at the end."""
    return [kind for kind in comparer.kinds(request.scope) if kind is not FindingKind.MISSING_IN_STORE]


def _keep_left_out(ledger: Ledger, comparer: AnyComparer, comparison: Comparison, page: Page, request: Request) -> None:
    """Keep the findings about what a page had to leave out.

    This comes before the page is recorded: an interrupted comparison does not repeat a recorded page.
    """
    if page.left_out or page.young:
        kinds = _kinds_of_page(comparer, request)
        ledger.keep_findings(comparison, *kinds, study_keys=list(page.left_out), subjects=page.young)


def _close(ledger: Ledger, comparer: AnyComparer, comparison: Comparison, page: Page, request: Request) -> int:
    """Close what a page shows to be gone, and return the number of closed findings."""
    store, person = comparer.datastore_id, request.asked_by
    missing = FindingKind.MISSING_IN_STORE
    kinds = _kinds_of_page(comparer, request)
    subjects = pl.Series(page.found_again, dtype=pl.String)
    about = {"pipeline": comparison.pipeline, "datastore_id": store}
    closed = ledger.close_findings(subjects, missing, **about, closed_by=person)
    if request.scope.is_whole:
        return closed
    return closed + ledger.close_unseen(comparison, *kinds, closed_by=person, study_keys=page.compared)


def _close_rest(ledger: Ledger, comparer: AnyComparer, comparison: Comparison, request: Request) -> int:
    """Close at the end what was not found again; return the number of closed findings.

    A sample closes no losses, since it does not look for them.
    """
    kinds, subject, person = comparer.kinds(request.scope), request.scope.subject, request.asked_by
    if request.scope.is_whole:
        return ledger.close_unseen(comparison, *kinds, closed_by=person)
    losses = [kind for kind in kinds if kind is FindingKind.MISSING_IN_STORE and subject is not None]
    return ledger.close_unseen(comparison, *losses, closed_by=person, study_keys=[subject or ""])


def _find_limit(ledger: Ledger, datastore_id: str, pipeline: str, request: Request) -> int:
    if request.forget_at_most is not None:
        return request.forget_at_most
    released = ledger.count_store_contents(datastore_id, pipeline)["objects"]
    return max(LEAST_FORGOTTEN, int(released * FORGOTTEN_SHARE))


def _add(counts: dict[str, Any], page: Page, meters: Sequence[RequestMeter], seconds: float) -> dict[str, Any]:
    """Return the counts after a page."""
    groups = {
        "findings": dict(page.found["kind"].value_counts().iter_rows()),
        "left_out": dict(Counter(page.left_out.values())),
        "requests": _sum(*(meter.take_counts() for meter in meters)),
    }
    added = {name: _sum(counts.get(name, {}), group) for name, group in groups.items()}
    return _sum_numbers(counts, page.counts | {"seconds": round(seconds, 3)}) | added


def _sum_numbers(counts: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    """Return the counts with more of those that are numbers."""
    groups = {name: group for name, group in counts.items() if isinstance(group, dict)}
    return _sum({name: number for name, number in counts.items() if name not in groups}, more) | groups


def _sum(*counts: dict[str, Any]) -> dict[str, Any]:
    total: Counter[str] = Counter()
    for one in counts:
        total.update(one)
    return dict(sorted(total.items()))
