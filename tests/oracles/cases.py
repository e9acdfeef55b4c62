"""Some hundred resources made by code from good ones: one fault each, or none.

Every case knows its fault, so that our verdict is held against the fault, and the others' verdicts against ours.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.oracles import harmless, invariants
from tests.oracles.resources import BASES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.oracles.resources import Base, Resource


@dataclass(frozen=True)
class Case:
    """One resource; `fault` is empty where it is good."""

    name: str
    fault: str
    resource: Resource

    @property
    def label(self) -> str:
        """The name without the fault."""
        return self.name.removesuffix(f": {self.fault}")


def parent(resource: Resource, path: str) -> tuple[Any, Any]:
    """Return what holds the value at a path, and its key there."""
    steps: list[Any] = [int(step) if step.isdigit() else step for step in path.split(".")]
    holder: Any = resource
    for step in steps[:-1]:
        holder = holder[step]
    return holder, steps[-1]


def at(resource: Resource, path: str) -> Any:
    holder, key = parent(resource, path)
    return holder[key]


def put(resource: Resource, path: str, value: Any) -> None:
    holder, key = parent(resource, path)
    holder[key] = value


def drop(resource: Resource, path: str) -> None:
    holder, key = parent(resource, path)
    del holder[key]


def mutations(base: Base) -> Iterator[tuple[str, str, Callable[[Resource], None]]]:
    """Yield (fault, path, change) for one good resource."""
    for path in base.required:
        yield "missing element", path, lambda r, path=path: drop(r, path)
    for path in base.bound:
        yield "code outside a required binding", path, lambda r, path=path: put(r, path, "bogus")
    for path, wrong in base.references.items():
        yield (
            "reference to a wrong type",
            path,
            lambda r, path=path, wrong=wrong: put(r, path, {"reference": f"{wrong}/x"}),
        )
    for path in base.dates:
        yield "impossible day", path, lambda r, path=path: put(r, path, "2023-02-30" + at(r, path)[10:])
        yield "date of another form", path, lambda r, path=path: put(r, path, "20240102")
    for path in base.numbers:
        yield "string for a number", path, lambda r, path=path: put(r, path, str(at(r, path)))
    for path in base.repeating:
        yield "single value for an array", path, lambda r, path=path: put(r, path, at(r, path)[0])
        yield "empty array", path, lambda r, path=path: put(r, path, [])
        yield "null in an array", path, lambda r, path=path: at(r, path).append(None)
    for path in base.nested:
        yield "unknown element", f"{path}.colour", lambda r, path=path: at(r, path).update(colour="blue")
        yield "empty object", path, lambda r, path=path: put(r, path, {})
        yield "string for an object", path, lambda r, path=path: put(r, path, "text")
    yield from _everywhere()


def _everywhere() -> Iterator[tuple[str, str, Callable[[Resource], None]]]:
    yield "unknown element", "colour", lambda r: r.update(colour="blue")
    yield "array for a single value", "language", lambda r: r.update(language=["en"])
    yield "number for a string", "language", lambda r: r.update(language=5)
    yield "empty string", "language", lambda r: r.update(language="")
    yield "null", "language", lambda r: r.update(language=None)
    yield "bad id", "id", lambda r: r.update(id="a_b")
    yield (
        "object for an array",
        "extension",
        lambda r: r.update(extension={"url": "http://x.example", "valueCode": "x"}),
    )


def cases() -> list[Case]:
    """Return every case, in a fixed order."""
    found = []
    for base in BASES:
        name = base.resource["resourceType"]
        found.append(Case(f"{name}: good", "", base.resource))
        for fault, path, change in mutations(base):
            resource = copy.deepcopy(base.resource)
            change(resource)
            found.append(Case(f"{name}.{path}: {fault}", fault, resource))
    for name, resource in harmless.resources():
        found.append(Case(f"{resource['resourceType']}: {name}", "", resource))
    for fault, name, resource in invariants.resources():
        found.append(Case(f"{resource['resourceType']}: {name}", fault, resource))
    return found
