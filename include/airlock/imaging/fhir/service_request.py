"""ServiceRequest: a stub of the order, by which a report and a study with the same AccessionNumber can be joined."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airlock.imaging.fhir.identifiers import accession_identifier, patient_id, reference, service_request_id

if TYPE_CHECKING:
    from airlock.imaging.contracts import StudyContract
    from airlock.imaging.fhir.publishing import Publishing


def build_service_request(contract: StudyContract, settings: Publishing) -> dict[str, Any] | None:
    """Return the stub of a study's order; None without an AccessionNumber.

    Its status is ``unknown``: an archive does not record the state of the order.
    """
    resource_id = service_request_id(contract, settings)
    if resource_id is None:
        return None
    return {
        "resourceType": "ServiceRequest",
        "id": resource_id,
        "identifier": [accession_identifier(contract)],
        "status": "unknown",
        "intent": "order",
        "subject": reference("Patient", patient_id(contract, settings)),
    }
