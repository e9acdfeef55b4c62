"""The tag that says in the data store itself that nobody has reviewed a resource."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airlock.clinical.unreviewed import TAG, add_tag, without_tag

OTHER = {"system": "http://hospital.example/tags", "code": "unreviewed"}


@pytest.mark.parametrize("meta", [None, {}, {"tag": []}, {"tag": [OTHER]}, {"tag": [TAG]}, {"profile": ["p"]}])
def test_a_resource_has_the_tag_once_and_keeps_its_own(meta: dict[str, Any] | None) -> None:
    resource: dict[str, Any] = {"resourceType": "Patient", "id": "p1"} | ({} if meta is None else {"meta": meta})
    tagged = json.loads(add_tag(json.dumps(resource)))
    assert tagged["meta"]["tag"].count(TAG) == 1
    assert (OTHER in tagged["meta"]["tag"]) is (meta is not None and OTHER in meta.get("tag", []))
    assert {name: value for name, value in tagged.items() if name != "meta"} == {"resourceType": "Patient", "id": "p1"}
    assert tagged["meta"].get("profile") == (meta or {}).get("profile")


def test_decimals_keep_their_digits() -> None:
    assert '"value":1.10' in add_tag('{"resourceType": "Observation", "id": "o1", "value": 1.10}')


@pytest.mark.parametrize("meta", [None, {"tag": [OTHER]}, {"profile": ["p"]}])
def test_what_was_added_can_be_taken_away(meta: dict[str, Any] | None) -> None:
    resource: dict[str, Any] = {"resourceType": "Patient", "id": "p1"} | ({} if meta is None else {"meta": meta})
    assert without_tag(json.loads(add_tag(json.dumps(resource)))) == resource
    assert without_tag(resource) == resource
