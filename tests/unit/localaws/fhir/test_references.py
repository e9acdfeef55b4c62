"""What references lead to."""

from __future__ import annotations

from typing import Any

import pytest

from localaws.fhir.references import known_references, target_type

UUID = "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"
KNOWN = {"#in": "Organization", UUID: "Device"}


@pytest.mark.parametrize(
    ("reference", "target"),
    [
        ({"reference": "Patient/1"}, "Patient"),
        ({"reference": "Patient/1/_history/2"}, "Patient"),
        ({"reference": "https://fhir.example/r4/Patient/1"}, "Patient"),
        ({"reference": "Patient?identifier=x|1"}, "Patient"),
        ({"reference": "Nonsense/1"}, "Nonsense"),
        ({"reference": "https://images.example/studies/1"}, None),
        ({"reference": "#in"}, "Organization"),
        ({"reference": "#other"}, None),
        ({"reference": UUID}, "Device"),
        ({"reference": "urn:uuid:other"}, None),
        ({"reference": "urn:uuid:other", "type": "Group"}, "Group"),
        ({"type": "Patient", "identifier": {"value": "1"}}, "Patient"),
        ({"type": "http://x.example/Logical"}, None),
        ({"display": "somebody"}, None),
        ({"reference": 5, "type": []}, None),
    ],
)
def test_target(reference: dict[str, Any], target: str | None) -> None:
    assert target_type(reference, KNOWN) == target


def test_what_is_inside_is_known() -> None:
    bundle = {
        "resourceType": "Bundle",
        "entry": [{"fullUrl": UUID, "resource": {"resourceType": "Patient"}}, {"resource": 5}, None],
    }
    assert known_references(bundle) == {"#": "Bundle", UUID: "Patient"}
    patient = {"resourceType": "Patient", "contained": [{"resourceType": "Organization", "id": "in"}, {"id": 5}, None]}
    assert known_references(patient) == {"#": "Patient", "#in": "Organization"}
