"""Small FHIR R4 resources and the files that deliver them; nobody in them exists."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

Resource = dict[str, Any]

LOINC = "http://loinc.org"
WEIGHT = {"coding": [{"system": LOINC, "code": "29463-7", "display": "Body weight"}]}
US_CORE_PATIENT = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"


def patient(name: str = "p1", /, **changes: Any) -> Resource:
    """Return a Patient; a changed value of None removes the element."""
    base = {
        "resourceType": "Patient",
        "id": name,
        "active": True,
        "gender": "other",
        "birthDate": "1961-04-12",
        "identifier": [{"system": "urn:oid:1.2.3.4", "value": f"MRN-{name}"}],
        "name": [{"family": "Invented", "given": ["Testcase"]}],
    }
    return _changed(base, changes)


def observation(name: str = "o1", /, of: str = "p1", **changes: Any) -> Resource:
    """Return the Observation of a patient's weight; a changed value of None removes the element."""
    base = {
        "resourceType": "Observation",
        "id": name,
        "status": "final",
        "code": WEIGHT,
        "subject": {"reference": f"Patient/{of}"},
        "effectiveDateTime": "2026-03-02T09:30:00Z",
        "valueQuantity": {"value": 70.5, "unit": "kg", "system": "http://unitsofmeasure.org", "code": "kg"},
    }
    return _changed(base, changes)


def allergy(name: str = "a1", /, of: str = "p1", **changes: Any) -> Resource:
    """Return an AllergyIntolerance of a patient; a changed value of None removes the element."""
    active = {"system": "http://terminology.hl7.org/CodeSystem/allergyintolerance-clinical", "code": "active"}
    base = {
        "resourceType": "AllergyIntolerance",
        "id": name,
        "clinicalStatus": {"coding": [active]},
        "criticality": "high",
        "code": {"text": "Invented substance"},
        "patient": {"reference": f"Patient/{of}"},
    }
    return _changed(base, changes)


def organization(name: str = "clinic", /, **changes: Any) -> Resource:
    """Return an Organization, which belongs to no patient; a changed value of None removes the element."""
    return _changed({"resourceType": "Organization", "id": name, "name": "Example Clinic"}, changes)


def _changed(base: Resource, changes: Resource) -> Resource:
    return {element: value for element, value in (base | changes).items() if value is not None}


def ndjson(*lines: Resource | str) -> bytes:
    """Return a file of lines: resources, or any text."""
    texts = (line if isinstance(line, str) else json.dumps(line, separators=(",", ":")) for line in lines)
    return "".join(f"{text}\n" for text in texts).encode()


def packed(*lines: Resource | str) -> bytes:
    """Return the same, as gzip."""
    return gzip.compress(ndjson(*lines), mtime=0)


def transaction(*resources: Resource) -> bytes:
    """Return a transaction Bundle, laid out over many lines, that puts each resource under its id."""
    entries = [
        {"resource": each, "request": {"method": "PUT", "url": f"{each['resourceType']}/{each['id']}"}}
        for each in resources
    ]
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}, indent=1).encode()


def delivery(patients: int = 2, observations: int = 3) -> dict[str, bytes]:
    """Return a clean delivery of NDJSON: the patients in one file, and a gzip file of each one's observations."""
    numbers = range(1, patients + 1)
    files = {"Patient.ndjson": ndjson(*(patient(f"p{number}") for number in numbers))}
    for number in numbers:
        own = (observation(f"o{number}-{each}", f"p{number}") for each in range(1, observations + 1))
        files[f"Observation-{number}.ndjson.gz"] = packed(*own)
    return files


def names(resources: Iterable[Resource]) -> set[str]:
    """Return the references to resources, ``Patient/p1``."""
    return {f"{each['resourceType']}/{each['id']}" for each in resources}
