"""What becomes of one line."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localaws.faults import Fault
from localaws.fhir import Level, Validator
from localaws.healthlake.judgement import Judge, Judgement
from localaws.healthlake.ndjson import Line

VALIDATOR = Validator()
PATIENT = {"resourceType": "Patient", "id": "p1"}
ODD = {**PATIENT, "birthDate": "19700102"}
ISSUE = "http://healthlake.amazonaws.com/fhir/StructureDefinition/validation-issue"


def judged(body: bytes | dict[str, Any] | None, level: Level = Level.STRICT, *faults: Fault) -> Judgement:
    text = json.dumps(body).encode() if isinstance(body, dict) else body
    return Judge(VALIDATOR, level, faults, "in/a.ndjson").judge(Line(1, text, len(text or b"")))


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (None, "The line has 0 bytes, which is too long"),
        (b"{", "The line is not valid JSON"),
        (b"\xff{}", "The line is not valid JSON"),
        (b"\xef\xbb\xbf{}", "The line is not valid JSON"),
        (b'{"a": NaN}', "The line is not valid JSON"),
        (b'{"a": 1e999}', "The line is not valid JSON"),
        (b'{"a": 1e-99999999999999999999}', "The line is not valid JSON"),
        (b"[" * 100_000, "The line is not valid JSON"),
        (b"[]", "The line is not a JSON object"),
        (b'"Patient"', "The line is not a JSON object"),
        (b"null", "The line is not a JSON object"),
    ],
)
def test_what_is_no_resource_is_unreadable(body: bytes | None, message: str) -> None:
    verdict = judged(body)
    assert (verdict.outcome, verdict.message, verdict.resource) == ("unreadable", message, None)


@pytest.mark.parametrize(
    "resource",
    [
        {"resourceType": "Patient"},
        {"id": "p1"},
        {"resourceType": "Pacient", "id": "p1"},
        {"resourceType": 5, "id": "p1"},
        {"resourceType": "Patient", "id": 5},
        {"resourceType": "Patient", "id": "a/b"},
        {"resourceType": "Patient", "id": "x" * 65},
    ],
)
@pytest.mark.parametrize("level", list(Level))
def test_a_resource_without_a_name_is_refused_at_every_level(resource: dict[str, Any], level: Level) -> None:
    verdict = judged(resource, level)
    assert (verdict.outcome, verdict.resource) == ("rejected", None)
    assert verdict.issues


def test_a_good_resource_is_stored_as_it_came() -> None:
    verdict = judged(PATIENT)
    assert (verdict.outcome, verdict.resource_type, verdict.resource_id) == ("imported", "Patient", "p1")
    assert verdict.resource == PATIENT


def test_a_control_character_is_refused_but_at_minimal() -> None:
    odd = {**PATIENT, "name": [{"family": "a\x01b"}]}
    outcomes = {level: judged(odd, level).outcome for level in Level}
    assert outcomes == {Level.STRICT: "rejected", Level.STRUCTURE_ONLY: "rejected", Level.MINIMAL: "flagged"}


@pytest.mark.parametrize(("level", "outcome"), [("strict", "rejected"), ("structure-only", "rejected")])
def test_a_resource_of_the_wrong_structure_is_refused(level: str, outcome: str) -> None:
    assert judged(ODD, Level(level)).outcome == outcome


def test_minimal_stores_it_with_what_is_wrong() -> None:
    verdict = judged(ODD, Level.MINIMAL)
    assert verdict.outcome == "flagged"
    assert verdict.resource is not None
    (extension,) = verdict.resource["extension"]
    assert extension["url"] == ISSUE
    assert json.loads(extension["valueString"])["issue"][0]["location"] == ["Patient.birthDate"]


@pytest.mark.parametrize(
    ("fault", "outcome"),
    [
        (Fault("all_resources_rejected"), "rejected"),
        (Fault("all_resources_rejected", key="Patient/p*"), "rejected"),
        (Fault("all_resources_rejected", key="Observation/*"), "imported"),
        (Fault("all_files_rejected", key="in/*"), "rejected"),
        (Fault("all_files_rejected", key="out/*"), "imported"),
        (Fault("server_error_on_resources", key="Patient/p1"), "server_error"),
        (Fault("server_error_on_files"), "server_error"),
        (Fault("server_error_on_resources", share=0), "imported"),
        (Fault("cancelled", key="Patient/*"), "unreached"),
        (Fault("cancelled", key="Observation/*"), "imported"),
        (Fault("manifest_late"), "imported"),
    ],
)
def test_a_fault_touches_whom_it_is_meant_for(fault: Fault, outcome: str) -> None:
    assert judged(PATIENT, Level.STRICT, fault).outcome == outcome


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=10,
)


@given(JSON | st.dictionaries(st.sampled_from(["resourceType", "id", "meta", "extension", "name"]), JSON))
def test_no_line_raises(document: Any) -> None:
    body = json.dumps(document).encode()
    for level in Level:
        assert judged(body, level).outcome in {"imported", "flagged", "rejected", "unreadable"}
