"""Where the DICOM of a study can be had."""

from __future__ import annotations

from airlock.imaging.fhir.endpoint import build_endpoints
from tests.unit.airlock.imaging.fhir.studies import publishing, series, study

A, B = "a" * 32, "b" * 32


def test_a_study_has_one_that_names_all_its_image_sets_and_one_for_each() -> None:
    found = list(
        build_endpoints(
            study(series("1.2.1.1", image_set_ids=(B,)), series("1.2.1.2", image_set_ids=(A, B))), publishing()
        )
    )
    assert [[one["value"] for one in item["identifier"]] for item in found] == [[A, B], [A], [B]]
    assert len({item["id"] for item in found}) == 3


def test_the_address_is_the_base_of_the_service_and_no_more() -> None:
    for item in build_endpoints(study(), publishing()):
        assert item["address"] == publishing().dicomweb_url
        assert item["connectionType"]["code"] == "dicom-wado-rs"


def test_with_the_identifier_it_leads_to_the_image_set() -> None:
    first, _ = build_endpoints(study(), publishing())
    (identifier,) = first["identifier"]
    assert f"{identifier['system']}/{identifier['value']}".endswith(f"/imageSet/{A}")


def test_before_image_sets_are_known_the_study_has_one() -> None:
    (only,) = build_endpoints(study(series(image_set_ids=())), publishing())
    assert "identifier" not in only
