"""What the resources depend on besides the contracts."""

from __future__ import annotations

import boto3
import pytest

from tests.unit.airlock.fhir.studies import STORE, publishing


def test_the_dicomweb_address_is_the_one_that_healthimaging_documents() -> None:
    assert publishing().dicomweb_url == f"https://dicom-medical-imaging.eu-west-1.amazonaws.com/datastore/{STORE}"


def test_an_image_set_has_the_address_that_botocore_calls() -> None:
    client = boto3.client("medical-imaging", region_name="eu-west-1")
    operation = client.meta.service_model.operation_model("GetImageSet")
    host = client.meta.endpoint_url.removeprefix("https://")
    path = operation.http["requestUri"].removesuffix("/{imageSetId}/getImageSet").format(datastoreId=STORE)
    assert publishing().image_set_system == f"https://{operation.endpoint['hostPrefix']}{host}{path}"


@pytest.mark.parametrize("system", ["", " ", "urn:x y", "http://x \n"])
def test_a_system_that_is_no_uri_is_refused(system: str) -> None:
    with pytest.raises(ValueError, match=r"issuer_systems: .* for 'NORTH', is not a URI"):
        publishing(issuer_systems={"NORTH": system})
