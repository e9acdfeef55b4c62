"""What the resources depend on besides the contracts."""

from __future__ import annotations

import boto3
import pytest

from airlock.imaging.fhir.publishing import read_publishing
from tests.unit.airlock.clinical.books import SECTIONS
from tests.unit.airlock.imaging.fhir.studies import STORE, publishing
from tests.unit.airlock.world import pipeline


def test_the_dicomweb_address_is_the_one_that_healthimaging_documents() -> None:
    assert publishing().dicomweb_url == f"https://dicom-medical-imaging.eu-west-1.amazonaws.com/datastore/{STORE}"


def test_an_image_set_has_the_address_that_botocore_calls() -> None:
    client = boto3.client("medical-imaging", region_name="eu-west-1")
    operation = client.meta.service_model.operation_model("GetImageSet")
    host = client.meta.endpoint_url.removeprefix("https://")
    path = operation.http["requestUri"].removesuffix("/{imageSetId}/getImageSet").format(datastoreId=STORE)
    assert publishing().image_set_system == f"https://{operation.endpoint['hostPrefix']}{host}{path}"


@pytest.mark.parametrize(
    ("region", "host"),
    [
        ("eu-west-1", "dicom-medical-imaging.eu-west-1.amazonaws.com"),
        ("us-gov-west-1", "dicom-medical-imaging.us-gov-west-1.amazonaws.com"),
        ("cn-north-1", "dicom-medical-imaging.cn-north-1.amazonaws.com.cn"),
    ],
)
def test_studies_are_published_with_the_region_of_their_data_store(region: str, host: str) -> None:
    line = pipeline(healthlake=SECTIONS["healthlake"]).in_region(region)
    assert line.healthlake is not None
    settings = read_publishing(line, line.healthlake)
    assert settings.dicomweb_url == f"https://{host}/datastore/{line.datastore_id}"
    assert settings.image_set_system.startswith(f"https://{host.replace('dicom-', 'runtime-')}/")


def test_without_any_region_nothing_is_published() -> None:
    line = pipeline(healthlake=SECTIONS["healthlake"])
    nowhere = line.model_copy(update={"healthimaging": line.healthimaging.model_copy(update={"region_name": None})})
    assert line.healthlake is not None
    with pytest.raises(ValueError, match=r"is not known: set healthimaging\.region_name"):
        read_publishing(nowhere, line.healthlake)


@pytest.mark.parametrize("system", ["", " ", "urn:x y", "http://x \n"])
def test_a_system_that_is_no_uri_is_refused(system: str) -> None:
    with pytest.raises(ValueError, match=r"issuer_systems: .* for 'NORTH', is not a URI"):
        publishing(issuer_systems={"NORTH": system})
