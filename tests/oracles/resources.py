"""Good FHIR R4 resources, with what the mutations need to know about each."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

Resource = dict[str, Any]

TERMINOLOGY = "http://terminology.hl7.org/CodeSystem/"
LOINC = "http://loinc.org"
SNOMED = "http://snomed.info/sct"
UCUM = "http://unitsofmeasure.org"
DCM = "http://dicom.nema.org/resources/ontology/DCM"


@dataclass(frozen=True)
class Base:
    """A good resource and, as paths into it ("series.0.uid"), where mutations may work.

    Attributes
    ----------
    required
        Elements that must be there.
    bound
        Codes with a required binding.
    references
        References, each with a type that it must not lead to.
    dates
        date, dateTime or instant.
    numbers
        Integers and decimals.
    repeating
        Elements that must be arrays.
    nested
        Objects inside the resource.
    """

    resource: Resource
    required: tuple[str, ...] = ()
    bound: tuple[str, ...] = ()
    references: dict[str, str] = field(default_factory=dict)
    dates: tuple[str, ...] = ()
    numbers: tuple[str, ...] = ()
    repeating: tuple[str, ...] = ()
    nested: tuple[str, ...] = ()


def concept(system: str, code: str) -> Resource:
    return {"coding": [{"system": system, "code": code}]}


BASES = (
    Base(
        {
            "resourceType": "Patient",
            "id": "p1",
            "active": True,
            "identifier": [{"system": "urn:example:mrn", "value": "1"}],
            "name": [{"use": "official", "family": "Doe", "given": ["J", "K"]}],
            "telecom": [{"system": "phone", "value": "555", "rank": 1}],
            "gender": "male",
            "birthDate": "1970-01-02",
            "multipleBirthInteger": 2,
            "contact": [{"name": {"text": "Kin"}, "gender": "female"}],
            "communication": [{"language": {"text": "German"}}],
            "managingOrganization": {"reference": "Organization/o1"},
        },
        required=("communication.0.language",),
        bound=("gender", "name.0.use", "telecom.0.system"),
        references={"managingOrganization": "Patient"},
        dates=("birthDate",),
        numbers=("multipleBirthInteger", "telecom.0.rank"),
        repeating=("name", "name.0.given"),
        nested=("name.0", "contact.0"),
    ),
    Base(
        {
            "resourceType": "ImagingStudy",
            "id": "s1",
            "identifier": [{"system": "urn:dicom:uid", "value": "urn:oid:1.2.3"}],
            "status": "available",
            "modality": [{"system": DCM, "code": "CT"}],
            "subject": {"reference": "Patient/p1"},
            "started": "2024-01-02T03:04:05Z",
            "endpoint": [{"reference": "Endpoint/e1"}],
            "numberOfSeries": 1,
            "numberOfInstances": 1,
            "series": [
                {
                    "uid": "1.2.3.4",
                    "number": 1,
                    "modality": {"system": DCM, "code": "CT"},
                    "instance": [
                        {
                            "uid": "1.2.3.4.5",
                            "sopClass": {"system": "urn:ietf:rfc:3986", "code": "urn:oid:1.2.840.10008.5.1.4.1.1.2"},
                            "number": 1,
                        }
                    ],
                }
            ],
        },
        required=("status", "subject", "series.0.uid", "series.0.modality", "series.0.instance.0.sopClass"),
        bound=("status",),
        references={"subject": "Practitioner", "endpoint.0": "Patient"},
        dates=("started",),
        numbers=("numberOfSeries", "series.0.number"),
        repeating=("series", "series.0.instance"),
        nested=("series.0", "series.0.instance.0"),
    ),
    Base(
        {
            "resourceType": "Endpoint",
            "id": "e1",
            "status": "active",
            "connectionType": {"system": TERMINOLOGY + "endpoint-connection-type", "code": "dicom-wado-rs"},
            "name": "Images",
            "managingOrganization": {"reference": "Organization/o1"},
            "period": {"start": "2024-01-01", "end": "2024-12-31"},
            "payloadType": [{"text": "DICOM"}],
            "payloadMimeType": ["application/dicom"],
            "address": "https://images.example/studies",
            "header": ["Accept: application/dicom"],
        },
        required=("status", "connectionType", "payloadType", "address"),
        bound=("status",),
        references={"managingOrganization": "Patient"},
        dates=("period.start",),
        repeating=("payloadType", "header"),
        nested=("connectionType", "period"),
    ),
    Base(
        {
            "resourceType": "Practitioner",
            "id": "pr1",
            "active": True,
            "name": [{"family": "House", "prefix": ["Dr"]}],
            "gender": "female",
            "birthDate": "1960-05",
            "address": [{"use": "work", "type": "both", "line": ["1 Road"], "city": "Town"}],
            "qualification": [{"code": {"text": "MD"}, "issuer": {"reference": "Organization/o1"}}],
        },
        required=("qualification.0.code",),
        bound=("gender", "address.0.type"),
        references={"qualification.0.issuer": "Patient"},
        dates=("birthDate",),
        repeating=("name", "address.0.line"),
        nested=("qualification.0", "address.0"),
    ),
    Base(
        {
            "resourceType": "Encounter",
            "id": "en1",
            "status": "finished",
            "class": {"system": TERMINOLOGY + "v3-ActCode", "code": "AMB"},
            "subject": {"reference": "Patient/p1"},
            "participant": [{"individual": {"reference": "Practitioner/pr1"}}],
            "period": {"start": "2024-01-01T10:00:00+01:00", "end": "2024-01-01T11:00:00+01:00"},
            "diagnosis": [{"condition": {"reference": "Condition/c1"}, "rank": 1}],
            "location": [{"location": {"reference": "Location/l1"}, "status": "completed"}],
        },
        required=("status", "class", "diagnosis.0.condition", "location.0.location"),
        bound=("status", "location.0.status"),
        references={"subject": "Practitioner", "participant.0.individual": "Patient"},
        dates=("period.start",),
        numbers=("diagnosis.0.rank",),
        repeating=("participant", "diagnosis"),
        nested=("diagnosis.0", "class"),
    ),
    Base(
        {
            "resourceType": "Observation",
            "id": "ob1",
            "status": "final",
            "category": [concept(TERMINOLOGY + "observation-category", "laboratory")],
            "code": concept(LOINC, "2339-0"),
            "subject": {"reference": "Patient/p1"},
            "effectiveDateTime": "2024-01-02",
            "issued": "2024-01-02T03:04:05.678Z",
            "performer": [{"reference": "Organization/o1"}],
            "valueQuantity": {"value": 6.3, "unit": "mmol/l", "system": UCUM, "code": "mmol/L", "comparator": "<"},
            "referenceRange": [{"low": {"value": 3.1}, "high": {"value": 6.2}}],
        },
        required=("status", "code"),
        bound=("status", "valueQuantity.comparator"),
        references={"subject": "Practitioner", "performer.0": "Location"},
        dates=("effectiveDateTime", "issued"),
        numbers=("valueQuantity.value", "referenceRange.0.low.value"),
        repeating=("performer", "referenceRange"),
        nested=("valueQuantity", "referenceRange.0"),
    ),
    Base(
        {
            "resourceType": "Condition",
            "id": "c1",
            "clinicalStatus": concept(TERMINOLOGY + "condition-clinical", "active"),
            "verificationStatus": concept(TERMINOLOGY + "condition-ver-status", "confirmed"),
            "code": concept(SNOMED, "39065001"),
            "subject": {"reference": "Patient/p1"},
            "onsetAge": {"value": 52, "unit": "years", "system": UCUM, "code": "a"},
            "recordedDate": "2024-02",
            "stage": [{"summary": {"text": "II"}}],
        },
        required=("subject",),
        bound=("clinicalStatus.coding.0.code", "verificationStatus.coding.0.code"),
        references={"subject": "Practitioner"},
        dates=("recordedDate",),
        numbers=("onsetAge.value",),
        repeating=("stage",),
        nested=("stage.0", "onsetAge"),
    ),
    Base(
        {
            "resourceType": "MedicationRequest",
            "id": "m1",
            "status": "active",
            "intent": "order",
            "medicationCodeableConcept": {"text": "Aspirin"},
            "subject": {"reference": "Patient/p1"},
            "authoredOn": "2024-01-02",
            "requester": {"reference": "Practitioner/pr1"},
            "dosageInstruction": [
                {
                    "sequence": 1,
                    "text": "one a day",
                    "timing": {"repeat": {"frequency": 1, "period": 1, "periodUnit": "d"}},
                    "doseAndRate": [{"doseQuantity": {"value": 1, "unit": "tablet"}}],
                }
            ],
            "dispenseRequest": {"numberOfRepeatsAllowed": 2},
        },
        required=("status", "intent", "medicationCodeableConcept", "subject"),
        bound=("status", "intent", "dosageInstruction.0.timing.repeat.periodUnit"),
        references={"subject": "Practitioner", "requester": "Location"},
        dates=("authoredOn",),
        numbers=("dosageInstruction.0.sequence", "dispenseRequest.numberOfRepeatsAllowed"),
        repeating=("dosageInstruction", "dosageInstruction.0.doseAndRate"),
        nested=("dosageInstruction.0", "dosageInstruction.0.timing.repeat"),
    ),
    Base(
        {
            "resourceType": "AllergyIntolerance",
            "id": "a1",
            "clinicalStatus": concept(TERMINOLOGY + "allergyintolerance-clinical", "active"),
            "verificationStatus": concept(TERMINOLOGY + "allergyintolerance-verification", "confirmed"),
            "type": "allergy",
            "category": ["food"],
            "criticality": "high",
            "code": {"text": "Peanut"},
            "patient": {"reference": "Patient/p1"},
            "onsetString": "childhood",
            "recordedDate": "2010",
            "reaction": [{"manifestation": [{"text": "Hives"}], "severity": "mild"}],
        },
        required=("patient", "reaction.0.manifestation"),
        bound=("type", "category.0", "criticality", "clinicalStatus.coding.0.code"),
        references={"patient": "Group"},
        dates=("recordedDate",),
        repeating=("category", "reaction"),
        nested=("reaction.0",),
    ),
    Base(
        {
            "resourceType": "Immunization",
            "id": "i1",
            "status": "completed",
            "vaccineCode": concept("http://hl7.org/fhir/sid/cvx", "140"),
            "patient": {"reference": "Patient/p1"},
            "occurrenceDateTime": "2023-10-01",
            "primarySource": True,
            "lotNumber": "A1",
            "expirationDate": "2024-10-01",
            "doseQuantity": {"value": 0.5, "unit": "ml"},
            "protocolApplied": [{"doseNumberPositiveInt": 1}],
        },
        required=("status", "vaccineCode", "patient", "occurrenceDateTime", "protocolApplied.0.doseNumberPositiveInt"),
        bound=("status",),
        references={"patient": "Practitioner"},
        dates=("expirationDate", "occurrenceDateTime"),
        numbers=("doseQuantity.value",),
        repeating=("protocolApplied",),
        nested=("doseQuantity",),
    ),
    Base(
        {
            "resourceType": "Procedure",
            "id": "pc1",
            "status": "completed",
            "code": concept(SNOMED, "80146002"),
            "subject": {"reference": "Patient/p1"},
            "performedPeriod": {"start": "2024-01-02T03:04:05Z", "end": "2024-01-02T04:04:05Z"},
            "performer": [{"actor": {"reference": "Practitioner/pr1"}}],
            "focalDevice": [{"manipulated": {"reference": "Device/d1"}}],
        },
        required=("status", "subject", "performer.0.actor", "focalDevice.0.manipulated"),
        bound=("status",),
        references={"subject": "Practitioner", "focalDevice.0.manipulated": "Patient"},
        dates=("performedPeriod.start",),
        repeating=("performer",),
        nested=("performer.0",),
    ),
    Base(
        {
            "resourceType": "DiagnosticReport",
            "id": "dr1",
            "status": "final",
            "code": concept(LOINC, "18748-4"),
            "subject": {"reference": "Patient/p1"},
            "effectiveDateTime": "2024-01-02T03:04:05+00:00",
            "issued": "2024-01-02T03:04:05Z",
            "imagingStudy": [{"reference": "ImagingStudy/s1"}],
            "media": [{"link": {"reference": "Media/m1"}}],
            "conclusion": "Nothing.",
            "presentedForm": [{"contentType": "text/plain", "data": "Tm90aGluZy4=", "size": 8}],
        },
        required=("status", "code", "media.0.link"),
        bound=("status",),
        references={"imagingStudy.0": "Patient", "media.0.link": "Patient"},
        dates=("issued", "effectiveDateTime"),
        numbers=("presentedForm.0.size",),
        repeating=("imagingStudy", "presentedForm"),
        nested=("media.0", "presentedForm.0"),
    ),
    Base(
        {
            "resourceType": "Organization",
            "id": "o1",
            "active": True,
            "name": "Hospital",
            "alias": ["H"],
            "telecom": [{"system": "url", "value": "https://hospital.example"}],
            "partOf": {"reference": "Organization/o2"},
            "contact": [{"name": {"family": "Desk"}}],
        },
        bound=("telecom.0.system",),
        references={"partOf": "Patient"},
        repeating=("alias", "telecom"),
        nested=("contact.0",),
    ),
    Base(
        {
            "resourceType": "ServiceRequest",
            "id": "sr1",
            "identifier": [{"value": "ACC1"}],
            "status": "completed",
            "intent": "order",
            "priority": "routine",
            "code": {"text": "CT"},
            "subject": {"reference": "Patient/p1"},
            "occurrenceDateTime": "2024-01-02",
            "quantityQuantity": {"value": 1},
            "reasonReference": [{"reference": "Condition/c1"}],
        },
        required=("status", "intent", "subject"),
        bound=("status", "intent", "priority"),
        references={"subject": "Practitioner", "reasonReference.0": "Patient"},
        dates=("occurrenceDateTime",),
        numbers=("quantityQuantity.value",),
        repeating=("reasonReference",),
        nested=("quantityQuantity",),
    ),
)

BY_TYPE = {base.resource["resourceType"]: base for base in BASES}
