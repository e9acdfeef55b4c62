"""A Bundle taken apart: a row per entry, ids from where the entry gives them, nothing that asks for something else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airlock.clinical.bundles import TYPES, explode, is_bundle
from airlock.clinical.resources import load
from tests.unit.airlock.clinical.books import observation, patient
from tests.unit.airlock.clinical.world import bundle, entry

UUID = "11111111-2222-4333-8444-aaaaaaaaaaaa"
LIMIT = 10_000


def rows(content: Any, limit: int = LIMIT) -> list[dict[str, Any]]:
    return list(explode(load(json.dumps(content).encode()), limit))


def one(*args: Any, **named: Any) -> dict[str, Any]:
    (row,) = rows(bundle("transaction", entry(*args, **named)))
    return row


def nameless(**more: Any) -> dict[str, Any]:
    return {"resourceType": "Patient", "active": True} | more


@pytest.mark.parametrize("kind", TYPES)
def test_a_row_per_entry_in_their_order(kind: str) -> None:
    found = rows(bundle(kind, entry(patient("p1")), entry(observation("o1", "p1")), entry(patient("p2"))))
    assert [row["resource_id"] for row in found] == ["p1", "o1", "p2"]
    assert not any(row.get("reason") for row in found)


@pytest.mark.parametrize("kind", ["history", "message", "transaction-response", "nonsense", "", None])
def test_a_kind_that_stores_nothing_is_one_row(kind: str | None) -> None:
    (row,) = rows(bundle(kind, entry(patient("p1")), entry(patient("p2"))))
    assert row["reason"] == "unsupported_entry"
    assert row["detail"] == "Bundle.type is not one of transaction, batch, collection, searchset, document"


@pytest.mark.parametrize("entries", [None, {}, "two"])
def test_entries_that_are_no_list_are_one_row(entries: Any) -> None:
    (row,) = rows({"resourceType": "Bundle", "type": "batch", "entry": entries})
    assert row["reason"] == "unsupported_entry"


@pytest.mark.parametrize("nothing", [None, 7, "x", [], {}, {"resource": None}, {"resource": "Patient/p1"}])
def test_an_entry_without_a_resource_is_its_own_row_alone(nothing: Any) -> None:
    first, second = rows(bundle("batch", nothing, entry(patient("p1"))))
    assert (first["reason"], first["detail"]) == ("unsupported_entry", "an entry without a resource")
    assert second["resource_id"] == "p1"


@pytest.mark.parametrize("method", ["POST", "PUT"])
def test_what_is_to_be_stored_comes_in(method: str) -> None:
    assert one(patient("p1"), method=method, url="Patient/p1").get("reason") is None


@pytest.mark.parametrize("method", ["DELETE", "GET", "PATCH", "HEAD", "put", "", 7, None])
def test_what_is_not_to_be_stored_stays_out(method: Any) -> None:
    asked = {"method": method, "url": "Patient/p1"}
    (row,) = rows(bundle("transaction", {"resource": patient("p1"), "request": asked}))
    assert (row["reason"], row["detail"]) == ("unsupported_entry", "request.method is neither POST nor PUT")


@pytest.mark.parametrize("asked", [None, [], "PUT Patient/p1"])
def test_a_request_that_is_no_object_stays_out(asked: Any) -> None:
    (row,) = rows(bundle("batch", {"resource": patient("p1"), "request": asked}))
    assert (row["reason"], row["detail"]) == ("unsupported_entry", "request is not an object")


@pytest.mark.parametrize("method", ["POST", "PUT"])
@pytest.mark.parametrize("condition", ["ifNoneExist", "ifMatch", "ifNoneMatch", "ifModifiedSince"])
def test_an_entry_under_a_condition_is_refused_since_an_import_would_ignore_it(condition: str, method: str) -> None:
    asked = {"method": method, "url": "Patient" if method == "POST" else "Patient/p1", condition: 'W/"1"'}
    (row,) = rows(bundle("transaction", {"resource": patient("p1"), "request": asked}))
    assert (row["reason"], row["detail"]) == ("unsupported_entry", f"request.{condition} is a condition")
    assert "resource_id" not in row


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("PUT", "Patient?identifier=s|1"),
        ("PUT", "Patient?_id=p1"),
        ("POST", "Patient?identifier=s|1"),
        ("PUT", "Patient/p1?_id=p1"),
    ],
)
def test_an_update_of_what_a_search_finds_is_refused(method: str, url: str) -> None:
    row = one(patient("p1"), method=method, url=url)
    assert (row["reason"], row["detail"]) == ("unsupported_entry", "request.url is a search")


@pytest.mark.parametrize(
    ("method", "url", "detail"),
    [
        ("POST", "Observation", "request.url has another type than the resource"),
        ("PUT", "Observation/p1", "request.url has another type than the resource"),
        ("PUT", "http://there/fhir/Patient/p1", "request.url has another type than the resource"),
        ("POST", "", "request.url has another type than the resource"),
        ("POST", None, "request.url has another type than the resource"),
        ("PUT", ["Patient/p1"], "request.url has another type than the resource"),
        ("PUT", "Patient/p2", "request.url has another id than the resource"),
        ("PUT", "Patient", "request.url has another id than the resource"),
        ("PUT", "Patient/", "request.url has another id than the resource"),
        ("PUT", "Patient/p1/_history/2", "request.url has another id than the resource"),
        ("POST", "Patient/p2", "request.url has another id than the resource"),
        ("POST", "Patient/$validate", "request.url has another id than the resource"),
        ("POST", "Patient/_search", "request.url has another id than the resource"),
    ],
)
def test_an_entry_for_another_resource_than_its_own_is_refused(method: str, url: Any, detail: str) -> None:
    row = one(patient("p1"), method=method, url=url)
    assert (row["reason"], row["detail"]) == ("unsupported_entry", detail)


@pytest.mark.parametrize("url", ["Patient", "/Patient", "Patient/p1"])
def test_a_resource_that_is_to_be_created_keeps_its_own_id(url: str) -> None:
    assert one(patient("p1"), f"urn:uuid:{UUID}", "POST", url)["resource_id"] == "p1"


@pytest.mark.parametrize(
    ("resource", "full_url", "method", "url", "name"),
    [
        (patient("own"), f"urn:uuid:{UUID}", "PUT", "Patient/own", "own"),
        (nameless(), f"urn:uuid:{UUID}", "PUT", "Patient/of-url", "of-url"),
        (nameless(), None, "PUT", "/Patient/of-url", "of-url"),
        (nameless(), f"urn:uuid:{UUID}", "POST", "Patient", UUID),
        (nameless(), f"URN:UUID:{UUID.upper()}", "POST", "Patient", UUID),
        (nameless(), f"urn:uuid:{UUID}", None, "", UUID),
    ],
)
def test_the_id_is_the_resources_own_or_what_the_entry_says(
    resource: Any, full_url: str, method: str | None, url: str, name: str
) -> None:
    row = one(resource, full_url, method, url)
    assert (row["resource_id"], row["full_url"]) == (name, full_url)
    assert json.loads(row["body"])["id"] == name


@pytest.mark.parametrize(
    ("resource", "full_url", "reason"),
    [
        (nameless(), None, "missing_resource_id"),
        (nameless(), "http://there/fhir/Patient", "missing_resource_id"),
        (nameless(), "urn:uuid:", "missing_resource_id"),
        (nameless(), "urn:uuid:a b", "missing_resource_id"),
        (nameless(id=None), f"urn:uuid:{UUID}", "missing_resource_id"),
        (nameless(id="a b"), f"urn:uuid:{UUID}", "invalid_resource_id"),
    ],
)
def test_without_an_id_it_cannot_be_kept(resource: Any, full_url: str | None, reason: str) -> None:
    assert one(resource, full_url)["reason"] == reason


def test_the_same_bundle_gives_the_same_ids_and_digests_again() -> None:
    content = bundle("transaction", entry(nameless(), f"urn:uuid:{UUID}", "POST", "Patient"))
    assert rows(content) == rows(content)


def test_decimals_keep_their_digits() -> None:
    weight = '{"resourceType":"Observation","id":"o1","valueDecimal":7.10}'
    text = f'{{"resourceType":"Bundle","type":"batch","entry":[{{"resource":{weight}}}]}}'
    (row,) = explode(load(text.encode()), LIMIT)
    assert row["body"] == weight


def test_an_entry_that_is_too_large_is_its_own_row_alone() -> None:
    first, second = rows(bundle("batch", entry(patient("p1", note="x" * 500)), entry(patient("p2"))), limit=400)
    assert first["reason"] == "resource_too_large"
    assert second["resource_id"] == "p2"


def test_a_bundle_is_told_by_its_type_alone() -> None:
    assert is_bundle({"resourceType": "Bundle"})
    assert not any(is_bundle(other) for other in ({"resourceType": "Patient"}, [], None, "Bundle", {"type": "batch"}))
