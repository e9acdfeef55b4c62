"""Ids of resources, the same on every replay, and their business identifiers.

An id reveals no identifier by itself. But all possible PatientIDs can be tried one by one, so the id of a Patient is
patient data too.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airlock.imaging.fhir.values import exact, filled, is_blank, is_oid
from airlock.records import digest

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.imaging.contracts import StudyContract
    from airlock.imaging.fhir.publishing import Publishing

DICOM_UID = "urn:dicom:uid"
_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"


def _id(*parts: str | None) -> str:
    """Return a valid FHIR id: 32 hex digits of a digest of the parts, as JSON so that different lists differ."""
    return digest(json.dumps(parts))


def patient_id(contract: StudyContract, settings: Publishing) -> str:
    """Return the id of a study's Patient: the existing one that it was matched with, or Airlock's own."""
    found = contract.patient_match
    if found is not None and found.patient is not None:
        return found.patient.removeprefix("Patient/")
    return own_patient_id(contract, settings)


def own_patient_id(contract: StudyContract, settings: Publishing) -> str:
    """Return the id of the Patient that Airlock makes: of (issuer, PatientID), or of the study if they name nobody.

    They name nobody if PatientID is absent or a placeholder, if no issuer is given and the settings name none for this
    case, or if one of the two is damaged. One patient in two resources can be corrected; two patients in one may do
    harm.
    """
    number, issuer = exact(contract.PatientID), exact(contract.IssuerOfPatientID)
    known = issuer is not None or (is_blank(contract.IssuerOfPatientID) and "" in settings.issuer_systems)
    if number is None or not known or settings.is_placeholder(number):
        return study_patient_id(contract.StudyInstanceUID)
    return identity_id(issuer, number)


def study_patient_id(study: str) -> str:
    """Return the id of the Patient that Airlock makes of a study (StudyInstanceUID) whose PatientID names nobody."""
    return _id("Patient", "of study", study)


def identity_id(issuer: str | None, number: str) -> str:
    """Return the id of the Patient that Airlock makes of an issuer (None: the one without a name) and a PatientID."""
    return _id("Patient", issuer, number)


def imaging_study_id(contract: StudyContract) -> str:
    """Return the id of a study's ImagingStudy."""
    return _id("ImagingStudy", contract.StudyInstanceUID)


def endpoint_id(contract: StudyContract, image_set_id: str | None = None) -> str:
    """Return the id of the Endpoint of a study, or of one of its image sets."""
    return _id("Endpoint", contract.datastore_id, contract.StudyInstanceUID, image_set_id)


def service_request_id(contract: StudyContract, settings: Publishing) -> str | None:
    """Return the id of the stub of a study's order, of AccessionNumber and identity; numbers of patients may repeat.

    It stays the same when the study is matched with an existing Patient.
    """
    accession = exact(contract.AccessionNumber)
    return _id("ServiceRequest", accession, own_patient_id(contract, settings)) if accession else None


def order_id(contract: StudyContract, settings: Publishing) -> str | None:
    """Return the id of a study's order: of the existing one, else of the stub if stubs are published, else None."""
    if contract.patient_match is not None and contract.patient_match.order is not None:
        return contract.patient_match.order.removeprefix("ServiceRequest/")
    return service_request_id(contract, settings) if settings.service_requests else None


def is_existing_patient(contract: StudyContract) -> bool:
    """Return whether the study's Patient is one that Airlock has not made."""
    return contract.patient_match is not None and contract.patient_match.patient is not None


def is_existing_order(contract: StudyContract) -> bool:
    """Return whether the study's order is one that Airlock has not made."""
    return contract.patient_match is not None and contract.patient_match.order is not None


def reference(resource_type: str, resource_id: str) -> dict[str, str]:
    """Return a Reference to a resource of this publication."""
    return {"reference": f"{resource_type}/{resource_id}"}


def issuer_system(issuer: str, settings: Publishing) -> str:
    """Return Identifier.system of an issuer: from the settings, else its OID, else a URI made of its name."""
    if issuer in settings.issuer_systems:
        return settings.issuer_systems[issuer]
    return f"urn:oid:{issuer}" if is_oid(issuer) else f"urn:airlock:issuer:{quote(issuer, safe='')}"


def list_identities(keys: Iterable[tuple[str, str]], settings: Publishing) -> set[str]:
    """Return the ids of the Patients that Airlock makes of these numbers (Identifier.system and value)."""
    found = set()
    for system, number in keys:
        issuers = [issuer for issuer, known in settings.issuer_systems.items() if known == system]
        issuers += [system.removeprefix("urn:oid:")] if system.startswith("urn:oid:") else []
        found |= {identity_id(issuer or None, number) for issuer in issuers}
    return found


def patient_identifier(contract: StudyContract, settings: Publishing) -> dict[str, Any] | None:
    """Return PatientID as an Identifier, without a system if its issuer is unknown; None without PatientID."""
    number, issuer = exact(contract.PatientID), exact(contract.IssuerOfPatientID)
    if number is None:
        return None
    system = settings.issuer_systems.get("") if is_blank(contract.IssuerOfPatientID) else None
    return filled({"system": issuer_system(issuer, settings) if issuer else system, "value": number})


def uid_identifier(uid: str) -> dict[str, Any] | None:
    """Return a UID as an Identifier (FHIR R4, ImagingStudy, implementation notes); only an OID gets ``urn:oid:``."""
    value = f"urn:oid:{uid}" if is_oid(uid) else exact(uid)
    return {"system": DICOM_UID, "value": value} if value else None


def accession_identifier(contract: StudyContract) -> dict[str, Any] | None:
    """Return AccessionNumber as an Identifier of type ACSN; contracts do not name its issuer."""
    value = exact(contract.AccessionNumber)
    return {"type": {"coding": [{"system": _TYPES, "code": "ACSN"}]}, "value": value} if value else None
