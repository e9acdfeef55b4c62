"""The import graph of include/airlock in a few figures: `python -m tests.import_graph` prints them."""

from __future__ import annotations

import ast
from collections import Counter
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

INCLUDE = Path(__file__).parents[1] / "include"
LIBRARY = "airlock"

# The members of include/airlock from the lowest layer up. A member that is not named is a kind of pipeline: the top.
LAYERS: tuple[frozenset[str], ...] = (
    frozenset({"reasons", "records", "suggestions"}),
    frozenset({"storage"}),
    frozenset({"pipelines"}),
    frozenset({"dicom", "ledger"}),
    frozenset({"run"}),
    frozenset({"destinations"}),
    frozenset({"stages"}),
)
KINDS = ("imaging", "clinical", "ccda")

Graph = dict[str, set[str]]  # what each one imports


@dataclass(frozen=True)
class Figures:
    """What says how easily a reader finds their way."""

    members: int
    upward: list[tuple[str, str]]  # imports of a module by one of a lower layer
    across: list[tuple[str, str]]  # imports of a kind's module by another kind
    cycle: list[str]  # of modules, the first that is found
    member_cycles: list[list[str]]  # members that import each other, directly or through others
    longest: tuple[int, str]  # lines, module

    def __str__(self) -> str:
        lines, module = self.longest
        return "\n".join(
            [
                f"top-level members: {self.members}",
                f"upward imports: {len(self.upward)}",
                *(f"  {importer} -> {imported}" for importer, imported in self.upward),
                f"imports between kinds: {len(self.across)}",
                *(f"  {number} {pair}" for pair, number in sorted(Counter(map(_pair, self.across)).items())),
                f"module cycles: {' -> '.join(self.cycle) or 'none'}",
                f"member cycles: {len(self.member_cycles)}",
                *(f"  {len(members)} members: {', '.join(members)}" for members in self.member_cycles),
                f"longest module: {module}, {lines} lines",
            ]
        )


def figures() -> Figures:
    """Read every module of include/airlock."""
    files = dict(_modules())
    modules = {name: _imported(path, files) - {name} for name, path in files.items()}
    del modules[LIBRARY]
    members = _of_members(modules)
    return Figures(
        members=len(members),
        upward=[(one, other) for one, other in _arrows(modules) if _layer(other) > _layer(one)],
        across=[(one, other) for one, other in _arrows(modules) if _kind(one) and _kind(other) not in {"", _kind(one)}],
        cycle=_cycle(modules),
        member_cycles=_member_cycles(members),
        longest=max((len(path.read_text(encoding="utf-8").splitlines()), name) for name, path in files.items()),
    )


def _modules() -> Iterator[tuple[str, Path]]:
    for path in sorted((INCLUDE / LIBRARY).rglob("*.py")):
        parts = path.relative_to(INCLUDE).with_suffix("").parts
        yield ".".join(parts[:-1] if parts[-1] == "__init__" else parts), path


def _imported(path: Path, files: Mapping[str, Path]) -> set[str]:
    """Return the modules of the library that a file imports, those for type checking too."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names if alias.name in files}
        elif isinstance(node, ast.ImportFrom) and node.module in files:
            names = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {name if name in files else node.module for name in names}
    return found


def _member(module: str) -> str:
    return module.split(".")[1]


def _of_members(modules: Graph) -> Graph:
    members: Graph = {}
    for module, imported in modules.items():
        members.setdefault(_member(module), set()).update(map(_member, imported))
    return members


def _layer(module: str) -> int:
    return next((layer for layer, members in enumerate(LAYERS) if _member(module) in members), len(LAYERS))


def _kind(module: str) -> str:
    """Return the kind of pipeline that a module is of; nothing for what all kinds share."""
    if _layer(module) < len(LAYERS):
        return ""
    return _member(module)


def _pair(arrow: tuple[str, str]) -> str:
    return " -> ".join(map(_kind, arrow))


def _arrows(modules: Graph) -> list[tuple[str, str]]:
    return sorted((importer, imported) for importer, names in modules.items() for imported in names)


def _cycle(modules: Graph) -> list[str]:
    try:
        TopologicalSorter(modules).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def _member_cycles(members: Graph) -> list[list[str]]:
    reached = {member: _reached(members, member) for member in members}
    cycles = {
        tuple(sorted(other for other in reached[member] if member in reached[other]))
        for member in members
        if member in reached[member]
    }
    return sorted(map(list, cycles))


def _reached(members: Graph, start: str) -> set[str]:
    """Return what a member imports, directly or through others; itself if it comes back to it."""
    reached: set[str] = set()
    ahead = members[start] - {start}
    while ahead:
        member = ahead.pop()
        reached.add(member)
        ahead |= members[member] - {member} - reached
    return reached


if __name__ == "__main__":
    print(figures())  # noqa: T201 - what the program is for
