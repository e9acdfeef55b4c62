"""``GET metadata``: the abilities of the emulated data store."""

from __future__ import annotations

from functools import cache
from typing import Any

from localaws.healthlake.search_parameters import resource_types

CODES = ("create", "read", "vread", "update", "delete", "history-instance", "search-type")


def capability_statement(base: str) -> dict[str, Any]:
    """Return the CapabilityStatement of a data store at this address."""
    return {
        "resourceType": "CapabilityStatement",
        "status": "active",
        "date": "2019-11-01",
        "kind": "instance",
        "software": {"name": "localaws, a local emulator of AWS HealthLake"},
        "implementation": {"description": "AWS HealthLake data store (emulated)", "url": base},
        "fhirVersion": "4.0.1",
        "format": ["json"],
        "rest": [
            {
                "mode": "server",
                "resource": list(_resources()),
                "interaction": [{"code": "batch"}, {"code": "transaction"}],
            }
        ],
    }


@cache
def _resources() -> tuple[dict[str, Any], ...]:
    return tuple(_resource(name) for name in resource_types())


def _resource(name: str) -> dict[str, Any]:
    parameters = sorted(resource_types()[name].parameters.values(), key=lambda item: item.code)
    searchable = [{"name": item.code, "type": item.kind} for item in parameters if item.paths]
    references = [item.code for item in parameters if item.kind == "reference"]
    return {
        "type": name,
        "interaction": [{"code": code} for code in CODES],
        "versioning": "versioned-update",
        "readHistory": True,
        "updateCreate": True,
        "conditionalCreate": False,
        "conditionalUpdate": True,
        "conditionalDelete": "not-supported",
        **({"searchInclude": [f"{name}:{code}" for code in references]} if references else {}),
        "searchParam": searchable,
        "operation": [
            {"name": "validate", "definition": "http://hl7.org/fhir/OperationDefinition/Resource-validate"},
        ],
    }
