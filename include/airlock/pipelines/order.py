"""``source.order``: which of two contents of one FHIR resource is the newer one."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from airlock.pipelines.settings import Settings
from airlock.suggestions import suggest_name

# Types of which a missing or old content can harm a patient at once.
SAFETY_TYPES = ("AllergyIntolerance", "MedicationRequest", "MedicationStatement", "Condition")


def check_types(names: tuple[str, ...]) -> tuple[str, ...]:
    """Return names of resource types of FHIR R4.

    Raises
    ------
    ValueError
        If one is not a type of R4.
    """
    import fhirkit  # noqa: PLC0415  # DAG files read pipelines, and most of these name no type

    for name in names:
        if name not in fhirkit.RESOURCE_TYPES:
            remedy = suggest_name(name, fhirkit.RESOURCE_TYPES, "write a type as it is in resourceType")
            raise ValueError(f"{name!r} is not a resource type of FHIR R4: {remedy}")
    return names


ResourceTypes = Annotated[tuple[str, ...], AfterValidator(check_types)]


class Order(Settings):
    """The order of the contents of one resource; older content never overwrites newer content."""

    across_keys: Literal["last_updated", "key_date", "manifest", "last_modified"] = Field(
        description="the clock that orders contents from different keys: meta.lastUpdated, the date in the key, as_of "
        "of the delivery's manifest, or S3's last-modified; where it is missing or equal, the next of these"
    )
    same_key: Literal["version"] = Field(
        "version", description="the order of contents from one key: that of the object's versions in S3"
    )
    future_tolerance_hours: float = Field(
        1, ge=0, le=24 * 366, description="how far ahead of the database's clock a time may be; a later one never wins"
    )
    safety_types: ResourceTypes = Field(
        SAFETY_TYPES,
        description="resource types that are quarantined with order_unknown where across_keys does not order two "
        "contents; other types are ordered by the next clock",
    )
