from __future__ import annotations

from healthaws.links.healthlake import HealthLakeConsoleLink


def test_leads_to_the_service_in_its_region_and_partition() -> None:
    stored = {"region_name": "us-east-1", "aws_domain": "aws.amazon.com", "datastore_id": "d1", "job_id": "j1"}
    expected = "https://console.aws.amazon.com/healthlake/home?region=us-east-1"
    assert HealthLakeConsoleLink().format_link(**stored) == expected
