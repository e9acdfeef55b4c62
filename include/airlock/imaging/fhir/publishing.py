"""The settings of a publication: everything that the resources depend on besides the contracts."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from botocore.endpoint_provider import RuleSetStandardLibrary
from botocore.loaders import Loader

from airlock.pipelines.rules import matches

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.pipelines import HealthLake, ImagingPipeline


@dataclass(frozen=True)
class Publishing:
    """The settings with which a HealthImaging data store's released studies are published to a HealthLake data store.

    Attributes
    ----------
    region
        The region of HealthImaging, part of its DICOMweb address.
    healthimaging_datastore_id
        The data store of the studies; a contract of another one is refused.
    healthlake_datastore_id
        The data store of the resources.
    issuer_systems
        Identifier.system by IssuerOfPatientID. The key "" is for PatientIDs without an issuer: with it they count as
        given by one issuer, without it no two studies share such a patient.
    timezone
        IANA name of the time zone of StudyTime where no header has an offset; with None only StudyDate is published.
    service_requests
        Whether to publish a ServiceRequest stub for each AccessionNumber.
    max_resource_bytes
        An ImagingStudy above it leaves out the instances of its largest series.
    placeholder_ids
        Patterns of PatientIDs that name nobody.
    """

    region: str
    healthimaging_datastore_id: str
    healthlake_datastore_id: str
    issuer_systems: Mapping[str, str]
    timezone: str | None
    service_requests: bool
    max_resource_bytes: int
    placeholder_ids: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for issuer, system in self.issuer_systems.items():
            if system.split() != [system]:
                raise ValueError(f"issuer_systems: {system!r}, for {issuer!r}, is not a URI: write one without spaces")

    def is_placeholder(self, number: str) -> bool:
        """Return whether a PatientID names nobody."""
        return any(matches(pattern, number) for pattern in self.placeholder_ids)

    @property
    def dicomweb_url(self) -> str:
        """The base URL of HealthImaging's DICOMweb service for the data store, for WADO-RS clients.

        Clients append ``/studies/...`` to it, and ``?imageSetId=...`` for an image set that is not the primary one
        (HealthImaging developer guide, "Retrieving DICOM data").
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
    """Return the end of a region's host names, from botocore's list of partitions."""
    partition = RuleSetStandardLibrary(Loader().load_data("partitions")).aws_partition(region)
    return str(partition["dnsSuffix"])


def read_publishing(pipeline: ImagingPipeline, store: HealthLake) -> Publishing:
    """Return a pipeline's settings for the publication of its released studies to a HealthLake data store.

    Raises
    ------
    ValueError
        If no setting names the region of the HealthImaging data store.
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
        placeholder_ids=settings.patient_match.placeholder_ids if settings.patient_match else (),
    )
