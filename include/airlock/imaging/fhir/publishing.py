"""What the resources depend on besides the contracts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from botocore.endpoint_provider import RuleSetStandardLibrary
from botocore.loaders import Loader

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.pipelines import HealthLake, ImagingPipeline


@dataclass(frozen=True)
class Publishing:
    """How the released studies of one HealthImaging data store are published to one HealthLake data store.

    Attributes
    ----------
    region
        Of HealthImaging: part of its DICOMweb address.
    healthimaging_datastore_id
        Where the studies lie; a contract of another one is refused.
    healthlake_datastore_id
        Where the resources go.
    issuer_systems
        Identifier.system by IssuerOfPatientID. The key "" stands for PatientIDs that name no issuer: with it they count
        as given by one issuer, without it no two studies share such a patient.
    timezone
        IANA name of the zone that StudyTime is in; None publishes StudyDate alone.
    service_requests
        Whether to publish a ServiceRequest stub for each AccessionNumber.
    max_resource_bytes
        An ImagingStudy above it leaves out the instances of its largest series.
    """

    region: str
    healthimaging_datastore_id: str
    healthlake_datastore_id: str
    issuer_systems: Mapping[str, str]
    timezone: str | None
    service_requests: bool
    max_resource_bytes: int

    def __post_init__(self) -> None:
        for issuer, system in self.issuer_systems.items():
            if system.split() != [system]:
                raise ValueError(f"issuer_systems: {system!r}, for {issuer!r}, is not a URI: write one without spaces")

    @property
    def dicomweb_url(self) -> str:
        """The base URL of HealthImaging's DICOMweb service for the data store, as WADO-RS clients want it.

        HealthImaging developer guide, "Retrieving DICOM data": ``/studies/...`` is appended to it, and
        ``?imageSetId=...`` where an image set is not the primary one.
        """
        host = f"dicom-medical-imaging.{self.region}.{_dns_suffix(self.region)}"
        return f"https://{host}/datastore/{self.healthimaging_datastore_id}"

    @property
    def image_set_system(self) -> str:
        """The namespace of image set ids: with ``/`` and the id, the address of the image set (GetImageSet)."""
        host = f"runtime-medical-imaging.{self.region}.{_dns_suffix(self.region)}"
        return f"https://{host}/datastore/{self.healthimaging_datastore_id}/imageSet"


@cache
def _dns_suffix(region: str) -> str:
    """Return how the host names of a region end; botocore knows the partitions."""
    partition = RuleSetStandardLibrary(Loader().load_data("partitions")).aws_partition(region)
    return str(partition["dnsSuffix"])


def publishing(pipeline: ImagingPipeline, store: HealthLake) -> Publishing:
    """Return how a pipeline's released studies are published to a HealthLake data store.

    Raises
    ------
    ValueError
        If nothing says which region the HealthImaging data store is in.
    """
    settings = pipeline.publish
    region = pipeline.healthimaging.region_name or settings.dicomweb_region
    if region is None:
        raise ValueError("the region of the HealthImaging data store is not known: set healthimaging.region_name")
    return Publishing(
        region=region,
        healthimaging_datastore_id=pipeline.healthimaging.datastore_id,
        healthlake_datastore_id=store.datastore_id,
        issuer_systems=settings.issuer_systems,
        timezone=settings.timezone,
        service_requests=settings.service_requests,
        max_resource_bytes=settings.resource_bytes,
    )
