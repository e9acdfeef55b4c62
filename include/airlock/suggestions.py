"""Suggestions for a misspelled name."""

from __future__ import annotations

from difflib import get_close_matches
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def suggest_name(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return ``did you mean …?`` with up to three similar known names, or *otherwise* if no name is similar."""
    similar = get_close_matches(name, sorted(known), n=3)
    return f"did you mean {' or '.join(similar)}?" if similar else otherwise
