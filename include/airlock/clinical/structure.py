"""The local structure check: FHIR R4 by the fhirkit library before anything is sent, and the version it is instead.

It finds what breaks the structure: types, cardinality, unknown elements, formats. Bindings, reference targets,
invariants and profiles are the data store's to judge. The library passes over control characters below 32; R4 forbids
them but for tab, CR and LF ("Datatypes", string), and JSON can only write them as escapes.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import fhirkit

from airlock.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Iterator

# Types that R4 does not have (resource lists of FHIR STU3 and R5).
OTHER_TYPES = {
    **dict.fromkeys(
        (
            "BodySite", "DataElement", "DeviceComponent", "EligibilityRequest", "EligibilityResponse",
            "ExpansionProfile", "ImagingManifest", "ProcedureRequest", "ProcessRequest", "ProcessResponse",
            "ReferralRequest", "Sequence", "ServiceDefinition",
        ),
        "STU3",
    ),
    **dict.fromkeys(
        (
            "ActorDefinition", "AdministrableProductDefinition", "ArtifactAssessment",
            "BiologicallyDerivedProductDispense", "Citation", "ClinicalUseDefinition", "ConditionDefinition",
            "DeviceAssociation", "DeviceDispense", "DeviceUsage", "EncounterHistory", "FormularyItem", "GenomicStudy",
            "ImagingSelection", "Ingredient", "InventoryItem", "InventoryReport", "ManufacturedItemDefinition",
            "NutritionIntake", "NutritionProduct", "PackagedProductDefinition", "Permission",
            "RegulatedAuthorization", "Requirements", "SubscriptionStatus", "SubscriptionTopic",
            "SubstanceDefinition", "TestPlan", "Transport",
        ),
        "R5",
    ),
}  # fmt: skip
# Elements of another version that R4 does not have, or has with another type (change logs of FHIR R4 and R5).
OTHER_ELEMENTS = {
    **dict.fromkeys(
        (
            "AllergyIntolerance.assertedDate", "Condition.assertedDate", "Condition.context",
            "DiagnosticReport.codedDiagnosis", "DiagnosticReport.context", "DiagnosticReport.image",
            "DocumentReference.class", "DocumentReference.indexed", "Encounter.incomingReferral",
            "ImagingStudy.accession", "ImagingStudy.availability", "ImagingStudy.context", "ImagingStudy.patient",
            "ImagingStudy.uid", "Immunization.date", "Immunization.notGiven", "MedicationRequest.context",
            "Observation.comment", "Observation.context", "Observation.related", "Patient.animal",
            "Procedure.context", "Procedure.notDone", "Procedure.notDoneReason",
        ),
        "STU3",
    ),
    **dict.fromkeys(
        (
            "AllergyIntolerance.participant", "Condition.participant", "DiagnosticReport.composition",
            "DocumentReference.attester", "DocumentReference.modality", "Encounter.actualPeriod",
            "Encounter.admission", "Encounter.plannedStartDate", "Encounter.virtualService",
            "ImagingStudy.series.bodySite.concept", "ImagingStudy.series.modality.coding",
            "Immunization.administeredProduct", "MedicationRequest.medication", "Observation.bodyStructure",
            "Observation.instantiatesCanonical", "Observation.triggeredBy", "Procedure.occurrenceDateTime",
            "Procedure.occurrencePeriod", "Procedure.reportedBoolean",
        ),
        "R5",
    ),
}  # fmt: skip
_INDEX = re.compile(r"\[\d+\]")
_KEPT = 20  # issues of one resource
_CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
_ESCAPED = re.compile(r"\\(?:[bf]|u00[01])")  # possibly a control character in JSON, or "\\b"
_QUOTED = re.compile(r'^(?:".*"|\S+) (?=is (?:not|outside))', re.DOTALL)  # fhirkit begins with the value
_HAS_ONE = "a control character below 32"


@dataclass(frozen=True)
class Finding:
    """Why a resource is stopped, and its OperationOutcome (JSON)."""

    reason: Reason
    detail: str
    outcome: str


def check(body: str) -> Finding | None:
    """Return how a resource's text breaks the structure of FHIR R4; None where it does not."""
    try:
        found = [issue for issue in fhirkit.validate(body) if issue.severity == "error"]
        # The value may be a date of birth: who may see it finds it at the path.
        issues = [(issue.path, _QUOTED.sub("the value ", issue.message)) for issue in found]
    except fhirkit.ParseError as error:
        issues = [("", str(error))]
    if _ESCAPED.search(body):
        issues += _control_characters(body)
    if not issues:
        return None
    path, message = issues[0]
    other = next((version for place, _ in issues if (version := OTHER_ELEMENTS.get(_INDEX.sub("", place)))), None)
    if other:
        return Finding(Reason.FHIR_VERSION, f"it has elements of {other}: {path}", _outcome(issues))
    reason = Reason.CONTROL_CHARACTER if message == _HAS_ONE else Reason.INVALID_RESOURCE
    return Finding(reason, f"{path}: {message}" if path else message, _outcome(issues))


def _control_characters(body: str) -> Iterator[tuple[str, str]]:
    """Yield the path of each text with a control character, and the message."""
    content = json.loads(body)
    waiting: list[tuple[str, Any]] = [(str(content["resourceType"]), content)]
    while waiting:
        path, value = waiting.pop()
        if isinstance(value, dict):
            waiting += ((f"{path}.{name}", item) for name, item in value.items())
        elif isinstance(value, list):
            waiting += ((f"{path}[{number}]", item) for number, item in enumerate(value))
        elif isinstance(value, str) and _CONTROL_CHARACTER.search(value):
            yield path, _HAS_ONE


def _outcome(issues: list[tuple[str, str]]) -> str:
    """Return the findings as an OperationOutcome (FHIR R4)."""
    return json.dumps(
        {
            "resourceType": "OperationOutcome",
            "issue": [
                {"severity": "error", "code": "structure", "diagnostics": message}
                | ({"expression": [path]} if path else {})
                for path, message in issues[:_KEPT]
            ],
        }
    )
