"""``airlock held``: the subjects held now, overdue objects and parked resources: since when, why, and what to do."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from airlock.pipelines.parking import is_urgent
from airlock.reasons import OWED_SENTENCES, SENTENCES, Reason
from airlock.suggestions import suggest_name
from airlock_cli.errors import RequestError
from airlock_cli.ledgers import has_run, open_ledger
from airlock_cli.show import Table, format_cell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger

SCHEMA = "airlock.held/1"
_PARKED = ("late", "since", "pipeline", "resource_type", "waits_for_type", "resources")
_LATE = timedelta(days=1)  # after which a parked resource of a safety type is named first
_OVERDUE = ("since", "pipeline", "objects", "reason", "what_to_do")
_COLUMNS = ("since", "pipeline", "subject_key", "reason", "what_to_do", "arrivals not released", "run_id")


def find_held(pipeline: str | None, reason: str | None) -> dict[str, Any]:
    """Return the held subjects, oldest first, schema `SCHEMA`.

    Parameters
    ----------
    pipeline
        Only of this pipeline; None for all.
    reason
        Only subjects that are held for this reason or have an arrival with it; None for all.

    Raises
    ------
    RequestError
        If the pipeline or the reason code does not exist.
    """
    if reason is not None and reason not in OWED_SENTENCES:
        check_reason(reason)
    with open_ledger() as ledger:
        last_run = None if pipeline is None else _describe_last_run(ledger, pipeline)
        gates = ledger.held(pipeline)
        unreleased = ledger.unreleased(gates)
        overdue = _find_overdue(ledger, pipeline, reason)
        parked = _find_parked(ledger, pipeline, reason)
    arrivals = unreleased.rows_by_key(("subject", "datastore_id"), named=True, include_key=False)
    rows = [
        row
        | {
            "what_to_do": SENTENCES.get(row["reason"]),
            "arrivals": arrivals.get((row["subject"], row["datastore_id"]), []),
        }
        for row in gates.to_dicts()
    ]
    wanted = [row for row in rows if reason is None or reason in {row["reason"], *_arrival_reasons(row)}]
    asked = {"schema": SCHEMA, "pipeline": pipeline, "last_run": last_run, "reason": reason}
    return asked | {"held": wanted, "overdue": overdue, "parked": parked}


def _find_overdue(ledger: Ledger, pipeline: str | None, reason: str | None) -> list[dict[str, Any]]:
    """Return the objects that runs could not take and do not try any more by themselves, counted by reason."""
    return [
        {"since": row["since"], "pipeline": row["pipeline"], "objects": row["overdue"], "reason": row["reason"]}
        | {"what_to_do": OWED_SENTENCES.get(row["reason"])}
        for row in ledger.count_owed(pipeline).to_dicts()
        if row["overdue"] and reason in {None, row["reason"]}
    ]


def _find_parked(ledger: Ledger, pipeline: str | None, reason: str | None) -> list[dict[str, Any]]:
    """Count the parked resources by type, those first that can harm a patient and have waited for more than a day."""
    if reason not in {None, str(Reason.WAITING_FOR_RESOURCE)}:
        return []
    now = datetime.now(UTC)
    rows = [
        row | {"late": is_urgent(row["resource_type"]) and now - row["since"] > _LATE}
        for row in ledger.count_parked(pipeline).to_dicts()
    ]
    return sorted(rows, key=lambda row: not row["late"])


def _describe_last_run(ledger: Ledger, pipeline: str) -> dict[str, Any] | None:
    newest = ledger.find_run(pipeline) if has_run(ledger, pipeline) else None
    if newest is None:
        return None
    balanced = None if newest.report is None else newest.report["balanced"]
    return {"run_id": newest.run_id, "started_at": newest.started_at, "balanced": balanced}


def describe_nothing_held(found: dict[str, Any]) -> str:
    """Return the message for a result of `find_held` without subjects."""
    with_reason = f" with reason {found['reason']}" if found["reason"] else ""
    if found["pipeline"] is None:
        return f"Nothing is held{with_reason}."
    message = f"Nothing is held for {found['pipeline']}{with_reason}."
    last = found["last_run"]
    if last is None:
        return f"{message} It has not run yet."
    books = {True: "its books balance", False: "its books do not balance", None: "not audited yet"}[last["balanced"]]
    return f"{message} Last run: {format_cell(last['started_at'])}, {books}."


def _arrival_reasons(row: dict[str, Any]) -> Iterator[str]:
    return (item["reason"] for item in row["arrivals"])


def check_reason(code: str) -> None:
    """Refuse a code that is not a reason code.

    Raises
    ------
    RequestError
        With similar codes.
    """
    if code not in SENTENCES:
        meant = suggest_name(code, SENTENCES, "docs/reasons.md lists them")
        raise RequestError(f"{code!r} is not a reason code: {meant}")


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of a result of `find_held`."""
    yield Table(f"held: {len(found['held'])}", _COLUMNS, [_table_row(row) for row in found["held"]])
    overdue = [[row[name] for name in _OVERDUE] for row in found["overdue"]]
    parked = [[row[name] for name in _PARKED] for row in found["parked"]]
    yield Table("parked, by type and the type of what is missing", _PARKED, parked)
    yield Table(f"overdue: {sum(row['objects'] for row in found['overdue'])}", _OVERDUE, overdue)


def _table_row(row: dict[str, Any]) -> tuple[Any, ...]:
    counted = [f"{item['arrivals']} {item['disposition']}: {format_cell(item['reason'])}" for item in row["arrivals"]]
    names = ("since", "pipeline", "subject_key", "reason", "what_to_do")
    return *(row[name] for name in names), counted, row["run_id"]
