"""Who a resource is: ids that are the same on every replay, and the business identifiers they are made of.

An id reveals no identifier by itself, but PatientIDs are few enough to be tried one by one: the id of a Patient is a
patient's datum like the rest of it.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airlock.imaging.fhir.values import exact, filled, is_blank, is_oid
from airlock.records import digest

if TYPE_CHECKING:
    from airlock.imaging.contracts import StudyContract
    from airlock.imaging.fhir.publishing import Publishing

DICOM_UID = "urn:dicom:uid"
_TYPES = "http://terminology.hl7.org/CodeSystem/v2-0203"


def _id(*parts: str | None) -> str:
    """Return a legal FHIR id: 32 hex digits. As JSON, no two lists of parts are the same text, whatever is in them."""
    return digest(json.dumps(parts))


def patient_id(contract: StudyContract, settings: Publishing) -> str:
    """Return the id of a study's Patient: that of (issuer, PatientID), or of the study where these name nobody.

    They name nobody if PatientID is absent, if no issuer is given and the settings do not say whose such PatientIDs
    are, or if one of the two could not be read as it was written: one patient in two resources can be mended, two
    patients in one may harm.
    """
    number, issuer = exact(contract.PatientID), exact(contract.IssuerOfPatientID)
    known = issuer is not None or (is_blank(contract.IssuerOfPatientID) and "" in settings.issuer_systems)
    if number is None or not known:
        return _id("Patient", "of study", contract.StudyInstanceUID)
    return _id("Patient", issuer, number)


def imaging_study_id(contract: StudyContract) -> str:
    """Return the id of a study's ImagingStudy."""
    return _id("ImagingStudy", contract.StudyInstanceUID)


def endpoint_id(contract: StudyContract, image_set_id: str | None = None) -> str:
    """Return the id of the Endpoint of a study, or of one of its image sets."""
    return _id("Endpoint", contract.datastore_id, contract.StudyInstanceUID, image_set_id)


def service_request_id(contract: StudyContract, settings: Publishing) -> str | None:
    """Return the id of the order that a study's AccessionNumber stands for: of a patient, since numbers repeat."""
    accession = exact(contract.AccessionNumber)
    return _id("ServiceRequest", accession, patient_id(contract, settings)) if accession else None


def reference(resource_type: str, resource_id: str) -> dict[str, str]:
    """Return a Reference to one of our resources."""
    return {"reference": f"{resource_type}/{resource_id}"}


def issuer_system(issuer: str, settings: Publishing) -> str:
    """Return Identifier.system of an issuer: as the settings have it, its OID, or a URI made of its name."""
    if issuer in settings.issuer_systems:
        return settings.issuer_systems[issuer]
    return f"urn:oid:{issuer}" if is_oid(issuer) else f"urn:airlock:issuer:{quote(issuer, safe='')}"


def patient_identifier(contract: StudyContract, settings: Publishing) -> dict[str, Any] | None:
    """Return PatientID; without a system where its issuer is not known."""
    number, issuer = exact(contract.PatientID), exact(contract.IssuerOfPatientID)
    if number is None:
        return None
    system = settings.issuer_systems.get("") if is_blank(contract.IssuerOfPatientID) else None
    return filled({"system": issuer_system(issuer, settings) if issuer else system, "value": number})


def uid_identifier(uid: str) -> dict[str, Any] | None:
    """Return a UID as Identifier (ImagingStudy, implementation notes); one that is no OID stays as it is."""
    value = f"urn:oid:{uid}" if is_oid(uid) else exact(uid)
    return {"system": DICOM_UID, "value": value} if value else None


def accession_identifier(contract: StudyContract) -> dict[str, Any] | None:
    """Return AccessionNumber, of the type that ImagingStudy.identifier asks for; who issued it is not in a contract."""
    value = exact(contract.AccessionNumber)
    return {"type": {"coding": [{"system": _TYPES, "code": "ACSN"}]}, "value": value} if value else None
