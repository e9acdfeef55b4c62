"""What the distribution ``airflow-provider-healthaws`` tells Airflow of itself."""

from __future__ import annotations

from typing import Any

IMAGING, RECORDS = "AWS HealthImaging", "AWS HealthLake"
_MODULES: dict[str, dict[str, list[str]]] = {
    "hooks": {
        IMAGING: ["healthimaging", "healthimaging_image_sets", "healthimaging_import_jobs"],
        RECORDS: [
            "healthlake",
            "healthlake_export_jobs",
            "healthlake_fhir",
            "healthlake_import_jobs",
            "healthlake_transformation_jobs",
        ],
    },
    "operators": {
        IMAGING: ["healthimaging_import_jobs"],
        RECORDS: [
            "healthlake_export_jobs",
            "healthlake_fhir",
            "healthlake_import_jobs",
            "healthlake_transformation_jobs",
        ],
    },
    "sensors": {IMAGING: ["healthimaging"], RECORDS: ["healthlake"]},
    "triggers": {IMAGING: ["healthimaging"], RECORDS: ["healthlake"]},
}


def get_provider_info() -> dict[str, Any]:
    """Return what ``airflow providers get`` shows; Airflow reads it through the entry point of the distribution."""
    listed = {
        kind: [
            {"integration-name": service, "python-modules": [f"healthaws.{kind}.{name}" for name in names]}
            for service, names in services.items()
        ]
        for kind, services in _MODULES.items()
    }
    return {
        "package-name": "airflow-provider-healthaws",
        "name": "AWS HealthImaging and HealthLake",
        "description": "Imports into AWS HealthImaging and AWS HealthLake that start one job for one piece of work.",
        "integrations": [
            {"integration-name": IMAGING, "external-doc-url": "https://aws.amazon.com/healthimaging/"},
            {"integration-name": RECORDS, "external-doc-url": "https://aws.amazon.com/healthlake/"},
        ],
        "extra-links": [
            "healthaws.links.healthimaging.HealthImagingDicomImportJobLink",
            "healthaws.links.healthlake.HealthLakeConsoleLink",
        ],
        **listed,
    }
