"""Released studies as the FHIR resources that are imported for them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypedDict

from airlock.imaging.fhir.endpoint import build_endpoints, study_image_sets
from airlock.imaging.fhir.identifiers import (
    endpoint_id,
    imaging_study_id,
    is_existing_order,
    is_existing_patient,
    order_id,
    patient_id,
    reference,
)
from airlock.imaging.fhir.imaging_study import build_imaging_study
from airlock.imaging.fhir.patient import build_patient
from airlock.imaging.fhir.service_request import build_service_request

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.imaging.contracts import StudyContract
    from airlock.imaging.fhir.publishing import Publishing

# A resource comes after those that it refers to. HealthLake does not need this order, other readers of the files may.
_ORDER = ("Patient", "Endpoint", "ServiceRequest", "ImagingStudy")


class ForeignStudyError(ValueError):
    """A study is in another data store than the one that is published."""


class References(TypedDict):
    """A study's resources as ``Type/id``; the keys are those of ``contracts.FhirReferences``."""

    datastore_id: str
    Patient: str
    ImagingStudy: str
    Endpoint: tuple[str, ...]
    ServiceRequest: str | None


def build_publication(
    contracts: Iterable[StudyContract], settings: Publishing, published: Iterable[StudyContract] = ()
) -> list[dict[str, Any]]:
    """Return the resources of a set of released studies: each once, ordered by type and id.

    The contracts may be in any order; of two contracts of one study the later revision counts.

    Parameters
    ----------
    contracts
        The contracts of the studies.
    settings
        The settings of the publication.
    published
        Contracts of other released studies of the same patients: a Patient is merged from all its studies.

    Raises
    ------
    ForeignStudyError
        If a study is in another data store than that of the settings.
    """
    studies = {one.StudyInstanceUID: one for one in sorted(contracts, key=lambda one: one.revision)}
    by_patient: dict[str, list[StudyContract]] = {}
    for study in studies.values():
        _check(study, settings)
        if is_existing_patient(study):
            continue  # it is never written
        by_patient.setdefault(patient_id(study, settings), []).append(study)
    for study in published:
        if study.StudyInstanceUID not in studies and not is_existing_patient(study):
            by_patient.get(patient_id(study, settings), []).append(study)
    resources = [build_patient(group, settings) for group in by_patient.values()]
    for study in studies.values():
        resources += _resources(study, settings)
    unique = {(_ORDER.index(one["resourceType"]), one["id"]): one for one in resources}
    return [unique[key] for key in sorted(unique)]


def name_resources(contract: StudyContract, settings: Publishing) -> References:
    """Return the names of the resources that ``build_publication`` returns for a study.

    Raises
    ------
    ForeignStudyError
        If the study is in another data store than that of the settings.
    """
    _check(contract, settings)
    order = order_id(contract, settings)
    sets = (None, *study_image_sets(contract))
    return {
        "datastore_id": settings.healthlake_datastore_id,
        "Patient": _name("Patient", patient_id(contract, settings)),
        "ImagingStudy": _name("ImagingStudy", imaging_study_id(contract)),
        "Endpoint": tuple(_name("Endpoint", endpoint_id(contract, image_set)) for image_set in sets),
        "ServiceRequest": _name("ServiceRequest", order) if order else None,
    }


def list_own_resources(contract: StudyContract, settings: Publishing) -> list[str]:
    """Return the names of the resources of a study that Airlock writes, each as ``Type/id``."""
    named = name_resources(contract, settings)
    patient = [] if is_existing_patient(contract) else [named["Patient"]]
    order = [] if named["ServiceRequest"] is None or is_existing_order(contract) else [named["ServiceRequest"]]
    return [*patient, named["ImagingStudy"], *named["Endpoint"], *order]


def _resources(study: StudyContract, settings: Publishing) -> list[dict[str, Any]]:
    own_order = settings.service_requests and not is_existing_order(study)
    order = build_service_request(study, settings) if own_order else None
    return [build_imaging_study(study, settings), *build_endpoints(study, settings), *([order] if order else [])]


def _name(resource_type: str, resource_id: str) -> str:
    return reference(resource_type, resource_id)["reference"]


def _check(study: StudyContract, settings: Publishing) -> None:
    if study.datastore_id != settings.healthimaging_datastore_id:
        raise ForeignStudyError(
            f"study {study.study_key} is in data store {study.datastore_id}, not in "
            f"{settings.healthimaging_datastore_id}: publish it by the pipeline that imports into its data store"
        )
