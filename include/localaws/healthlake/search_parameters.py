"""R4's search parameters: which elements each of them looks at, and the value types that it finds there."""

from __future__ import annotations

import gzip
import json
import re
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any

REDUCED = Path(__file__).with_name("search_parameters.json.gz")
"""Made by ``localaws.healthlake.reduce_search``."""

WRITTEN = re.compile(r"(?P<keys>[^:]+):(?P<type>\w+)(?:\((?P<target>\w+)\))?")
STEP = re.compile(r"(\w+)(?:\[(\w+)=([^\]]*)\])?")


@dataclass(frozen=True)
class Step:
    """One element name, and the value that one of its own elements must have."""

    key: str
    name: str | None = None
    equals: str | None = None


@dataclass(frozen=True)
class ElementPath:
    """The path of values and their FHIR type; `target` restricts references to one resource type."""

    steps: tuple[Step, ...]
    type: str
    target: str | None

    @classmethod
    def read(cls, text: str) -> ElementPath:
        """Parse a path of the reduced file: ``telecom[system=email]:ContactPoint``."""
        match = WRITTEN.fullmatch(text)
        if match is None:
            raise ValueError(f"{REDUCED.name} holds {text!r}, which is not a path; make the file again")
        parts = (STEP.fullmatch(part) for part in re.split(r"\.(?![^\[]*\])", match["keys"]))
        steps = tuple(Step(part[1], part[2], part[3]) for part in parts if part)
        return cls(steps, match["type"], match["target"])


@dataclass(frozen=True)
class Parameter:
    """One search parameter of one resource type."""

    code: str
    kind: str
    paths: tuple[ElementPath, ...]
    targets: tuple[str, ...]

    @cached_property
    def needs(self) -> frozenset[str]:
        """The elements at the top of a resource of which one must be there; empty if their absence is found too."""
        absence_counts = any(path.type == "exists" for path in self.paths)
        return frozenset() if absence_counts else frozenset(path.steps[0].key for path in self.paths)


@dataclass(frozen=True)
class ResourceType:
    """The search parameters and elements of a resource type.

    Parameters
    ----------
    name : str
        The type.
    required, summary : frozenset of str
        Elements at the top that are mandatory, or part of a summary; by their names in JSON.
    choices : dict
        The element of each name in JSON that stands for one type of a choice: ``effectiveDateTime`` is ``effective``.
    parameters : dict
        Search parameters by name, those of all types included.
    """

    name: str
    required: frozenset[str]
    summary: frozenset[str]
    choices: dict[str, str]
    parameters: dict[str, Parameter]


@cache
def resource_types() -> dict[str, ResourceType]:
    """Return every R4 resource type, by name."""
    content = json.loads(gzip.decompress(REDUCED.read_bytes()))
    common = _parameters(content["common"])
    return {
        name: ResourceType(
            name,
            frozenset(item["required"]),
            frozenset(item["summary"]),
            item["choices"],
            common | _parameters(item["parameters"]),
        )
        for name, item in content["types"].items()
    }


def _parameters(items: dict[str, Any]) -> dict[str, Parameter]:
    return {
        code: Parameter(
            code, item["kind"], tuple(ElementPath.read(text) for text in item["paths"]), tuple(item["targets"])
        )
        for code, item in items.items()
    }
