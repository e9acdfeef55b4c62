"""Study contracts for the tests, of which a test changes what matters to it."""

from __future__ import annotations

from typing import Any

from airlock.imaging.contracts import ContractInstance, ContractSeries, StudyContract
from airlock.imaging.fhir.publishing import Publishing
from airlock.records import study_key

STORE = "d" * 32
LAKE = "e" * 32
CT_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
STUDY: dict[str, Any] = {
    "pipeline": "nightly",
    "datastore_id": STORE,
    "StudyInstanceUID": "1.2.1",
    "StudyDate": "20240131",
    "StudyTime": "101112",
    "StudyID": "S1",
    "StudyDescription": "Thorax",
    "AccessionNumber": "A1",
    "ReferringPhysicianName": "House^Gregory^^Dr",
    "PatientID": "P1",
    "IssuerOfPatientID": "NORTH",
    "PatientName": "Doe^Jane",
    "PatientBirthDate": "19800229",
    "PatientSex": "F",
}


def publishing(**changes: Any) -> Publishing:
    """Return settings; ``changes`` replace fields."""
    fields: dict[str, Any] = {
        "region": "eu-west-1",
        "healthimaging_datastore_id": STORE,
        "healthlake_datastore_id": LAKE,
        "issuer_systems": {},
        "timezone": None,
        "service_requests": False,
        "max_resource_bytes": 10_000_000,
    }
    return Publishing(**(fields | changes))


def instance(uid: str, **changes: Any) -> ContractInstance:
    """Return an imported instance."""
    fields = {"SOPClassUID": CT_STORAGE, "InstanceNumber": "1", "source": f"s3://archive/{uid}", "etag": "e", "size": 1}
    return ContractInstance(SOPInstanceUID=uid, **(fields | changes))


def series(uid: str = "1.2.1.1", count: int = 1, **changes: Any) -> ContractSeries:
    """Return a CT series with so many instances, in one image set."""
    fields: dict[str, Any] = {
        "SeriesNumber": "2",
        "Modality": "CT",
        "image_set_ids": ("a" * 32,),
        "instances": tuple(instance(f"{uid}.{n}") for n in range(1, count + 1)),
    }
    return ContractSeries(SeriesInstanceUID=uid, **(fields | changes))


def study(*parts: ContractSeries, **changes: Any) -> StudyContract:
    """Return a released study of these series, or of one; ``changes`` replace attributes."""
    fields = STUDY | changes
    found = parts or (series(),)
    return StudyContract(
        study_key=study_key(fields["StudyInstanceUID"]),
        NumberOfStudyRelatedSeries=len(found),
        NumberOfStudyRelatedInstances=sum(len(part.instances) for part in found),
        series=found,
        **fields,
    )
