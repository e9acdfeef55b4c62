"""The pipelines of the histories: images that share a data store, published as FHIR or not, and FHIR resources."""

from __future__ import annotations

from typing import Any

from airlock.pipelines import ClinicalPipeline, ImagingPipeline

DATASTORE = "d" * 32
RECORDS = "f" * 32  # the HealthLake data store
ROLE = "arn:aws:iam::123456789012:role/import"
BUCKETS = ("archive", "workspace", "staging", "output", "contracts")
_AT_ONCE = {"backoff_seconds": 0, "max_backoff_seconds": 0}
_HEALTHLAKE = {
    "datastore_id": RECORDS,
    "data_access_role_arn": ROLE,
    "output_uri": "s3://output/fhir/",
    "kms_key_id": "alias/airlock",
    "region_name": "us-east-1",
}
_PLACES: dict[str, Any] = {
    "schema": "airlock.pipeline/1",
    "source": {"uri": "s3://archive/in/"},
    "receive": {"mode": "quiet_period", "quiet_seconds": 0},
    "workspace": "s3://workspace/runs/",
    "staging": {"uri": "s3://staging/batches/"},
}


def imaging(name: str = "nightly", **changes: Any) -> ImagingPipeline:
    """Return a pipeline of images; ``changes`` replace whole sections."""
    content = _PLACES | {
        "name": name,
        "kind": "imaging",
        "healthimaging": {
            "datastore_id": DATASTORE,
            "data_access_role_arn": ROLE,
            "output_uri": "s3://output/imports/",
            "region_name": "us-east-1",
        },
        "audit": {"manifest_wait_seconds": 0, "read_back_fraction": 1.0},
        "routes": [{"name": "contracts", "uri": "s3://contracts/studies/", "delivery": _AT_ONCE}],
    }
    return ImagingPipeline.model_validate(content | changes)


def publishing(name: str = "published", **changes: Any) -> ImagingPipeline:
    """Return a pipeline of images that publishes its studies in HealthLake."""
    return imaging(name, **{"healthlake": _HEALTHLAKE} | changes)


def clinical(name: str = "records", **changes: Any) -> ClinicalPipeline:
    """Return a pipeline of FHIR resources; ``changes`` replace whole sections."""
    content = _PLACES | {
        "name": name,
        "kind": "clinical",
        "source": {"uri": "s3://archive/fhir/", "order": {"across_keys": "last_modified"}},
        "risk": {"workflow": "contract", "why": "the search for histories that break the books"},
        "healthlake": _HEALTHLAKE,
        "audit": {"manifest_wait_seconds": 0},
        "routes": [{"name": "contracts", "uri": "s3://contracts/patients/", "delivery": _AT_ONCE}],
    }
    return ClinicalPipeline.model_validate(content | changes)
