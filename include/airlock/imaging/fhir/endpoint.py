"""Endpoint: the address of a study's DICOM data, and the image sets that hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.imaging.fhir.identifiers import endpoint_id
from airlock.imaging.fhir.values import exact, filled

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.imaging.contracts import StudyContract
    from airlock.imaging.fhir.publishing import Publishing

_CONNECTION_TYPES = "http://terminology.hl7.org/CodeSystem/endpoint-connection-type"


def build_endpoints(contract: StudyContract, settings: Publishing) -> Iterator[dict[str, Any]]:
    """Yield the Endpoint of a study, which names all its image sets, then one per image set, for its series.

    Every address is the base URL of the data store's DICOMweb service. A WADO-RS Endpoint must not hold more (FHIR R4,
    ImagingStudy, implementation notes), so the image set is in the identifier.
    """
    image_sets = study_image_sets(contract)
    yield _endpoint(endpoint_id(contract), image_sets, settings)
    for name in image_sets:
        yield _endpoint(endpoint_id(contract, name), [name], settings)


def study_image_sets(contract: StudyContract) -> list[str]:
    """Return the ids of a study's image sets, sorted, each once."""
    return usable_image_sets(name for series in contract.series for name in series.image_set_ids)


def usable_image_sets(image_sets: Iterable[str]) -> list[str]:
    """Return the ids that FHIR can hold, sorted, each once."""
    return sorted({name for name in image_sets if exact(name) == name})


def _endpoint(resource_id: str, image_sets: list[str], settings: Publishing) -> dict[str, Any]:
    return filled(
        {
            "resourceType": "Endpoint",
            "id": resource_id,
            "identifier": [{"system": settings.image_set_system, "value": name} for name in image_sets],
            "status": "active",
            "connectionType": {"system": _CONNECTION_TYPES, "code": "dicom-wado-rs"},
            "name": "AWS HealthImaging DICOMweb",
            "payloadType": [{"text": "DICOM"}],
            "payloadMimeType": ["application/dicom", "application/dicom+json"],
            "address": settings.dicomweb_url,
        }
    )
