"""Good resources that use what validators trip over."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from tests.oracles.resources import BY_TYPE, LOINC, TERMINOLOGY, UCUM

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.oracles.resources import Resource

DATA_ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
ABSENT = {"extension": [{"url": DATA_ABSENT, "valueCode": "unknown"}]}
XHTML = "http://www.w3.org/1999/xhtml"
US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/"
VITALS = "http://hl7.org/fhir/StructureDefinition/"


def with_(name: str, /, **changes: Any) -> Resource:
    """Return a good resource with some elements replaced, or taken out where None is given."""
    changed = copy.deepcopy(BY_TYPE[name].resource) | changes
    return {key: value for key, value in changed.items() if value is not None}


def blood_pressure(**changes: Any) -> Resource:
    """Return an Observation that conforms to US Core's blood pressure, with changes."""
    component = [
        {
            "code": {"coding": [{"system": LOINC, "code": code}]},
            "valueQuantity": {"value": value, "unit": "mmHg", "system": UCUM, "code": "mm[Hg]"},
        }
        for code, value in (("8480-6", 120), ("8462-4", 80))
    ]
    resource: Resource = {
        "resourceType": "Observation",
        "id": "bp1",
        "meta": {"profile": [f"{US_CORE}us-core-blood-pressure"]},
        "status": "final",
        "category": [{"coding": [{"system": f"{TERMINOLOGY}observation-category", "code": "vital-signs"}]}],
        "code": {"coding": [{"system": LOINC, "code": "85354-9"}]},
        "subject": {"reference": "Patient/p1"},
        "effectiveDateTime": "2024-01-02",
        "component": component,
    }
    changed = resource | changes
    return {key: value for key, value in changed.items() if value is not None}


def body_weight(**changes: Any) -> Resource:
    """Return an Observation that conforms to FHIR's own profile of body weight, with changes."""
    return blood_pressure(
        id="bw1",
        meta={"profile": [f"{VITALS}bodyweight"]},
        code={"coding": [{"system": LOINC, "code": "29463-7"}]},
        valueQuantity={"value": 70, "unit": "kg", "system": UCUM, "code": "kg"},
        component=None,
        **changes,
    )


def us_core_patient(**changes: Any) -> Resource:
    """Return a Patient that conforms to US Core's, with changes."""
    return with_("Patient", meta={"profile": [f"{US_CORE}us-core-patient"]}, **changes)


def resources() -> Iterator[tuple[str, Resource]]:
    """Yield (name, resource)."""
    yield "only what is required", {"resourceType": "Patient"}
    yield "a primitive with extensions only", with_("Patient", birthDate=None, _birthDate=ABSENT)
    yield "a primitive with a value and extensions", with_("Patient", _birthDate=ABSENT)
    yield (
        "an array of primitives with extensions",
        with_("Patient", name=[{"given": ["J", None], "_given": [None, ABSENT]}]),
    )
    yield (
        "narrative",
        with_("Patient", text={"status": "generated", "div": f'<div xmlns="{XHTML}"><p>J &amp; K</p></div>'}),
    )
    yield "nested extensions", with_("Patient", extension=[{"url": "http://x.example", "extension": [_extension("a")]}])
    yield "a modifier extension", with_("Patient", modifierExtension=[_extension("http://x.example/modifier")])
    yield "letters beyond ASCII", with_("Patient", name=[{"family": "Brontë\u00a0東 O'Neill", "given": ["É"]}])
    yield (
        "a contained resource",
        with_(
            "Patient",
            contained=[{"resourceType": "Organization", "id": "in", "name": "Inside"}],
            managingOrganization={"reference": "#in"},
        ),
    )
    yield "a logical reference", with_("ImagingStudy", subject={"identifier": {"value": "1"}, "display": "somebody"})
    yield "an absolute reference", with_("ImagingStudy", subject={"reference": "https://fhir.example/r4/Patient/p1"})
    yield "a versioned reference", with_("ImagingStudy", subject={"reference": "Patient/p1/_history/2"})
    yield (
        "an urn:uuid reference",
        with_("ImagingStudy", subject={"reference": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"}),
    )
    yield "a year", with_("Patient", birthDate="1970")
    yield "a leap day", with_("Patient", birthDate="2000-02-29")
    yield "a leap second", with_("Observation", issued="2016-12-31T23:59:60Z")
    yield "a fraction of a second", with_("ImagingStudy", started="2024-01-02T03:04:05.123456+14:00")
    yield "an exponent", with_("Observation", valueQuantity={"value": 1e-05, "unit": "mol"})
    yield "no value but a reason", with_("Observation", valueQuantity=None, dataAbsentReason={"text": "lost"})
    yield "another type of value", with_("Observation", valueQuantity=None, valueBoolean=False)
    yield "zero", with_("ImagingStudy", numberOfSeries=0)
    yield "a conforming US Core patient", us_core_patient()
    yield "a conforming US Core blood pressure", blood_pressure()
    yield "a conforming body weight", body_weight()
    yield "a collection", _bundle("collection")
    yield "a transaction", _bundle("transaction", request={"method": "PUT", "url": "Patient/p1"})
    yield (
        "parameters",
        {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": with_("Patient")}]},
    )


def _extension(url: str) -> Resource:
    return {"url": url, "valueString": "x"}


def _bundle(kind: str, **entry: Any) -> Resource:
    one = {"fullUrl": "urn:uuid:c757873d-ec9a-4326-a141-556f43239520", "resource": with_("Patient"), **entry}
    return {"resourceType": "Bundle", "type": kind, "entry": [one]}
