"""Identifiers of resources, in the form that both services share."""

from __future__ import annotations

import secrets


def new_id() -> str:
    """Return an identifier of 32 hexadecimal digits."""
    return secrets.token_hex(16)
