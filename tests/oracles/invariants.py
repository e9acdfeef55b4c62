"""Resources with one fault that takes more than structure to see: invariants, profiles, odd JSON."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.oracles.harmless import DATA_ABSENT, US_CORE, XHTML, blood_pressure, body_weight, us_core_patient, with_
from tests.oracles.resources import TERMINOLOGY, UCUM, concept

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.oracles.resources import Resource

INVARIANT = "broken invariant"
LOCAL = "broken invariant on references or contained resources"
PROFILE = "fault against a profile"
CHOICE = "two types of one choice"
NARRATIVE = "bad narrative"
PRIMITIVE = "primitive out of range or form"
NESTED = "fault in a nested resource"


def resources() -> Iterator[tuple[str, str, Resource]]:
    """Yield (fault, name, resource)."""
    for fault, group in (
        (INVARIANT, _invariants()),
        (LOCAL, _local()),
        (PROFILE, _profiles()),
        (NARRATIVE, _narratives()),
        (PRIMITIVE, _primitives()),
        (NESTED, _nested()),
    ):
        for name, resource in group:
            yield fault, name, resource
    yield CHOICE, "two values", with_("Observation", valueString="x")
    yield CHOICE, "two kinds of onset", with_("Condition", onsetDateTime="2020")
    yield CHOICE, "two medications", with_("MedicationRequest", medicationReference={"reference": "Medication/m"})


def _invariants() -> Iterator[tuple[str, Resource]]:
    confirmed = concept(TERMINOLOGY + "condition-ver-status", "entered-in-error")
    yield "pat-1 contact without details", with_("Patient", contact=[{"gender": "male"}])
    yield "cpt-2 telecom without system", with_("Patient", telecom=[{"value": "555"}])
    yield "per-1 end before start", with_("Endpoint", period={"start": "2024-02-01", "end": "2024-01-01"})
    yield "obs-6 value and reason for none", with_("Observation", dataAbsentReason={"text": "lost"})
    yield "obs-3 empty reference range", with_("Observation", referenceRange=[{"type": {"text": "normal"}}])
    yield (
        "obs-7 value repeated in a component",
        with_("Observation", component=[{"code": concept("http://loinc.org", "2339-0"), "valueString": "x"}]),
    )
    yield "qty-3 code without system", with_("Observation", valueQuantity={"value": 1, "code": "kg"})
    yield "con-1 empty stage", with_("Condition", stage=[{"type": {"text": "clinical"}}])
    yield "con-4 abated but active", with_("Condition", abatementDateTime="2024-01-01")
    yield "con-5 entered in error but active", with_("Condition", verificationStatus=confirmed)
    yield "age-1 not a time", with_("Condition", onsetAge={"value": 3, "system": "http://x.example", "code": "kg"})
    yield "ait-1 no clinical status", with_("AllergyIntolerance", clinicalStatus=None)
    yield (
        "tim-2 period without unit",
        with_("MedicationRequest", dosageInstruction=[{"timing": {"repeat": {"frequency": 1, "period": 1}}}]),
    )
    yield "org-1 neither name nor identifier", with_("Organization", name=None)
    yield "org-2 home address", with_("Organization", address=[{"use": "home", "city": "Town"}])
    yield "org-3 home telephone", with_("Organization", telecom=[{"system": "phone", "value": "1", "use": "home"}])
    yield "prr-1 order detail without code", with_("ServiceRequest", code=None, orderDetail=[{"text": "x"}])
    yield "att-1 data without type", with_("DiagnosticReport", presentedForm=[{"data": "Tm90aGluZy4="}])
    yield "ext-1 neither value nor extensions", with_("Patient", extension=[{"url": "http://x.example"}])
    yield (
        "ext-1 value and extensions",
        with_(
            "Patient",
            extension=[
                {
                    "url": "http://x.example",
                    "valueString": "x",
                    "extension": [{"url": DATA_ABSENT, "valueCode": "unknown"}],
                }
            ],
        ),
    )
    low, high = ({"value": value, "unit": "a", "system": UCUM, "code": "a"} for value in (9, 1))
    yield "rng-2 low above high", with_("Condition", onsetAge=None, onsetRange={"low": low, "high": high})


def _local() -> Iterator[tuple[str, Resource]]:
    inside = {"resourceType": "Organization", "id": "in", "name": "Inside"}
    to_it = {"reference": "#in"}
    yield "ref-1 nothing of that id", with_("Patient", managingOrganization={"reference": "#nowhere"})
    yield "dom-3 nothing refers to it", with_("Patient", contained=[inside])
    yield (
        "dom-2 contained in contained",
        with_("Patient", contained=[inside | {"contained": [inside]}], managingOrganization=to_it),
    )
    yield (
        "dom-4 version inside",
        with_("Patient", contained=[inside | {"meta": {"versionId": "1"}}], managingOrganization=to_it),
    )
    yield (
        "dom-5 security label inside",
        with_("Patient", contained=[inside | {"meta": {"security": [{"code": "R"}]}}], managingOrganization=to_it),
    )
    yield "contained of a wrong type", with_("ImagingStudy", contained=[inside], subject=to_it)


def _profiles() -> Iterator[tuple[str, Resource]]:
    pressure = blood_pressure()["component"]
    yield "US Core patient without name", us_core_patient(name=None)
    yield "US Core patient without identifier", us_core_patient(identifier=None)
    yield "US Core patient without gender", us_core_patient(gender=None)
    yield "US Core patient, identifier without system", us_core_patient(identifier=[{"value": "1"}])
    yield (
        "US Core race without text",
        us_core_patient(
            extension=[
                {"url": f"{US_CORE}us-core-race", "extension": [{"url": "detailed", "valueCoding": {"code": "x"}}]}
            ]
        ),
    )
    yield (
        "US Core birth sex twice",
        us_core_patient(extension=[{"url": f"{US_CORE}us-core-birthsex", "valueCode": "F"}] * 2),
    )
    yield "US Core blood pressure without diastolic", blood_pressure(component=pressure[:1])
    yield (
        "US Core blood pressure of another unit",
        blood_pressure(
            component=[
                pressure[0],
                pressure[1] | {"valueQuantity": {"value": 1, "unit": "kPa", "system": UCUM, "code": "kPa"}},
            ]
        ),
    )
    yield "US Core blood pressure without category", blood_pressure(category=None)
    yield "US Core blood pressure of another code", blood_pressure(code=concept("http://loinc.org", "29463-7"))
    yield (
        "body weight in stone",
        body_weight() | {"valueQuantity": {"value": 1, "unit": "st", "system": UCUM, "code": "[stone_av]"}},
    )
    yield "body weight without time", body_weight(effectiveDateTime=None)


def _narratives() -> Iterator[tuple[str, Resource]]:
    for name, div in (
        ("not well-formed", f'<div xmlns="{XHTML}"><p>x</div>'),
        ("a script", f'<div xmlns="{XHTML}">x<script>alert(1)</script></div>'),
        ("nothing in it", f'<div xmlns="{XHTML}"> </div>'),
        ("no namespace", "<div>x</div>"),
    ):
        yield f"narrative, {name}", with_("Patient", text={"status": "generated", "div": div})


def _primitives() -> Iterator[tuple[str, Resource]]:
    yield "a fraction for an integer", with_("ImagingStudy", numberOfSeries=1.5)
    yield "a negative count", with_("ImagingStudy", numberOfSeries=-1)
    yield "zero for a positive integer", with_("Patient", telecom=[{"system": "phone", "value": "1", "rank": 0}])
    yield "a number beyond 32 bits", with_("ImagingStudy", numberOfSeries=1 << 40)
    yield "a string for a boolean", with_("Patient", active="true")
    yield "a number for a boolean", with_("Patient", active=1)
    yield "a boolean for a string", with_("Organization", name=True)
    yield "a blank at the end of a code", with_("Endpoint", payloadMimeType=["application/dicom "])
    yield "a blank inside an url", with_("Endpoint", address="https://images.example/a b")
    yield "an id too long", with_("Patient", id="x" * 65)
    yield "a time without zone", with_("ImagingStudy", started="2024-01-02T03:04:05")
    yield "an instant without time", with_("Observation", issued="2024-01-02")
    yield "hour 24", with_("ImagingStudy", started="2024-01-02T24:00:00Z")
    yield (
        "base64 of three characters",
        with_("DiagnosticReport", presentedForm=[{"contentType": "text/plain", "data": "abc"}]),
    )


def _nested() -> Iterator[tuple[str, Resource]]:
    bad = with_("Patient", gender="M")
    unknown = with_("Patient", colour="blue")
    yield (
        "a bad code in a Bundle's entry",
        {"resourceType": "Bundle", "type": "collection", "entry": [{"resource": bad}]},
    )
    yield (
        "an unknown element in a Bundle's entry",
        {
            "resourceType": "Bundle",
            "type": "collection",
            "entry": [{"resource": unknown}],
        },
    )
    yield (
        "an unknown element in Parameters",
        {
            "resourceType": "Parameters",
            "parameter": [{"name": "resource", "resource": unknown}],
        },
    )
    yield (
        "an unknown element in a contained resource",
        with_(
            "Patient",
            contained=[{"resourceType": "Organization", "id": "in", "name": "Inside", "colour": "blue"}],
            managingOrganization={"reference": "#in"},
        ),
    )
    yield (
        "an unknown resource type inside",
        {
            "resourceType": "Bundle",
            "type": "collection",
            "entry": [{"resource": {"resourceType": "Nonsense"}}],
        },
    )
