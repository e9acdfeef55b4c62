"""Client tokens: the same request sent twice is carried out once."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

from localaws.errors import conflict

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable

    from localaws.errors import AwsError

TOKEN_MEMBERS = ("clientToken", "ClientToken")


def find_replayed(
    connection: sqlite3.Connection,
    operation: str,
    params: dict[str, Any],
    refused: Callable[[str], AwsError] | None = conflict,
) -> str | None:
    """Return the identifier that an earlier call with this client token made, None if the token is new or absent.

    Raises
    ------
    AwsError
        Made by `refused`, by default a ConflictException: the token came with other parameters before.
    """
    row = connection.execute(
        "SELECT fingerprint, subject FROM client_token WHERE operation = ? AND token = ?",
        (operation, _token(params)),
    ).fetchone()
    if row is None:
        return None
    if refused is not None and row["fingerprint"] != _fingerprint(params):
        raise refused("This client token was used before, with other parameters; use a new token for a new request.")
    return str(row["subject"])


def remember_token(connection: sqlite3.Connection, operation: str, params: dict[str, Any], subject: str) -> None:
    """Record that this call made `subject`, in the transaction that makes it; nothing without a token."""
    if _token(params) is not None:
        connection.execute(
            "INSERT INTO client_token VALUES (?, ?, ?, ?)", (operation, _token(params), _fingerprint(params), subject)
        )


def _token(params: dict[str, Any]) -> str | None:
    return next((params[member] for member in TOKEN_MEMBERS if member in params), None)


def _fingerprint(params: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(params, sort_keys=True, default=str).encode()).hexdigest()
