from __future__ import annotations

from healthaws.links.healthimaging import HealthImagingDicomImportJobLink

LINK = HealthImagingDicomImportJobLink()


def test_leads_to_the_data_store_in_its_region_and_partition() -> None:
    stored = {"region_name": "us-east-1", "aws_domain": "aws.amazon.com", "datastore_id": "d1", "job_id": "j1"}
    assert LINK.format_link(**stored) == (
        "https://console.aws.amazon.com/medical-imaging/home?region=us-east-1#/dataStores/d1"
    )


def test_is_empty_without_a_job() -> None:
    assert LINK.format_link() == ""
