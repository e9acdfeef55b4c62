"""The endpoint as a whole: which action a call is, and what every wrong call gets."""

from __future__ import annotations

import json

import pytest

from tests.unit.localaws.healthlake.rest_plane import OBSERVATION, PATIENT, Plane


@pytest.mark.parametrize(
    ("method", "path", "action"),
    [
        ("GET", "metadata", "GetCapabilities"),
        ("POST", "", "ProcessBundle"),
        ("GET", "Patient/p1", "ReadResource"),
        ("GET", "Patient/p1/_history", "GetHistoryByResourceId"),
        ("GET", "Patient/p1/_history/1", "VersionReadResource"),
        ("GET", "Patient?family=Doe", "SearchWithGet"),
        ("POST", "Patient/_search", "SearchWithPost"),
        ("POST", "Patient", "CreateResource"),
        ("PUT", "Patient/p1", "UpdateResource"),
        ("PUT", "Patient?_id=p1", "UpdateResource"),
        ("DELETE", "Patient/p1", "DeleteResource"),
        ("POST", "Patient/$validate", "ValidateResource"),
        ("POST", "Patient/p1/$validate", "ValidateResource"),
        ("POST", "Patient/%24validate", "ValidateResource"),
        ("GET", "Transaction/t1", "ReadResource"),
        ("GET", "Patient/p1/$everything", "UnknownInteraction"),
        ("PATCH", "Patient/p1", "UnknownInteraction"),
    ],
)
def test_actions_have_aws_s_names(plane: Plane, method: str, path: str, action: str) -> None:
    assert plane.endpoint.operation(plane.call(method, path)) == action


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "Starship", 404),
        ("GET", "Starship/1", 404),
        ("PUT", "Starship/1", 404),
        ("GET", "", 405),
        ("POST", "Patient/p1", 405),
        ("DELETE", "metadata", 405),
        ("HEAD", "Patient/p1", 405),
        ("GET", "Patient/p1/extra", 404),
        ("GET", "Patient/p1/_history/1/2", 404),
        ("GET", "_search", 404),
        ("GET", "Transaction/nothing", 404),
        ("PATCH", "Patient/p1", 501),
        ("GET", "Patient/p1/$everything", 501),
        ("GET", "$export", 501),
        ("GET", "Patient/_history", 501),
        ("GET", "_history", 501),
    ],
)
def test_what_is_no_interaction_is_an_operation_outcome(plane: Plane, method: str, path: str, status: int) -> None:
    answer = plane.send(method, path)
    assert (answer.status, answer.body["resourceType"]) == (status, "OperationOutcome")
    assert answer.headers["content-type"] == "application/fhir+json"
    assert answer.headers["x-amzn-requestid"]


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"a":' * 100_000,
        b'{"resourceType": "Patient", "x": NaN}',
        b'{"resourceType": "Patient", "x": 1e999}',
        b'{"resourceType": "Patient", "x": ' + b"9" * 5000 + b"}",
        b"null",
        b'"Patient"',
    ],
)
def test_a_body_that_is_no_json_object_is_400(plane: Plane, body: bytes) -> None:
    for method, path in (("POST", "Patient"), ("PUT", "Patient/p1"), ("POST", ""), ("POST", "Patient/$validate")):
        assert plane.send(method, path, body).status == 400
    assert plane.send("PUT", "Patient/p1", body, x_amzn_healthlake_fhir_validation_level="minimal").status == 400


def test_a_deep_but_readable_body_is_answered(plane: Plane) -> None:
    for depth in (50, 200, 400, 600, 800, 950):
        nested = (
            b'{"resourceType": "Patient", "id": "p1", "extension": '
            + b'[{"extension":' * depth
            + b"[]"
            + b"}]" * depth
            + b"}"
        )
        for level in ("strict", "minimal"):
            answer = plane.send("PUT", "Patient/p1", nested, x_amzn_healthlake_fhir_validation_level=level)
            assert answer.status in {200, 201, 400}


def test_a_data_store_that_is_not_active_is_not_found(plane: Plane) -> None:
    gone = Plane(plane.state, plane.store, plane.endpoint, "gone")
    assert (gone.get("metadata").status, gone.put(PATIENT).status) == (404, 404)


def test_data_stores_do_not_see_each_other(plane: Plane) -> None:
    plane.put(PATIENT)
    other = plane.other_store()
    assert (other.get("Patient/p1").status, other.get("Patient").ids) == (404, [])


def test_metadata_names_types_and_what_they_are_searched_by(plane: Plane) -> None:
    statement = plane.get("metadata").body
    assert (statement["resourceType"], statement["fhirVersion"]) == ("CapabilityStatement", "4.0.1")
    resources = {item["type"]: item for item in statement["rest"][0]["resource"]}
    assert len(resources) > 140
    names = {item["name"]: item["type"] for item in resources["ImagingStudy"]["searchParam"]}
    assert names["patient"] == "reference"
    assert names["started"] == "date"
    assert "ImagingStudy:endpoint" in resources["ImagingStudy"]["searchInclude"]
    composites = {item["name"] for item in resources["Observation"]["searchParam"]}
    assert "code-value-quantity" not in composites


def test_every_parameter_that_metadata_names_can_be_searched(plane: Plane) -> None:
    values = {"date": "2024", "number": "1", "quantity": "1", "reference": "Patient/p1"}
    for resource in plane.get("metadata").body["rest"][0]["resource"]:
        for parameter in resource["searchParam"]:
            search = f"{resource['type']}?{parameter['name']}={values.get(parameter['type'], 'x')}"
            assert plane.get(search).status == 200, search


def test_surrogates_and_odd_texts_are_stored_and_searched(plane: Plane) -> None:
    body = b'{"resourceType":"Patient","id":"p1","name":[{"family":"\\ud800x"},{"family":7},[[]],null],"birthDate":{}}'
    assert plane.send("PUT", "Patient/p1", body, x_amzn_healthlake_fhir_validation_level="minimal").status in {201, 400}
    assert plane.get("Patient?family=%3Fx").status == 200


@pytest.mark.parametrize("digits", ["100000000000000000000.5", "1.10", "1e2"])
def test_decimals_are_answered_with_the_digits_that_were_sent(plane: Plane, digits: str) -> None:
    text = json.dumps(OBSERVATION).replace("72.5", digits)
    asked = '"request":{"method":"PUT","url":"Observation/o1"}'
    whole = f'{{"resourceType":"Bundle","type":"%s","entry":[{{"resource":{text},{asked}}}]}}'

    def answer(method: str, path: str, body: str = "") -> str:
        response = plane.endpoint.answer(plane.call(method, path, body.encode()))
        assert response.status_code in {200, 201}
        return bytes(response.body).decode()

    value = f'"value":{digits},'
    assert value in answer("PUT", "Observation/o1", text)
    for kind in ("batch", "transaction"):
        assert '"status":"200"' in answer("POST", "", whole % kind)
        assert value in answer("GET", "Observation/o1")
    assert value in answer("GET", "Observation/o1/_history/1")
    assert answer("GET", "Observation/o1/_history").count(value) == 3
    assert value in answer("GET", f"Observation?value-quantity={digits}")
    assert value in answer("GET", "Observation?_elements=valueQuantity")
    assert "error" not in answer("POST", "Observation/$validate", text)
