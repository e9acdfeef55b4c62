"""One FHIR resource as parse describes it: its type and id, its patient, its references, a digest of its content.

Sources: FHIR R4, "Resource" (id), "References", "JSON Representation of Resources".
"""

from __future__ import annotations

import hashlib
import json
import re
import secrets
from decimal import Decimal
from typing import Any

import fhirkit

from airlock.clinical.structure import OTHER_TYPES
from airlock.reasons import Reason

RESOURCE_TYPES = frozenset(fhirkit.RESOURCE_TYPES)
RESOURCE_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9\-.]{1,64}")  # "." and ".." cannot be names in an address
_LARGEST_EXPONENT = 400  # a number beyond it is an attack: JSON readers cannot hold it
# The elements that name a resource's patient; the first one present counts.
_PATIENT_ELEMENTS = ("subject", "patient", "beneficiary", "for", "individual")
_GIVEN_BY_THE_STORE = ("versionId", "lastUpdated")
# A decimal keeps its digits: 70.10 is not 70.1 (FHIR R4, "Datatypes", decimal). Decimals are kept as marked texts.
_MARK = f"decimal:{secrets.token_hex(8)}:"
_MARKED = re.compile(rf'"{_MARK}([^"]*)"')

Row = dict[str, Any]


class NotJsonError(ValueError):
    """A text is not JSON as FHIR means it; the message names the fault and no value."""


def load(text: bytes) -> Any:
    """Return parsed JSON with decimals as marked texts, which `dump` writes as they were.

    Raises
    ------
    NotJsonError
        If it is no UTF-8, no JSON, nested too deeply, or has a name twice in one object.
    """
    try:
        return json.loads(
            text.decode(), parse_float=_mark, parse_constant=_refuse, object_pairs_hook=_refuse_repeated_names
        )
    except NotJsonError:
        raise
    except UnicodeDecodeError:
        raise NotJsonError("no UTF-8") from None
    except RecursionError:
        raise NotJsonError("nested too deeply") from None
    except ValueError:
        raise NotJsonError("no JSON") from None


def _mark(digits: str) -> str:
    exponent = digits.lower().partition("e")[2]
    if exponent and (len(exponent) > 5 or abs(int(exponent)) > _LARGEST_EXPONENT):
        raise NotJsonError("a number out of all range")
    return _MARK + digits


def _refuse(constant: str) -> Any:
    raise NotJsonError(f"{constant} is not JSON")


def _refuse_repeated_names(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """Return an object; refuse a repeated name, of which some readers keep the first value and some the last."""
    found = dict(pairs)
    if len(found) != len(pairs):
        raise NotJsonError("a name comes twice in one object")
    return found


def dump(content: Any, *, sort_keys: bool = False) -> str:
    """Return JSON, read by `load` or by a data store's reader, as ASCII text without insignificant blanks."""
    return _MARKED.sub(r"\1", json.dumps(content, separators=(",", ":"), sort_keys=sort_keys, default=_marked_decimal))


def _marked_decimal(value: object) -> str:
    if isinstance(value, Decimal):
        return _MARK + str(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


def content_digest(resource: dict[str, Any]) -> str:
    """Return the digest of a resource's content, whatever its layout: 64 hex digits.

    meta.versionId and meta.lastUpdated do not count: every store gives its own.
    """
    meta = resource.get("meta")
    if isinstance(meta, dict):
        kept = {name: value for name, value in meta.items() if name not in _GIVEN_BY_THE_STORE}
        rest = {name: value for name, value in resource.items() if name != "meta"}
        resource = rest | ({"meta": kept} if kept else {})
    return hashlib.sha256(dump(resource, sort_keys=True).encode()).hexdigest()


def set_aside(reason: Reason, detail: str | None = None, **known: Any) -> Row:
    """Return the row of a line or entry that is set aside."""
    return {"reason": str(reason), "detail": detail, **known}


_UNKNOWN_TYPE = set_aside(Reason.UNKNOWN_RESOURCE_TYPE)


def describe(resource: Any, body: str, full_url: str | None = None) -> Row:
    """Return the row of a resource without file and line; it has a reason where its type or id cannot be used.

    Parameters
    ----------
    resource
        As `load` gives it.
    body
        The resource's text, which is what will be imported.
    full_url
        Of the Bundle's entry that holds it.
    """
    if not isinstance(resource, dict):
        return set_aside(Reason.NOT_JSON, "no JSON object")
    kind, name = resource.get("resourceType"), resource.get("id")
    if not isinstance(kind, str) or kind not in RESOURCE_TYPES:
        version = OTHER_TYPES.get(kind) if isinstance(kind, str) else None
        return set_aside(Reason.FHIR_VERSION, f"{kind} is a type of {version}") if version else _UNKNOWN_TYPE
    if name is None:
        return set_aside(Reason.MISSING_RESOURCE_ID, None, resource_type=kind)
    if not isinstance(name, str) or not RESOURCE_ID.fullmatch(name):
        return set_aside(Reason.INVALID_RESOURCE_ID, None, resource_type=kind)
    try:
        digest = content_digest(resource)
    except RecursionError:
        return set_aside(Reason.NOT_JSON, "nested too deeply", resource_type=kind, resource_id=name)
    references, identifiers = _find_references(resource)
    return {
        "resource_type": kind,
        "resource_id": name,
        "content_digest": digest,
        "size": len(body.encode()),
        "patient": f"Patient/{name}" if kind == "Patient" else _find_patient(resource, references),
        "full_url": full_url,
        "references": references,
        "identifiers": identifiers,
        "body": body,
    }


def _find_patient(resource: dict[str, Any], references: list[str]) -> str | None:
    """Return a resource's patient: the one that it names as its own, else the only Patient that it refers to."""
    for element in _PATIENT_ELEMENTS:
        value = resource.get(element)
        for item in value if isinstance(value, list) else [value]:
            reference = item.get("reference") if isinstance(item, dict) else None
            if isinstance(reference, str):
                return storable(reference)
    patients = [reference for reference in references if reference.startswith("Patient/")]
    return patients[0] if len(patients) == 1 else None


def _find_references(resource: dict[str, Any]) -> tuple[list[str], list[str]]:
    """Return the references of a resource, each once, and the identifiers that conditional references may name."""
    references: dict[str, None] = {}
    waiting: list[Any] = [resource]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            reference = value.get("reference")
            if isinstance(reference, str) and not reference.startswith("#"):
                references[storable(reference)] = None
            waiting.extend(value.values())
        elif isinstance(value, list):
            waiting.extend(value)
    given = resource.get("identifier")
    identifiers = [item for item in (given if isinstance(given, list) else [given]) if isinstance(item, dict)]
    return list(references), [f"{_read_field(item, 'system')}|{_read_field(item, 'value')}" for item in identifiers]


def _read_field(item: dict[str, Any], name: str) -> str:
    value = item.get(name)
    return storable(value) if isinstance(value, str) else ""


def storable(text: str) -> str:
    """Return a text; half a surrogate pair, which JSON can write and no frame can hold, becomes a question mark."""
    return text.encode("utf-8", "replace").decode()
