"""The calls of the ledger that the stages make, as the source has them: what no history reaches is unexplored."""

from __future__ import annotations

import ast
from pathlib import Path
from typing import TYPE_CHECKING

import airlock

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(airlock.__file__).parent
# What the runs of histories use. Plans, reviews and documents have no part in them.
_PACKAGES = ("stages", "imaging", "clinical")
_APART = frozenset({"review.py", "plan.py", "resolve.py", "promotion.py", "notifications.py"})


def find_unreached(reached: set[str]) -> list[str]:
    """Return the calls of the ledger, as ``imaging/audit.py:95``, that are none of those reached."""
    return sorted(place for place, lines in _find_calls() if not lines & reached)


def _find_calls() -> Iterator[tuple[str, set[str]]]:
    """Yield each call with the places that a frame may show for it: any line of the call."""
    for package in _PACKAGES:
        for file in sorted((_ROOT / package).glob("*.py")):
            if file.name in _APART:
                continue
            name = str(file.relative_to(_ROOT))
            for node in ast.walk(ast.parse(file.read_text())):
                if isinstance(node, ast.Call) and _is_of_ledger(node.func):
                    last = node.end_lineno or node.lineno
                    yield f"{name}:{node.lineno}", {f"{name}:{line}" for line in range(node.lineno, last + 1)}


def _is_of_ledger(function: ast.expr) -> bool:
    """Return whether a call is of a method of something named ledger."""
    if not isinstance(function, ast.Attribute):
        return False
    owner = function.value
    return (isinstance(owner, ast.Attribute) and owner.attr == "ledger") or (
        isinstance(owner, ast.Name) and owner.id == "ledger"
    )
