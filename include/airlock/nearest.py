"""Suggestions for a misspelled name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def did_you_mean(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return the question whether a similar name was meant, or other advice if no name is similar."""
    near = get_close_matches(name, sorted(known), n=3)
    return f"did you mean {' or '.join(near)}?" if near else otherwise
