"""Reduction of a profile: the tree of what it adds to the definition of its type.

A node of the tree is one ElementDefinition, found by its ``id``: ``Observation.component:systolic.code`` is the child
``code`` of the slice ``systolic`` of ``component``. What the base definition says already is left out, so that a fault
against the base is not reported again for the profile. See https://hl7.org/fhir/R4/elementdefinition.html#id.
"""

from __future__ import annotations

from localaws.fhir.reduced_elements import BASE, REPEATED_EVERYWHERE, Json, Rules, reduced_type, required_binding

EXTENSIONS = {"extension", "modifierExtension"}


def reduced_profile(definition: Json, structures: Json, rules: Rules) -> Json:
    """Return a profile as ``{"type", "version", "root": node}``; a node has children, slices and its own demands."""
    known = {number for structure in structures.values() for number in _numbers(structure)}
    elements = definition["snapshot"]["element"]
    root: Json = {}
    for element in elements:
        node = _place(root, element["id"].split(".")[1:])
        node |= _demands(element, node, rules, known)
    root.pop("min")
    root.pop("max")
    root.pop("types")
    _without_base(root, structures, definition["type"])
    _prune(root)
    return {"root": root, "type": definition["type"], "version": definition.get("version", "")}


def _numbers(structure: Json) -> set[int]:
    return set(structure["rules"]).union(*(item.get("rules", ()) for item in structure["elements"].values()))


def _place(node: Json, steps: list[str]) -> Json:
    for step in steps:
        name, _, slice_name = step.partition(":")
        node = node.setdefault("children", {}).setdefault(name, {})
        if slice_name:
            node = node.setdefault("slices", {}).setdefault(slice_name, {})
    return node


def _demands(element: Json, node: Json, rules: Rules, known: set[int]) -> Json:
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
    numbers = [
        number for number in rules.numbers(element.get("constraint", []), REPEATED_EVERYWHERE) if number not in known
    ]
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
    """Take out of a tree what the base definition of `type_name` demands already."""
    elements = structures.get(type_name, {}).get("elements", {})
    for name, child in node.get("children", {}).items():
        base = elements.get(name)
        if base is None:
            continue
        for item in (child, *child.get("slices", {}).values()):
            sliced = item is not child
            if sliced and item.get("rules") == child.get("rules"):
                item.pop("rules", None)
            codes = {kind["code"] for kind in base["types"]}
            below = _only(item, base)
            _drop(item, base, codes, sliced=sliced)
            _without_base(item, structures, below)


def _only(item: Json, base: Json) -> str:
    codes = [kind["code"] for kind in base["types"]]
    narrowed = [kind["code"] for kind in item.get("types", ())]
    if len(codes) == 1 and narrowed in (["BackboneElement"], ["Element"], []):
        return str(codes[0])
    return str(narrowed[0]) if len(narrowed) == 1 else ""


def _drop(item: Json, base: Json, codes: set[str], *, sliced: bool) -> None:
    if not sliced and item.get("min") == base["min"]:
        item.pop("min", None)
    if not sliced and item.get("max") == base["max"]:
        item.pop("max", None)
    if item.get("binding") == base.get("binding"):
        item.pop("binding", None)
    if item.get("types") == base["types"]:
        item.pop("types")
    same = {kind["code"] for kind in item.get("types", ())} in (codes, {"BackboneElement"}, {"Element"})
    plain = not any("profiles" in kind for kind in item.get("types", ()))
    targets = [kind.get("targets") for kind in item.get("types", ())] == [kind.get("targets") for kind in base["types"]]
    if same and plain and (targets or codes & {"BackboneElement"}):
        item.pop("types", None)


def _prune(node: Json) -> bool:
    """Take out nodes that demand nothing, and say whether this one does."""
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
