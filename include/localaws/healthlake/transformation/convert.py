"""Conversion of a C-CDA document to FHIR by the package ccda-to-fhir, not by AWS's agent: every resource says so."""

from __future__ import annotations

import hashlib
import json
import logging
import re
import threading
import uuid
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import fhirkit

from localaws.healthlake.transformation.ccda import UnconvertibleError, document_text

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

Resource = dict[str, Any]

PACKAGE = "ccda-to-fhir"
CONVERSION = f"local conversion by {PACKAGE} {version(PACKAGE)}, not by AWS HealthLake"
TAG = {"system": "urn:localaws", "code": "local-conversion", "display": CONVERSION}
PROVENANCE = "Provenance"
PARTICIPANT_TYPES = "http://terminology.hl7.org/CodeSystem/provenance-participant-type"
ASSEMBLER = {"coding": [{"system": PARTICIPANT_TYPES, "code": "assembler"}]}
IDS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:localaws:local-conversion")
QUOTED = re.compile(r'"[^"]*"')
RULE = re.compile(r"SHALL contain [a-z ]+ \[[\d.*]+\] \w+")
"""The package's wording of a broken rule of C-CDA's header; the one part of its messages that never holds a value."""

_one_at_a_time = threading.Lock()
"""ccda-to-fhir keeps the identifiers of the document under way in a global variable."""


@dataclass(frozen=True)
class Origin:
    """The origin of a document, for its Provenance.

    Parameters
    ----------
    uri : str
        S3 URI of the input file.
    recorded : str
        The instant of the conversion, as FHIR writes it.
    """

    uri: str
    recorded: str


@dataclass(frozen=True)
class Conversion:
    """The resources of a document, and the account of its conversion.

    Parameters
    ----------
    resources : list of dict
        FHIR resources with identifiers of their own, references between them as ``Type/id``.
    issues : list of dict
        Faults that fhirkit finds, and references without a target: ``resource``, ``severity``, ``path``, ``message``.
    processed : int
        Entries with a template that were converted.
    skipped : dict
        How often each template without a mapping occurs.
    failed : dict
        Templates whose conversion failed, with the name of the error.
    """

    resources: list[Resource]
    issues: list[dict[str, str]]
    processed: int
    skipped: dict[str, int]
    failed: dict[str, str]

    @property
    def ndjson(self) -> bytes:
        """The resources, one per line."""
        return b"".join(json.dumps(resource).encode() + b"\n" for resource in self.resources)

    @property
    def resources_with_issues(self) -> int:
        """Number of resources that have an issue."""
        return len({issue["resource"] for issue in self.issues})


def hash_document(body: bytes) -> str:
    """Return a document's hash; the identifiers of the document's resources follow from it."""
    return hashlib.sha256(body).hexdigest()


def convert(body: bytes, seed: str, origin: Origin | None) -> Conversion:
    """Convert a document.

    Parameters
    ----------
    body : bytes
    seed : str
        The same document and seed give the same identifiers; another seed gives others.
    origin : Origin, optional
        Describe the conversion in a Provenance. Without it, no Provenance comes out at all.

    Raises
    ------
    UnconvertibleError
    """
    result = _run_converter(document_text(body))
    entries = [
        entry
        for entry in result["bundle"].get("entry", ())
        if origin or entry["resource"]["resourceType"] != PROVENANCE
    ]
    resources = rename_resources(entries, seed)
    if origin:
        resources.append(_make_provenance(resources, seed, origin))
    for resource in resources:
        resource.setdefault("meta", {}).setdefault("tag", []).append(TAG)
    return _make_conversion(resources, result["metadata"])


@cache
def _converter() -> Callable[[str], Any]:
    """Import the package when the first document comes: it takes half a second."""
    from ccda_to_fhir import convert_document  # noqa: PLC0415 - see above

    for name in list(logging.root.manager.loggerDict):
        if name.partition(".")[0] == "ccda_to_fhir":
            # Each logger writes to stdout by itself, names and values included.
            logging.getLogger(name).disabled = True
    return convert_document  # type: ignore[no-any-return]


def _run_converter(text: str) -> Any:
    try:
        with _one_at_a_time:
            return _converter()(text)
    except Exception as error:  # noqa: BLE001 - RecursionError, MemoryError: one document must not cost the job
        # The messages quote values; only the rule that was broken is taken from them.
        rule = RULE.search(str(error))
        cause = f"{type(error).__name__}, {rule[0]}" if rule else type(error).__name__
        raise UnconvertibleError(f"The document could not be converted: {cause}.") from None


def rename_resources(entries: list[dict[str, Any]], seed: str) -> list[Resource]:
    """Return resources with identifiers that follow from the document (the package's are random)."""
    resources = [dict(entry["resource"]) for entry in entries]
    names: dict[str, str] = {}
    for index, (entry, resource) in enumerate(zip(entries, resources, strict=True)):
        old, kind = resource.get("id", ""), resource["resourceType"]
        resource["id"] = _new_id(seed, kind, index)
        names |= dict.fromkeys(
            (entry.get("fullUrl", ""), f"urn:uuid:{old}", f"{kind}/{old}"), f"{kind}/{resource['id']}"
        )
    return [_rename_references(resource, names, seed) for resource in resources]


def _new_id(seed: str, kind: str, index: int) -> str:
    return str(uuid.uuid5(IDS, f"{seed}/{kind}/{index}"))


def _rename_references(value: Any, names: dict[str, str], seed: str) -> Any:
    if isinstance(value, list):
        return [_rename_references(item, names, seed) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        name: _rename_reference(item, names, seed)
        if name == "reference" and isinstance(item, str)
        else _rename_references(item, names, seed)
        for name, item in value.items()
    }


def _rename_reference(reference: str, names: dict[str, str], seed: str) -> str:
    """Return the new reference; one without a target gets a name that does not change from run to run."""
    if reference.startswith("urn:uuid:"):
        return names.setdefault(reference, f"urn:uuid:{_new_id(seed, 'missing', len(names))}")
    return names.get(reference, reference)


def _make_provenance(resources: list[Resource], seed: str, origin: Origin) -> Resource:
    return {
        "resourceType": PROVENANCE,
        "id": _new_id(seed, PROVENANCE, len(resources)),
        "target": [{"reference": f"{resource['resourceType']}/{resource['id']}"} for resource in resources],
        "recorded": origin.recorded,
        "agent": [{"type": ASSEMBLER, "who": {"display": CONVERSION}}],
        "entity": [{"role": "source", "what": {"identifier": {"system": "urn:localaws:input", "value": origin.uri}}}],
    }


def _make_conversion(resources: list[Resource], metadata: dict[str, Any]) -> Conversion:
    skipped = {name: item["count"] for name, item in sorted(metadata["skipped_templates"].items())}
    processed = sum(item["count"] for item in metadata["processed_templates"].values())
    failed = {error["template_id"] or "unknown": error["error_type"] for error in metadata["errors"]}
    found = [issue for resource in resources for issue in find_issues(resource)]
    return Conversion(resources, found, processed, skipped, failed)


def find_issues(resource: Resource) -> Iterator[dict[str, str]]:
    """Yield the faults of a resource, without its values: the package writes R4B, and HealthLake takes R4."""
    name = f"{resource['resourceType']}/{resource['id']}"
    for issue in fhirkit.validate(resource):
        message = QUOTED.sub("the value", issue.message)
        yield {"resource": name, "severity": issue.severity, "path": issue.path, "message": message}
    for path in _find_dangling(resource, resource["resourceType"]):
        yield {"resource": name, "severity": "error", "path": path, "message": "refers to a resource that is not there"}


def _find_dangling(value: Any, path: str) -> Iterator[str]:
    if isinstance(value, list):
        for index, item in enumerate(value):
            yield from _find_dangling(item, f"{path}[{index}]")
    elif isinstance(value, dict):
        for name, item in value.items():
            if name == "reference" and isinstance(item, str) and item.startswith("urn:uuid:"):
                yield f"{path}.reference"
            yield from _find_dangling(item, f"{path}.{name}")
