"""The resources (FHIR R4) of a site and of its patients, the same people whose images are in the sample archive."""

from collections.abc import Iterator
from datetime import date, timedelta
from typing import Any

from airlock_local.sample.clinical.delivery import Resource
from airlock_local.sample.sites import Patient, Site

LOINC, SNOMED, UCUM = "http://loinc.org", "http://snomed.info/sct", "http://unitsofmeasure.org"
_HL7 = "http://terminology.hl7.org/CodeSystem"
_GENDERS = {"M": "male", "F": "female", "O": "other"}
_FIRST_VISIT = date(2026, 3, 2)
_DIAGNOSES = (("38341003", "Hypertension"), ("44054006", "Type 2 diabetes mellitus"), ("195967001", "Asthma"))
# LOINC code, display, value of the first patient, step to the next one, unit
_MEASUREMENTS = (
    ("29463-7", "Body weight", 58.5, 2.25, "kg"),
    ("8302-2", "Body height", 158, 3, "cm"),
    ("8867-4", "Heart rate", 61, 2, "/min"),
    ("718-7", "Hemoglobin [Mass/volume] in Blood", 12.10, 0.2, "g/dL"),
    ("2345-7", "Glucose [Mass/volume] in Serum or Plasma", 84, 3, "mg/dL"),
)


def reference(resource: Resource) -> dict[str, str]:
    """Return a literal reference."""
    return {"reference": f"{resource['resourceType']}/{resource['id']}"}


def coded(system: str, code: str, display: str) -> dict[str, Any]:
    """Return a CodeableConcept of one code."""
    return {"coding": [{"system": system, "code": code, "display": display}]}


def organization(site: Site) -> Resource:
    """Return the hospital."""
    return {"resourceType": "Organization", "id": site.folder, "active": True, "name": site.InstitutionName}


def practitioner(site: Site) -> Resource:
    """Return the one physician that a site has."""
    name = {"family": f"Physician of {site.folder.title()}", "given": ["Invented"]}
    return {"resourceType": "Practitioner", "id": f"{site.folder}-1", "name": [name]}


def patient(site: Site, person: Patient) -> Resource:
    """Return a person; identifiers are unique within their site only, so the system names it."""
    born = person.PatientBirthDate
    return {
        "resourceType": "Patient",
        "id": f"{site.folder}-{person.PatientID.lower()}",
        "identifier": [{"system": f"https://{site.folder}.example/patients", "value": person.PatientID}],
        "active": True,
        "name": [_name(group) for group in person.PatientName.split("=") if group],
        "gender": _GENDERS[person.PatientSex],
        "birthDate": f"{born[:4]}-{born[4:6]}-{born[6:]}",
        "managingOrganization": {"reference": f"Organization/{site.folder}"},
    }


def _name(group: str) -> dict[str, Any]:
    """Return one representation of a DICOM person name (PS3.5 section 6.2) as a HumanName."""
    family, given, middle, prefix, suffix = [*group.split("^"), *[""] * 4][:5]
    parts = {"family": family, "given": [part for part in (given, middle) if part]}
    parts |= {"prefix": [prefix] if prefix else [], "suffix": [suffix] if suffix else []}
    return {name: value for name, value in parts.items() if value}


def visit(site: Site, number: int) -> Iterator[Resource]:
    """Yield the resources of one visit of a site's patient: encounter, diagnosis, measurements, report."""
    subject = patient(site, site.patients[number])
    day = (_FIRST_VISIT + timedelta(days=number)).isoformat()
    own = {"subject": reference(subject)}
    encounter = {
        **_named("Encounter", subject),
        "status": "finished",
        "class": {"system": f"{_HL7}/v3-ActCode", "code": "AMB", "display": "ambulatory"},
        **own,
        "participant": [{"individual": reference(practitioner(site))}],
        "period": {"start": f"{day}T09:00:00Z", "end": f"{day}T10:30:00Z"},
        "serviceProvider": reference(organization(site)),
    }
    seen = own | {"encounter": reference(encounter)}
    yield encounter
    yield _condition(subject, seen, number, day)
    measured = [_observation(subject, seen, number, day, index) for index in range(len(_MEASUREMENTS))]
    measured.append(_blood_pressure(subject, seen, number, day))
    yield from measured
    yield _report(subject, seen, day, measured)


def _named(kind: str, subject: Resource, part: str = "1") -> Resource:
    return {"resourceType": kind, "id": f"{subject['id']}-{part}"}


def _condition(subject: Resource, seen: Resource, number: int, day: str) -> Resource:
    return {
        **_named("Condition", subject),
        "clinicalStatus": {"coding": [{"system": f"{_HL7}/condition-clinical", "code": "active"}]},
        "verificationStatus": {"coding": [{"system": f"{_HL7}/condition-ver-status", "code": "confirmed"}]},
        "code": coded(SNOMED, *_DIAGNOSES[number % len(_DIAGNOSES)]),
        **seen,
        "recordedDate": day,
    }


def _observation(subject: Resource, seen: Resource, number: int, day: str, index: int) -> Resource:
    code, display, value, step, unit = _MEASUREMENTS[index]
    return {
        **_named("Observation", subject, code),
        "status": "final",
        "code": coded(LOINC, code, display),
        **seen,
        "effectiveDateTime": f"{day}T09:1{index}:00Z",
        "valueQuantity": _quantity(round(value + number * step, 2), unit),
    }


def _quantity(value: float, unit: str) -> Resource:
    return {"value": value, "unit": unit, "system": UCUM, "code": unit}


def _blood_pressure(subject: Resource, seen: Resource, number: int, day: str) -> Resource:
    return {
        **_named("Observation", subject, "85354-9"),
        "status": "final",
        "code": coded(LOINC, "85354-9", "Blood pressure panel with all children optional"),
        **seen,
        "effectiveDateTime": f"{day}T09:20:00Z",
        "component": [
            {"code": coded(LOINC, code, display), "valueQuantity": _quantity(value + 2 * number, "mm[Hg]")}
            for code, display, value in (
                ("8480-6", "Systolic blood pressure", 112),
                ("8462-4", "Diastolic blood pressure", 68),
            )
        ],
    }


def _report(subject: Resource, seen: Resource, day: str, measured: list[Resource]) -> Resource:
    return {
        **_named("DiagnosticReport", subject),
        "status": "final",
        "code": coded(LOINC, "11502-2", "Laboratory report"),
        **seen,
        "effectiveDateTime": f"{day}T10:00:00Z",
        "result": [reference(observation) for observation in measured],
    }
