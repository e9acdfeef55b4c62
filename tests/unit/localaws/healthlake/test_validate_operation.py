"""``$validate``: 200 whatever the verdict, 400 for a malformed request, 404 for what the store does not know."""

from __future__ import annotations

from typing import Any

import pytest

from tests.unit.localaws.healthlake.rest_plane import PATIENT, STUDY, Plane, changed

US_CORE = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"
BAD = changed(PATIENT, gender="M")


def parameters(*items: dict[str, Any], resource: Any = PATIENT) -> dict[str, Any]:
    return {"resourceType": "Parameters", "parameter": [{"name": "resource", "resource": resource}, *items]}


def test_a_good_resource_gets_one_informational_issue(plane: Plane) -> None:
    for body in (PATIENT, parameters()):
        answer = plane.send("POST", "Patient/$validate", body)
        assert answer.status == 200
        (issue,) = answer.body["issue"]
        assert (issue["severity"], issue["code"]) == ("information", "informational")
        assert issue["diagnostics"] == "Validation successful"


def test_a_bad_resource_is_200_too_and_nothing_is_stored(plane: Plane) -> None:
    for path in ("Patient/$validate", "Patient/p1/$validate"):
        answer = plane.send("POST", path, parameters(resource=BAD))
        assert (answer.status, answer.codes) == (200, ["code-invalid"])
        assert answer.body["issue"][0]["severity"] == "error"
    assert plane.get("Patient/p1").status == 404


@pytest.mark.parametrize(
    ("path", "body"),
    [
        (f"Patient/$validate?profile={US_CORE}", changed(PATIENT, name=None)),
        (
            "Patient/$validate",
            parameters({"name": "profile", "valueCanonical": US_CORE}, resource=changed(PATIENT, name=None)),
        ),
    ],
)
def test_a_profile_adds_its_own_rules(plane: Plane, path: str, body: Any) -> None:
    answer = plane.send("POST", path, body)
    assert answer.status == 200
    assert {issue["severity"] for issue in answer.body["issue"]} == {"error"}


@pytest.mark.parametrize("mode", [{"valueString": "update"}, {"valueCode": "update"}])
def test_an_update_needs_an_id_and_a_create_none(plane: Plane, mode: dict[str, str]) -> None:
    nameless = changed(PATIENT, id=None)
    answer = plane.send("POST", "Patient/$validate", parameters({"name": "mode", **mode}, resource=nameless))
    assert (answer.status, answer.codes) == (200, ["required"])
    assert plane.send("POST", "Patient/$validate?mode=update", nameless).codes == ["required"]
    assert plane.send("POST", "Patient/$validate?mode=create", nameless).codes == ["informational"]


def test_another_id_than_in_the_address_is_an_issue(plane: Plane) -> None:
    answer = plane.send("POST", "Patient/p2/$validate", PATIENT)
    assert (answer.status, answer.codes) == (200, ["invalid"])


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("Patient/$validate", b""),
        ("Patient/$validate", b"{"),
        ("Patient/$validate", []),
        ("Patient/$validate", STUDY),
        ("Patient/$validate", changed(PATIENT, resourceType=None)),
        ("Patient/$validate?mode=delete", PATIENT),
        ("Patient/$validate?mode=create&mode=update", PATIENT),
        ("Patient/$validate?level=strict", PATIENT),
        ("Patient/$validate?mode=create", parameters()),
        ("Patient/$validate", parameters({"name": "mode", "valueString": "delete"})),
        ("Patient/$validate", parameters({"name": "mode", "valueString": 1})),
        ("Patient/$validate", parameters({"name": "mode", "valueString": "create", "valueCode": "create"})),
        ("Patient/$validate", parameters({"name": "profile", "valueString": US_CORE})),
        ("Patient/$validate", parameters({"name": "colour", "valueString": "red"})),
        ("Patient/$validate", parameters({"name": "resource", "resource": PATIENT})),
        ("Patient/$validate", parameters({"name": []})),
        ("Patient/$validate", parameters(resource=7)),
        ("Patient/$validate", {"resourceType": "Parameters"}),
        ("Patient/$validate", {"resourceType": "Parameters", "parameter": [{"name": "resource"}]}),
    ],
)
def test_a_malformed_request_is_400(plane: Plane, path: str, body: Any) -> None:
    assert plane.send("POST", path, body).status == 400


def test_an_unknown_type_or_profile_is_404(plane: Plane) -> None:
    assert plane.send("POST", "Starship/$validate", PATIENT).status == 404
    assert plane.send("POST", "Patient/$validate?profile=http://example.org/none", PATIENT).status == 404


def test_it_is_as_deep_as_strict_whatever_the_header_says(plane: Plane) -> None:
    answer = plane.send("POST", "Patient/$validate", BAD, x_amzn_healthlake_fhir_validation_level="minimal")
    assert answer.codes == ["code-invalid"]
