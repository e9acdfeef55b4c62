"""``airlock held``: the studies, patients and files that are held now, since when, why, and what to do."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any

from airlock.reasons import SENTENCES
from airlock_cli.errors import RequestError
from airlock_cli.ledgers import opened
from airlock_cli.show import Table, text

if TYPE_CHECKING:
    from collections.abc import Iterator

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
        If it is no reason code.
    """
    if reason is not None:
        check_reason(reason)
    with opened() as ledger:
        gates = ledger.held(pipeline)
        arrivals = ledger.unreleased(gates["subject"]).rows_by_key("subject", named=True, include_key=False)
    rows = [
        row | {"what_to_do": SENTENCES.get(row["reason"]), "arrivals": arrivals.get(row["subject"], [])}
        for row in gates.to_dicts()
    ]
    wanted = [row for row in rows if reason is None or reason in {row["reason"], *_reasons(row)}]
    return {"schema": SCHEMA, "pipeline": pipeline, "reason": reason, "held": wanted}


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
        near = difflib.get_close_matches(code, SENTENCES, n=3)
        meant = f"did you mean {' or '.join(near)}?" if near else "docs/reasons.md lists them"
        raise RequestError(f"{code!r} is no reason code: {meant}")


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of what `held` returned."""
    yield Table(f"held: {len(found['held'])}", _COLUMNS, [_row(row) for row in found["held"]])


def _row(row: dict[str, Any]) -> tuple[Any, ...]:
    counted = [f"{item['arrivals']} {item['disposition']}: {text(item['reason'])}" for item in row["arrivals"]]
    names = ("since", "pipeline", "subject_key", "reason", "what_to_do")
    return *(row[name] for name in names), counted, row["run_id"]
