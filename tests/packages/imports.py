"""Which tests import Airflow or code that needs it, themselves or through another module of the tests."""

from __future__ import annotations

import ast
from functools import cache
from typing import TYPE_CHECKING

from tests.markdown import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def find_tests_with_airflow(folder: str) -> list[str]:
    """Return the test files below a folder that an environment without Airflow cannot run."""
    needs = {"airflow", *(path.stem for place in ("plugins", "dags") for path in (ROOT / place).iterdir())}
    files = sorted((ROOT / folder).rglob("test_*.py"))
    return [str(path.relative_to(ROOT)) for path in files if not needs.isdisjoint(_reached(path))]


def _reached(path: Path) -> set[str]:
    """Return the top names of all that a file imports, and of what the tests' modules among these import."""
    names, seen, waiting = set(), {path}, [path]
    while waiting:
        for module in _imported(waiting.pop()):
            names.add(module.partition(".")[0])
            found = set(_files_of_tests(module)) - seen
            seen |= found
            waiting += found
    return names


def _files_of_tests(module: str) -> Iterator[Path]:
    if module.startswith("tests."):
        place = ROOT / module.replace(".", "/")
        yield from (path for path in (place.with_suffix(".py"), place / "__init__.py") if path.is_file())


@cache
def _imported(path: Path) -> frozenset[str]:
    nodes = list(ast.walk(ast.parse(path.read_text(encoding="utf-8"))))
    whole = [item.name for node in nodes if isinstance(node, ast.Import) for item in node.names]
    parts = [node for node in nodes if isinstance(node, ast.ImportFrom) and node.module]
    # What is imported from a package of the tests can be a module of it.
    named = [f"{node.module}.{item.name}" for node in parts for item in node.names]
    return frozenset([*whole, *named, *(str(node.module) for node in parts)])
