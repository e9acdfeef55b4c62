"""Reduction of a profile to the tree of its additions to the definition of its type.

A node of the tree is one ElementDefinition, found by its ``id``: ``Observation.component:systolic.code`` is the child
``code`` of the slice ``systolic`` of ``component``. What the base definition says already is left out, so that a fault
against the base is not reported again for the profile. See https://hl7.org/fhir/R4/elementdefinition.html#id.
"""

from __future__ import annotations

from localaws.fhir.reduced_elements import BASE, REPEATED_EVERYWHERE, Json, Rules, reduced_type, required_binding

EXTENSIONS = {"extension", "modifierExtension"}


def reduced_profile(definition: Json, structures: Json, rules: Rules) -> Json:
    """Return a profile as ``{"type", "version", "root": node}``; a node has children, slices and its own demands."""
    numbers = set[int]().union(*map(_numbers, structures.values()))
    known = REPEATED_EVERYWHERE | {rules.listed[number]["key"] for number in numbers}
    elements = definition["snapshot"]["element"]
    root: Json = {}
    for element in elements:
        node = _find_node(root, element["id"].split(".")[1:])
        node |= _demands(element, node, rules, known)
    for name in ("min", "max", "types"):  # a resource is one, and of its type
        root.pop(name)
    _without_base(root, structures, definition["type"])
    _prune(root)
    return {"root": root, "type": definition["type"], "version": definition.get("version", "")}


def _numbers(structure: Json) -> set[int]:
    return set(structure["rules"]).union(*(item.get("rules", ()) for item in structure["elements"].values()))


def _find_node(node: Json, steps: list[str]) -> Json:
    for step in steps:
        name, _, slice_name = step.partition(":")
        node = node.setdefault("children", {}).setdefault(name, {})
        if slice_name:
            node = node.setdefault("slices", {}).setdefault(slice_name, {})
    return node


def _demands(element: Json, node: Json, rules: Rules, known: frozenset[str]) -> Json:
    demands: Json = {"max": element["max"], "min": element["min"], "types": []}
    if not element["path"].endswith(".id"):  # of which the snapshots say string
        demands["types"] = [reduced_type(kind) for kind in element.get("type", [])]
    for name, value in element.items():
        for kind in ("fixed", "pattern"):
            if name.startswith(kind) and name[len(kind) : len(kind) + 1].isupper():
                demands[kind] = value
    if binding := required_binding(element):
        demands["binding"] = binding
    if "slicing" in element and element["slicing"].get("discriminator"):
        slicing = element["slicing"]
        demands["slicing"] = {"discriminators": slicing["discriminator"], "rules": slicing["rules"]}
    numbers = rules.numbers(element.get("constraint", []), known)
    if numbers:
        demands["rules"] = numbers
    if "sliceName" in element and element["path"].rpartition(".")[2] in EXTENSIONS:
        demands |= _extension_url(demands["types"], node)
    return demands


def _extension_url(types: list[Json], node: Json) -> Json:
    """Return the demand that tells a slice of extensions: its url is the canonical of the slice's profile."""
    profiles = [profile for kind in types for profile in kind.get("profiles", ())]
    if len(profiles) != 1 or "url" in node.get("children", {}):
        return {}
    canonical = profiles[0] if ":" in profiles[0] else BASE + profiles[0]
    return {"children": node.get("children", {}) | {"url": {"fixed": canonical}}}


def _without_base(node: Json, structures: Json, type_name: str) -> None:
    """Remove from a tree the demands that the base definition of `type_name` has already."""
    elements = structures.get(type_name, {}).get("elements", {})
    for name, child in node.get("children", {}).items():
        if name not in elements:
            continue
        for item in (child, *child.get("slices", {}).values()):
            below = _structure_below(item, elements[name])
            if item is child:
                _drop(item, elements[name], "min", "max", "binding")
            else:
                # A slice has a cardinality of its own, and repeats the rules of the sliced element.
                _drop(item, elements[name], "binding")
                _drop(item, child, "rules")
            if _are_those_of_base(item.get("types", []), elements[name]["types"]):
                item.pop("types", None)
            _without_base(item, structures, below)


def _structure_below(item: Json, base: Json) -> str:
    """Return the structure that defines the children of an element; none for a choice that is still open."""
    codes = {kind["code"] for kind in base["types"]}
    narrowed = {kind["code"] for kind in item.get("types", ())}
    if len(codes) > 1:
        codes = narrowed
    return str(codes.pop()) if len(codes) == 1 else ""


def _drop(item: Json, known: Json, *names: str) -> None:
    for name in names:
        if name in item and item[name] == known.get(name):
            item.pop(name)


def _are_those_of_base(types: list[Json], base: list[Json]) -> bool:
    # The type of a backbone element is its path in a reduced base, and these in a profile.
    return types == base or types in ([], [{"code": "BackboneElement"}], [{"code": "Element"}])


def _prune(node: Json) -> bool:
    """Remove nodes that demand nothing; return whether this one demands anything."""
    for group in ("children", "slices"):
        kept = {name: item for name, item in node.get(group, {}).items() if _prune(item)}
        node.pop(group, None)
        if kept:
            node[group] = kept
    if "slices" not in node and node.get("slicing", {}).get("rules") != "closed":
        node.pop("slicing", None)
    for name, nothing in (("min", 0), ("max", "*"), ("types", [])):
        if node.get(name) == nothing:
            node.pop(name)
    return bool(node)
