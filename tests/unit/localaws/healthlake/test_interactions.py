"""Create, read, update, delete and history: the statuses that HealthLake documents, and those that were observed."""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

import pytest

from tests.unit.localaws.healthlake.rest_plane import PATIENT, STUDY, Clock, Plane, changed

if TYPE_CHECKING:
    from pathlib import Path

BAD = changed(PATIENT, gender="M", birthDate="2024-13-45")


def test_a_created_resource_gets_an_id_and_no_location(plane: Plane) -> None:
    answer = plane.send("POST", "Patient", PATIENT)
    assert (answer.status, answer.headers["etag"]) == (201, 'W/"1"')
    assert "location" not in answer.headers
    assert answer.headers["content-type"] == "application/fhir+json"
    assert uuid.UUID(answer.body["id"])
    assert plane.get(f"Patient/{answer.body['id']}").body == answer.body


def test_an_update_creates_then_updates(plane: Plane) -> None:
    assert [plane.put(PATIENT).status for _ in range(2)] == [201, 200]
    read = plane.get("Patient/p1")
    assert (read.status, read.headers["etag"], read.body["meta"]["versionId"]) == (200, 'W/"2"', "2")
    assert read.headers["last-modified"].endswith("GMT")


def test_a_deleted_resource_is_gone_but_its_versions_are_not(plane: Plane) -> None:
    plane.put(PATIENT)
    assert [plane.send("DELETE", "Patient/p1").status for _ in range(2)] == [204, 204]
    assert (plane.get("Patient/p1").status, plane.get("Patient/p1").codes) == (410, ["deleted"])
    assert plane.get("Patient/p1/_history/1").body["gender"] == "female"
    assert plane.get("Patient/p1/_history/2").status == 410
    assert plane.put(PATIENT).status == 201
    entries = plane.get("Patient/p1/_history").body["entry"]
    assert [entry["request"]["method"] for entry in entries] == ["PUT", "DELETE", "PUT"]
    assert [entry["response"]["etag"] for entry in entries] == ['W/"3"', 'W/"2"', 'W/"1"']


@pytest.mark.parametrize(
    "path", ["Patient/p1", "Patient/p1/_history", "Patient/p1/_history/1", "Patient/p1/_history/x"]
)
def test_what_never_was_is_not_found(plane: Plane, path: str) -> None:
    assert (plane.get(path).status, plane.get(path).codes) == (404, ["not-found"])
    assert plane.send("DELETE", "Patient/p1").status == 404


def test_the_parameters_of_a_history_are_refused(plane: Plane) -> None:
    plane.put(PATIENT)
    assert plane.get("Patient/p1/_history?_since=2024").status == 400


def test_if_match_lets_only_the_current_version_be_changed(plane: Plane) -> None:
    assert plane.put(PATIENT, if_match='W/"1"').status == 412
    plane.put(PATIENT)
    assert plane.put(PATIENT, if_match='W/"1"').status == 200
    assert plane.put(PATIENT, if_match='W/"1"').status == 412
    assert plane.send("DELETE", "Patient/p1", if_match='W/"1"').status == 412
    assert plane.put(PATIENT, if_match="1").status == 400
    assert plane.send("DELETE", "Patient/p1", if_match='W/"2"').status == 204


def test_if_none_match_refuses_a_taken_id_even_a_deleted_one(plane: Plane) -> None:
    assert plane.put(PATIENT, if_none_match="*").status == 201
    assert plane.put(PATIENT, if_none_match="*").status == 412
    plane.send("DELETE", "Patient/p1")
    assert plane.put(PATIENT, if_none_match="*").status == 412
    assert plane.put(PATIENT, if_none_match='W/"1"').status == 400


def test_an_idempotency_key_creates_once_and_names_what_it_created(plane: Plane) -> None:
    key = str(uuid.uuid4()).upper()
    first = plane.send("POST", "Patient", PATIENT, x_amz_fhir_idempotency_key=key)
    again = plane.send("POST", "Patient", PATIENT, x_amz_fhir_idempotency_key=key.lower())
    assert (first.status, again.status, again.codes) == (201, 409, ["duplicate"])
    assert again.headers["location"].endswith(f"/r4/Patient/{first.body['id']}")
    assert len(plane.get("Patient").ids) == 1
    other = plane.other_store().send("POST", "Patient", PATIENT, x_amz_fhir_idempotency_key=key)
    assert other.status == 201
    assert plane.send("POST", "Patient", PATIENT, x_amz_fhir_idempotency_key="1").status == 400


def test_a_refused_create_does_not_use_up_its_idempotency_key(plane: Plane) -> None:
    key = str(uuid.uuid4())
    assert plane.send("POST", "Patient", BAD, x_amz_fhir_idempotency_key=key).status == 400
    assert plane.send("POST", "Patient", PATIENT, x_amz_fhir_idempotency_key=key).status == 201


def test_if_none_exist_is_refused_rather_than_passed_over(plane: Plane) -> None:
    assert plane.send("POST", "Patient", PATIENT, if_none_exist="identifier=M1").status == 400


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("Patient/p2", PATIENT),
        ("Patient/p1", changed(PATIENT, id=None)),
        ("Patient/p_1", changed(PATIENT, id="p_1")),
        (f"Patient/{'p' * 65}", changed(PATIENT, id="p" * 65)),
        ("Patient/p1", changed(STUDY, id="p1")),
        ("Patient/p1", [PATIENT]),
        ("Patient/p1", changed(PATIENT, resourceType=None)),
        ("Patient", PATIENT),
    ],
)
def test_an_update_whose_body_and_address_disagree_is_refused(plane: Plane, path: str, body: Any) -> None:
    assert plane.send("PUT", path, body).status == 400
    assert plane.get("Patient").ids == []


def test_a_resource_that_breaks_the_rules_is_refused_with_what_is_wrong_and_no_values(plane: Plane) -> None:
    answer = plane.put(BAD)
    assert answer.status == 400
    assert {issue["location"][0] for issue in answer.body["issue"]} == {"Patient.gender", "Patient.birthDate"}
    assert "2024-13-45" not in json.dumps(answer.body)
    assert plane.get("Patient/p1").status == 404


def test_minimal_stores_it_with_a_mark_and_says_so_in_a_header(plane: Plane) -> None:
    answer = plane.put(BAD, x_amzn_healthlake_fhir_validation_level="minimal")
    assert (answer.status, answer.headers["x-amzn-healthlake-validation-issues"]) == (201, "true")
    (mark,) = plane.get("Patient/p1").body["extension"]
    assert mark["url"] == "http://healthlake.amazonaws.com/fhir/StructureDefinition/validation-issue"
    assert json.loads(mark["valueString"])["resourceType"] == "OperationOutcome"
    good = plane.put(changed(answer.body, gender="male", birthDate="1970-01-02"))
    assert "extension" not in good.body
    assert "x-amzn-healthlake-validation-issues" not in good.headers


def test_structure_only_passes_over_profiles_that_strict_refuses(plane: Plane) -> None:
    profiled = changed(PATIENT, meta={"profile": ["http://example.org/StructureDefinition/of-nobody"]})
    assert plane.put(profiled).status == 400
    assert plane.put(profiled, x_amzn_healthlake_fhir_validation_level="structure-only").status == 201


@pytest.mark.parametrize(
    "headers",
    [
        {"x_amzn_healthlake_fhir_validation_level": "lenient"},
        {"x_amz_healthlake_fhir_validation_level": "minimal"},
    ],
)
def test_an_unknown_level_or_a_misspelt_header_is_refused(plane: Plane, headers: dict[str, str]) -> None:
    answer = plane.put(PATIENT, **headers)
    assert answer.status == 400
    assert "x-amzn-healthlake-fhir-validation-level" in answer.body["issue"][0]["diagnostics"]


class TestConditionalUpdate:
    """The table of "Updating FHIR resources based on conditions" in HealthLake's developer guide."""

    CRITERIA = "Patient?identifier=urn:example:mrn|M1"

    def test_no_match_and_no_id_creates(self, plane: Plane) -> None:
        answer = plane.send("PUT", self.CRITERIA, changed(PATIENT, id=None))
        assert answer.status == 201
        assert uuid.UUID(answer.body["id"])

    def test_no_match_and_a_new_id_creates_under_it(self, plane: Plane) -> None:
        answer = plane.send("PUT", self.CRITERIA, PATIENT)
        assert (answer.status, answer.body["id"]) == (201, "p1")

    def test_no_match_and_a_taken_id_is_a_conflict(self, plane: Plane) -> None:
        plane.put(changed(PATIENT, identifier=None))
        assert plane.send("PUT", self.CRITERIA, PATIENT).status == 409

    @pytest.mark.parametrize("given", [None, "p1"])
    def test_one_match_is_updated(self, plane: Plane, given: str | None) -> None:
        plane.put(PATIENT)
        answer = plane.send("PUT", self.CRITERIA, changed(PATIENT, id=given))
        assert (answer.status, answer.body["id"], answer.body["meta"]["versionId"]) == (200, "p1", "2")

    def test_one_match_with_another_id_is_a_conflict(self, plane: Plane) -> None:
        plane.put(PATIENT)
        assert plane.send("PUT", self.CRITERIA, changed(PATIENT, id="p2")).status == 409

    def test_more_matches_are_not_selective_enough(self, plane: Plane) -> None:
        plane.put(PATIENT)
        plane.put(changed(PATIENT, id="p2"))
        assert plane.send("PUT", self.CRITERIA, PATIENT).status == 412

    def test_what_is_not_indexed_yet_is_no_match(self, tmp_path: Path) -> None:
        plane = Plane.open(tmp_path, search_lag=20.0, clock=Clock())
        plane.put(PATIENT)
        assert plane.send("PUT", self.CRITERIA, changed(PATIENT, id=None)).status == 201

    @pytest.mark.parametrize("given", ["p_1", 7])
    def test_a_bad_id_is_refused(self, plane: Plane, given: Any) -> None:
        assert plane.send("PUT", self.CRITERIA, changed(PATIENT, id=given)).status == 400
