"""Released studies as the resources that are imported for them."""

from __future__ import annotations

import json
from itertools import permutations
from typing import Any

import pytest

from airlock.imaging.contracts import StudyContract
from airlock.imaging.fhir.imaging_study import to_ndjson
from airlock.imaging.fhir.study import ForeignStudyError, build_publication, name_resources
from tests.unit.airlock.imaging.fhir.studies import LAKE, publishing, series, study

ONE = study(series("1.2.1.1", 2), series("1.2.1.2", image_set_ids=("b" * 32,)), PatientName="Old^Name")
TWO = study(series("1.2.2.1", image_set_ids=("c" * 32,)), StudyInstanceUID="1.2.2", StudyDate="20250101")
OTHER = study(StudyInstanceUID="1.2.3", PatientID="P2", AccessionNumber=None)
WITH_ORDERS = publishing(service_requests=True)


def counts(resources: list[dict[str, Any]]) -> dict[str, int]:
    types = [one["resourceType"] for one in resources]
    return {name: types.count(name) for name in dict.fromkeys(types)}


def test_a_patient_an_order_and_an_image_set_come_once_a_study_each() -> None:
    found = build_publication([ONE, TWO, OTHER], WITH_ORDERS)
    assert counts(found) == {"Patient": 2, "Endpoint": 7, "ServiceRequest": 1, "ImagingStudy": 3}
    assert len({(one["resourceType"], one["id"]) for one in found}) == len(found)


def test_what_is_referred_to_comes_first() -> None:
    found = [(one["resourceType"], one["id"]) for one in build_publication([ONE, TWO, OTHER], WITH_ORDERS)]
    order = ("Patient", "Endpoint", "ServiceRequest", "ImagingStudy")
    assert found == sorted(found, key=lambda name: (order.index(name[0]), name[1]))


def test_the_same_studies_give_the_same_bytes_in_any_order() -> None:
    written = {
        "\n".join(map(to_ndjson, build_publication(order, WITH_ORDERS))) for order in permutations((ONE, TWO, OTHER))
    }
    assert len(written) == 1


def test_a_contract_gives_the_same_bytes_after_it_was_stored() -> None:
    again = StudyContract.model_validate_json(ONE.to_json())
    assert [to_ndjson(one) for one in build_publication([again], WITH_ORDERS)] == [
        to_ndjson(one) for one in build_publication([ONE], WITH_ORDERS)
    ]


def test_of_two_revisions_the_later_counts() -> None:
    later = ONE.model_copy(update={"revision": 2, "StudyDescription": "later"})
    for contracts in ([later, ONE], [ONE, later]):
        (found,) = [one for one in build_publication(contracts, publishing()) if one["resourceType"] == "ImagingStudy"]
        assert found["description"] == "later"


def test_every_reference_leads_to_a_resource_of_the_same_publication() -> None:
    found = build_publication([ONE, TWO, OTHER], WITH_ORDERS)
    there = {f"{one['resourceType']}/{one['id']}" for one in found}
    meant = set(_references(found))
    assert meant <= there
    assert there - meant == {name for name in there if name.startswith("ImagingStudy/")}


def _references(value: Any) -> list[str]:
    if isinstance(value, list):
        return [name for one in value for name in _references(one)]
    if isinstance(value, dict):
        own = [value["reference"]] if "reference" in value else []
        return own + [name for one in value.values() for name in _references(one)]
    return []


@pytest.mark.parametrize("settings", [publishing(), WITH_ORDERS])
@pytest.mark.parametrize("contract", [ONE, OTHER])
def test_references_name_what_is_published(contract: StudyContract, settings: Any) -> None:
    names = name_resources(contract, settings)
    assert names["datastore_id"] == LAKE
    found = {f"{one['resourceType']}/{one['id']}" for one in build_publication([contract], settings)}
    order = {names["ServiceRequest"]} if names["ServiceRequest"] else set()
    assert {names["Patient"], names["ImagingStudy"], *names["Endpoint"]} | order == found


def test_the_first_endpoint_is_the_studys() -> None:
    (found,) = [one for one in build_publication([ONE], publishing()) if one["resourceType"] == "ImagingStudy"]
    assert found["endpoint"] == [{"reference": name_resources(ONE, publishing())["Endpoint"][0]}]


def test_nothing_is_published_of_nothing() -> None:
    assert build_publication([], publishing()) == []


def test_a_study_of_another_store_is_refused_without_a_word_about_the_patient() -> None:
    elsewhere = study(datastore_id="f" * 32)
    for refused in (
        lambda: build_publication([elsewhere], publishing()),
        lambda: name_resources(elsewhere, publishing()),
    ):
        with pytest.raises(ForeignStudyError, match=elsewhere.study_key) as caught:
            refused()
        assert not [value for value in ("P1", "Doe", "1.2.1", "A1") if value in str(caught.value)]


def test_a_line_is_one_line_whatever_the_text() -> None:
    hostile = study(StudyDescription='a\nb\u2028c\x85d"e\\', PatientName="a\r\nb^\u2029")
    for one in build_publication([hostile], publishing()):
        assert to_ndjson(one).splitlines() == [to_ndjson(one)]
        assert json.loads(to_ndjson(one)) == one
