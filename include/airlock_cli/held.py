"""``airlock held``: the studies, patients and files that are held now, since when, why, and what to do."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.reasons import SENTENCES
from airlock.suggestions import suggest_name
from airlock_cli.errors import RequestError
from airlock_cli.ledgers import has_run, opened
from airlock_cli.show import Table, text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger

SCHEMA = "airlock.held/1"
_COLUMNS = ("since", "pipeline", "subject_key", "reason", "what_to_do", "arrivals not released", "run_id")


def held(pipeline: str | None, reason: str | None) -> dict[str, Any]:
    """Return what is held, schema `SCHEMA`, the oldest first.

    Parameters
    ----------
    pipeline
        Whose; None for all.
    reason
        Only what is held for this reason, or has an arrival with it.

    Raises
    ------
    RequestError
        If there is no such pipeline or reason code.
    """
    if reason is not None:
        check_reason(reason)
    with opened() as ledger:
        last_run = None if pipeline is None else _last_run(ledger, pipeline)
        gates = ledger.held(pipeline)
        arrivals = ledger.unreleased(gates["subject"]).rows_by_key("subject", named=True, include_key=False)
    rows = [
        row | {"what_to_do": SENTENCES.get(row["reason"]), "arrivals": arrivals.get(row["subject"], [])}
        for row in gates.to_dicts()
    ]
    wanted = [row for row in rows if reason is None or reason in {row["reason"], *_reasons(row)}]
    return {"schema": SCHEMA, "pipeline": pipeline, "last_run": last_run, "reason": reason, "held": wanted}


def _last_run(ledger: Ledger, pipeline: str) -> dict[str, Any] | None:
    newest = ledger.find_run(pipeline) if has_run(ledger, pipeline) else None
    if newest is None:
        return None
    balanced = None if newest.report is None else newest.report["balanced"]
    return {"run_id": newest.run_id, "started_at": newest.started_at, "balanced": balanced}


def nothing(found: dict[str, Any]) -> str:
    """Return the sentence for a result of `held` in which nothing is held."""
    said = f"nothing is held for {found['reason']}" if found["reason"] else "nothing is held"
    if found["pipeline"] is None:
        return said
    last = found["last_run"]
    if last is None:
        return f"{found['pipeline']}: {said} (it has not run yet)"
    books = {True: "balanced", False: "its books do not balance", None: "not audited yet"}[last["balanced"]]
    return f"{found['pipeline']}: {said} (last run {text(last['started_at'])}, {books})"


def _reasons(row: dict[str, Any]) -> Iterator[str]:
    return (item["reason"] for item in row["arrivals"])


def check_reason(code: str) -> None:
    """Refuse what is no reason code.

    Raises
    ------
    RequestError
        With the codes that come near it.
    """
    if code not in SENTENCES:
        meant = suggest_name(code, SENTENCES, "docs/reasons.md lists them")
        raise RequestError(f"{code!r} is not a reason code: {meant}")


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of what `held` returned."""
    yield Table(f"held: {len(found['held'])}", _COLUMNS, [_row(row) for row in found["held"]])


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    counted = [f"{item['arrivals']} {item['disposition']}: {text(item['reason'])}" for item in row["arrivals"]]
    names = ("since", "pipeline", "subject_key", "reason", "what_to_do")
    return *(row[name] for name in names), counted, row["run_id"]
