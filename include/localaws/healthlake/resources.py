"""Names of HealthLake resources: identifiers, ARNs, endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localaws.settings import Settings


PAGE_MEMBERS = ("MaxResults", "NextToken")


def datastore_arn(settings: Settings, datastore_id: str) -> str:
    """Return the ARN of a data store."""
    return f"arn:aws:healthlake:{settings.region}:{settings.account}:datastore/fhir/{datastore_id}"


def datastore_endpoint(settings: Settings, datastore_id: str) -> str:
    """Return the base address of a data store's FHIR REST plane, with its trailing slash."""
    return f"{settings.base_url}/datastore/{datastore_id}/r4/"
