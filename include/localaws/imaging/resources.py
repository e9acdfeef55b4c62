"""Names of HealthImaging resources: identifiers and ARNs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localaws.settings import Settings


def datastore_arn(settings: Settings, datastore_id: str) -> str:
    """Return the ARN of a data store."""
    return f"arn:aws:medical-imaging:{settings.region}:{settings.account}:datastore/{datastore_id}"


def image_set_arn(settings: Settings, datastore_id: str, image_set_id: str) -> str:
    """Return the ARN of an image set."""
    return f"{datastore_arn(settings, datastore_id)}/imageset/{image_set_id}"
