"""ImagingStudy: a study with its series and instances (FHIR R4, ImagingStudy, mapping from DICOM)."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

from airlock.imaging.fhir.endpoint import usable_image_sets
from airlock.imaging.fhir.identifiers import (
    accession_identifier,
    endpoint_id,
    imaging_study_id,
    order_id,
    patient_id,
    reference,
    uid_identifier,
)
from airlock.imaging.fhir.values import defined_term, exact, filled, is_id, is_oid, moment, spoken_name, text, unsigned

if TYPE_CHECKING:
    from airlock.imaging.contracts import ContractInstance, ContractSeries, StudyContract
    from airlock.imaging.fhir.publishing import Publishing

DICOM_TERMS = "http://dicom.nema.org/resources/ontology/DCM"
_URI = "urn:ietf:rfc:3986"
_ABSENT = "http://hl7.org/fhir/StructureDefinition/data-absent-reason"
_UNKNOWN = {"extension": [{"url": _ABSENT, "valueCode": "unknown"}]}
# Modality's defined terms (PS3.3 section C.7.3.1.1.1) that are not acquisition modalities (PS3.16 CID 29).
NOT_ACQUIRED = frozenset(
    {
        *("ANN", "ASMT", "AU", "CTPROTOCOL", "DOC", "FID", "HC", "IOL", "KO", "M3D", "OT", "PLAN", "PR", "REG"),
        *("RTDOSE", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SEG", "SMR", "SR", "STAIN", "TEXTUREMAP", "XAPROTOCOL"),
    }
)
_NOTE_BYTES = 512  # reserved for ``note``
_DOUBTS = {
    "ambiguous": "the Patients of this data store do not tell whose study it is",
    "unguarded": "a Patient of this data store has the number, but birth date, sex and name do not confirm it",
}


def build_imaging_study(contract: StudyContract, settings: Publishing) -> dict[str, Any]:
    """Return the ImagingStudy of a study.

    A series or an instance whose UID FHIR cannot hold is counted but not listed. If the resource would be larger than
    the settings allow, the largest series list no instances but keep their counts. ``note`` is present only in these
    cases, and where the patient is in doubt.
    """
    series = [_series(item, contract) for item in contract.series if is_id(item.SeriesInstanceUID)]
    notes = [*_describe_doubt(contract), *_unlistable(contract)]
    resource = _study(contract, settings, series)
    limit = settings.max_resource_bytes
    unlisted = _unlist_instances(series, count_bytes(resource) + _NOTE_BYTES - limit)
    if unlisted:
        notes.append(f"{unlisted} series list no instances: the resource would be larger than {limit} bytes")
    return resource | filled({"note": [{"text": note} for note in notes]})


def to_ndjson(resource: dict[str, Any]) -> str:
    """Return a resource as the line of NDJSON that is imported, without its line end."""
    return json.dumps(resource, ensure_ascii=False, separators=(",", ":"))


def count_bytes(resource: dict[str, Any]) -> int:
    """Return the number of bytes of a resource as it is imported."""
    return len(to_ndjson(resource).encode())


def _describe_doubt(contract: StudyContract) -> list[str]:
    doubt = contract.patient_match and _DOUBTS.get(contract.patient_match.outcome)
    return [f"The patient is in doubt: {doubt}. A person is asked."] if doubt else []


def _unlistable(contract: StudyContract) -> list[str]:
    uids = [series.SeriesInstanceUID for series in contract.series]
    uids += [one.SOPInstanceUID for series in contract.series for one in series.instances]
    invalid = sum(not is_id(uid) for uid in uids)
    return [f"{invalid} series or instances are not listed: their UIDs are not of FHIR's type id"] if invalid else []


def _unlist_instances(series: list[dict[str, Any]], excess: int) -> int:
    """Remove the instances of the largest series until *excess* bytes are saved; return the number of these series."""
    weights = [count_bytes(item) for item in series]
    heaviest = sorted(range(len(series)), key=lambda index: (-weights[index], index))
    unlisted = 0
    for index in heaviest:
        if excess <= 0:
            break
        if series[index].pop("instance", None):
            excess -= weights[index] - count_bytes(series[index])
            unlisted += 1
    return unlisted


def _study(contract: StudyContract, settings: Publishing, series: list[dict[str, Any]]) -> dict[str, Any]:
    order = order_id(contract, settings)
    referrer = spoken_name(contract.ReferringPhysicianName)
    return filled(
        {
            "resourceType": "ImagingStudy",
            "id": imaging_study_id(contract),
            "identifier": _identifiers(contract),
            "status": "available",
            "modality": _modalities(contract),
            "subject": reference("Patient", patient_id(contract, settings)),
            "started": moment(
                contract.StudyDate, contract.StudyTime, settings.timezone, contract.TimezoneOffsetFromUTC
            ),
            "basedOn": [reference("ServiceRequest", order)] if order else [],
            "referrer": {"display": referrer} if referrer else {},
            "endpoint": [reference("Endpoint", endpoint_id(contract))],
            "numberOfSeries": len(contract.series),
            "numberOfInstances": sum(len(item.instances) for item in contract.series),
            "description": text(contract.StudyDescription),
            "series": series,
        }
    )


def _identifiers(contract: StudyContract) -> list[dict[str, Any]]:
    study_id = exact(contract.StudyID)
    found = (
        uid_identifier(contract.StudyInstanceUID),
        accession_identifier(contract),
        {"type": {"text": "Study ID"}, "value": study_id} if study_id else None,
    )
    return [identifier for identifier in found if identifier]


def _modalities(contract: StudyContract) -> list[dict[str, Any]]:
    codes = {defined_term(item.Modality) for item in contract.series} - {None} - NOT_ACQUIRED
    return [{"system": DICOM_TERMS, "code": code} for code in sorted(filter(None, codes))]


def _series(item: ContractSeries, contract: StudyContract) -> dict[str, Any]:
    image_sets = usable_image_sets(item.image_set_ids)
    return filled(
        {
            "uid": item.SeriesInstanceUID,
            "number": unsigned(item.SeriesNumber),
            "modality": _coding(DICOM_TERMS, defined_term(item.Modality), item.Modality),
            "description": text(item.SeriesDescription),
            "numberOfInstances": len(item.instances),
            "endpoint": [reference("Endpoint", endpoint_id(contract, name)) for name in image_sets],
            "bodySite": filled({"display": text(item.BodyPartExamined)}),
            "instance": [_instance(one) for one in item.instances if is_id(one.SOPInstanceUID)],
        }
    )


def _instance(one: ContractInstance) -> dict[str, Any]:
    code = f"urn:oid:{one.SOPClassUID}" if is_oid(one.SOPClassUID) else None
    return filled(
        {
            "uid": one.SOPInstanceUID,
            "sopClass": _coding(_URI, code, one.SOPClassUID),
            "number": unsigned(one.InstanceNumber),
        }
    )


def _coding(system: str, code: str | None, stored: str | None) -> dict[str, Any]:
    """Return a required Coding: the code, else the stored text, else the extension for an unknown value."""
    if code:
        return {"system": system, "code": code}
    return filled({"display": text(stored)}) or _UNKNOWN
