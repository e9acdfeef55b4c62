"""A HealthLake data store for tests of matching: it notes what it is asked; searches by identifier, patient, time."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

MRN = "urn:oid:1.2.3"
BAR = re.compile(r"(?<!\\)\|")


@dataclass
class Lake:
    """Resources by ``Type/id``, each with the time when it was written."""

    held: dict[str, dict[str, Any]] = field(default_factory=dict)
    written: dict[str, datetime] = field(default_factory=dict)
    asked: list[str] = field(default_factory=list)

    def put(self, resource: dict[str, Any]) -> None:
        """Write a resource now."""
        name = f"{resource['resourceType']}/{resource['id']}"
        self.held[name], self.written[name] = resource, datetime.now(UTC)

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        return self.held.get(f"{resource_type}/{resource_id}")

    def search(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        asked = next((params[name] for name in ("identifier", "patient", "_lastUpdated") if name in params), "all")
        self.asked.append(f"{resource_type}?{asked}")
        for name, resource in list(self.held.items()):
            if name.startswith(f"{resource_type}/") and self._is_found(name, params):
                yield resource

    def _is_found(self, name: str, params: Mapping[str, Any]) -> bool:
        if "_lastUpdated" in params:
            since = datetime.fromisoformat(str(params["_lastUpdated"]).removeprefix("ge"))
            return self.written[name] >= since
        if "patient" in params:
            return bool(self.held[name].get("subject") == {"reference": params["patient"]})
        if "identifier" not in params:
            return True
        *system, value = (re.sub(r"\\(.)", r"\1", part) for part in BAR.split(str(params["identifier"])))
        numbers = self.held[name].get("identifier", [])
        return any(one.get("value") == value and (not system or one.get("system") == system[0]) for one in numbers)


def ehr_patient(name: str = "ehr", number: str = "P1", /, **changes: Any) -> dict[str, Any]:
    """Return a Patient of an EHR who is the patient of `studies.STUDY`."""
    content = {
        "resourceType": "Patient",
        "id": name,
        "identifier": [{"system": MRN, "value": number}],
        "name": [{"family": "Doe", "given": ["Jane"]}],
        "birthDate": "1980-02-29",
        "gender": "female",
    }
    return content | changes


def ehr_order(name: str = "order", number: str = "A1", /, patient: str = "ehr", **changes: Any) -> dict[str, Any]:
    """Return an order of an EHR with this AccessionNumber."""
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
    content = {
        "resourceType": "ServiceRequest",
        "id": name,
        "identifier": [{"type": kind, "value": number}],
        "status": "active",
        "intent": "order",
        "authoredOn": "2024-01-30",
        "subject": {"reference": f"Patient/{patient}"},
    }
    return content | changes
