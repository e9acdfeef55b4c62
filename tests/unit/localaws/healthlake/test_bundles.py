"""Batches and transactions: what stands alone, what stands together, and how large they may be."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from localaws.healthlake.bundles import Limits
from tests.unit.localaws.healthlake.rest_plane import OBSERVATION, PATIENT, STUDY, Answer, Plane, changed

if TYPE_CHECKING:
    from pathlib import Path

URN = "urn:uuid:4f6a30fb-cd3c-4ab6-8757-532101f72065"
BAD = changed(PATIENT, gender="M")


def entry(method: str, url: str, resource: Any = None, full_url: str | None = None, **request: str) -> dict[str, Any]:
    found: dict[str, Any] = {"request": {"method": method, "url": url, **request}}
    if resource is not None:
        found["resource"] = resource
    return found | ({"fullUrl": full_url} if full_url else {})


def bundle(kind: str, *entries: Any) -> dict[str, Any]:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries)}


def statuses(answer: Answer) -> list[str]:
    assert answer.status == 200, answer.body
    return [item["response"]["status"] for item in answer.body["entry"]]


def test_each_entry_of_a_batch_stands_alone(plane: Plane) -> None:
    plane.put(changed(PATIENT, id="old"))
    answer = plane.send(
        "POST",
        "",
        bundle(
            "batch",
            entry("POST", "Patient", PATIENT),
            entry("PUT", "Patient/p1", BAD),
            entry("PUT", "Patient/p1", PATIENT, ifNoneMatch="*"),
            entry("GET", "Patient/old"),
            entry("GET", "Patient?_id=old&_total=accurate"),
            entry("GET", "Patient/nobody"),
            entry("DELETE", "Patient/old", ifMatch='W/"9"'),
            entry("DELETE", "Patient/old"),
            entry("PATCH", "Patient/old"),
            entry("POST", "Patient/$validate", PATIENT),
            {"resource": PATIENT},
            "no entry",
        ),
    )
    expected = ["201", "400", "201", "200", "200", "404", "412", "204", "501", "400", "400", "400"]
    assert statuses(answer) == expected
    assert answer.body["type"] == "batch-response"
    entries = answer.body["entry"]
    assert entries[0]["response"]["location"].endswith("/_history/1")
    assert entries[0]["response"]["etag"] == 'W/"1"'
    assert entries[1]["response"]["outcome"]["issue"][0]["location"] == ["Patient.gender"]
    assert entries[3]["resource"]["id"] == "old"
    assert entries[4]["resource"]["total"] == 1
    assert plane.get("Patient/old").status == 410


def test_a_transaction_resolves_references_between_its_entries(plane: Plane) -> None:
    answer = plane.send(
        "POST",
        "",
        bundle(
            "transaction",
            entry("PUT", "Observation/o1", changed(OBSERVATION, subject={"reference": URN})),
            entry("POST", "Patient", PATIENT, URN),
            entry("PUT", "ImagingStudy/s1", changed(STUDY, subject={"reference": URN}), "urn:uuid:study"),
            entry("POST", "Observation", changed(OBSERVATION, partOf=[{"reference": "urn:uuid:study"}])),
        ),
    )
    assert statuses(answer) == ["201"] * 4
    patient = answer.body["entry"][1]["response"]["location"].removesuffix("/_history/1")
    assert plane.get("Observation/o1").body["subject"]["reference"] == patient
    assert plane.get(f"ImagingStudy?subject={patient}").ids == ["s1"]
    last = answer.body["entry"][3]["response"]["location"].removesuffix("/_history/1")
    assert plane.get(last).body["partOf"] == [{"reference": "ImagingStudy/s1"}]


@pytest.mark.parametrize(
    ("last", "status"),
    [
        (entry("PUT", "Patient/p2", changed(BAD, id="p2")), 400),
        (entry("GET", "Patient/nobody"), 404),
        (entry("PUT", "Patient/p2", changed(PATIENT, id="p2"), ifMatch='W/"1"'), 412),
        (entry("PUT", "Patient?_id=p2", changed(PATIENT, id="p2")), 400),
        (entry("PUT", "Patient/p1", PATIENT), 400),
        (entry("PUT", "Patient/p2", changed(PATIENT, id="p2"), "urn:uuid:1"), 400),
        (entry("PATCH", "Patient/p2", {}), 501),
        (entry("PUT", "https://elsewhere.test/r4/Patient/p2", changed(PATIENT, id="p2")), 400),
        ({"resource": PATIENT}, 400),
    ],
)
def test_a_transaction_is_carried_out_as_a_whole_or_not_at_all(plane: Plane, last: Any, status: int) -> None:
    answer = plane.send("POST", "", bundle("transaction", entry("PUT", "Patient/p1", PATIENT, "urn:uuid:1"), last))
    assert answer.status == status
    assert answer.body["resourceType"] == "OperationOutcome"
    assert plane.get("Patient/p1").status == 404
    assert plane.get("Patient").ids == []


def test_the_outcome_of_a_failed_transaction_names_the_entry(plane: Plane) -> None:
    answer = plane.send(
        "POST", "", bundle("transaction", entry("POST", "Patient", PATIENT), entry("POST", "Patient", BAD))
    )
    assert answer.body["issue"][0]["location"] == ["Bundle.entry[1]", "Patient.gender"]


def test_entries_of_a_transaction_are_processed_in_their_order(plane: Plane) -> None:
    answer = plane.send(
        "POST",
        "",
        bundle(
            "transaction", entry("PUT", "Patient/p1", PATIENT), entry("GET", "Patient/p1"), entry("GET", "Patient/p1")
        ),
    )
    assert statuses(answer) == ["201", "200", "200"]


def test_sizes_are_limited(tmp_path: Path) -> None:
    plane = Plane.open(tmp_path, Limits(batch=3, transaction=2))
    entries = [entry("POST", "Patient", PATIENT)] * 4
    assert plane.send("POST", "", bundle("transaction", *entries[:2])).status == 200
    refused = plane.send("POST", "", bundle("transaction", *entries[:3]))
    assert (refused.status, refused.codes) == (422, ["too-costly"])
    assert "respond-async" in refused.body["issue"][0]["diagnostics"]
    assert plane.send("POST", "", bundle("batch", *entries[:3])).status == 200
    assert plane.send("POST", "", bundle("batch", *entries)).status == 422


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (PATIENT, 400),
        ([], 400),
        (bundle("collection"), 400),
        (bundle("message"), 501),
        ({"resourceType": "Bundle"}, 400),
        ({"resourceType": "Bundle", "type": "batch", "entry": {}}, 400),
        ({"resourceType": "Bundle", "type": ["batch"]}, 400),
    ],
)
def test_what_is_no_batch_or_transaction_is_refused(plane: Plane, body: Any, status: int) -> None:
    assert plane.send("POST", "", body).status == status


def test_an_empty_bundle_is_answered_without_entries(plane: Plane) -> None:
    answer = plane.send("POST", "", {"resourceType": "Bundle", "type": "transaction"})
    assert (answer.status, answer.body["type"]) == (200, "transaction-response")
    assert "entry" not in answer.body


def test_the_level_holds_for_every_entry_and_issues_show_in_entry_and_header(plane: Plane) -> None:
    impossible = changed(PATIENT, birthDate="2024-13-45")
    answer = plane.send(
        "POST",
        "",
        bundle("batch", entry("POST", "Patient", impossible), entry("POST", "Patient", PATIENT)),
        x_amzn_healthlake_fhir_validation_level="minimal",
    )
    assert statuses(answer) == ["201", "201"]
    assert answer.headers["x-amzn-healthlake-validation-issues"] == "true"
    first, second = answer.body["entry"]
    assert first["response"]["outcome"]["resourceType"] == "OperationOutcome"
    assert "outcome" not in second["response"]
    bad_level = plane.send("POST", "", bundle("batch"), x_amzn_healthlake_fhir_validation_level="none")
    assert bad_level.status == 400


class TestConditionalUpdateInABatch:
    """The table of "Conditional PUTs in bundles" in HealthLake's developer guide."""

    def batch(self, plane: Plane, url: str, resource: Any) -> str:
        (status,) = statuses(plane.send("POST", "", bundle("batch", entry("PUT", url, resource))))
        return status

    def test_a_resource_without_id_is_always_created(self, plane: Plane) -> None:
        plane.put(PATIENT)
        assert self.batch(plane, "Patient?_id=p1", changed(PATIENT, id=None)) == "201"
        assert len(plane.get("Patient").ids) == 2

    def test_a_new_id_is_created_and_an_existing_one_updated(self, plane: Plane) -> None:
        assert [self.batch(plane, "Patient?_id=p1", PATIENT) for _ in range(2)] == ["201", "200"]
        assert self.batch(plane, "Patient?_id=p1&_lastUpdated=ge2020", PATIENT) == "200"
        assert self.batch(plane, "Patient?_id=p1&createdAt=ge2020", PATIENT) == "200"

    def test_an_existing_id_that_the_criteria_leave_out_is_a_conflict(self, plane: Plane) -> None:
        plane.put(PATIENT)
        assert self.batch(plane, "Patient?_id=p1&_lastUpdated=lt2020", PATIENT) == "409"

    def test_another_id_than_in_the_criteria_is_refused(self, plane: Plane) -> None:
        assert self.batch(plane, "Patient?_id=p1", changed(PATIENT, id="p2")) == "400"

    @pytest.mark.parametrize("criteria", ["identifier=M1", "_id=p1&identifier=M1", "_id=p1&_tag=a&createdAt=ge2020"])
    def test_other_criteria_are_refused(self, plane: Plane, criteria: str) -> None:
        assert self.batch(plane, f"Patient?{criteria}", PATIENT) == "400"


def test_a_search_by_post_in_a_batch_is_answered_like_one_by_get(plane: Plane) -> None:
    plane.put(PATIENT)
    asked = bundle("batch", entry("POST", "Patient/_search?gender=female"), entry("GET", "Patient?family=\ud800"))
    found, nothing = plane.send("POST", "", asked).body["entry"]
    assert [item["resource"]["id"] for item in found["resource"]["entry"]] == ["p1"]
    assert nothing["response"]["status"] == "200"


def test_a_document_in_a_batch_is_a_resource_like_any_other(plane: Plane) -> None:
    document = {"resourceType": "Bundle", "type": "collection"}
    (created,) = plane.send("POST", "", bundle("batch", entry("POST", "Bundle", document))).body["entry"]
    assert created["response"]["location"].startswith("Bundle/")


def test_an_idempotency_key_of_the_request_is_not_one_of_its_entries(plane: Plane) -> None:
    key = "123e4567-e89b-12d3-a456-426614174000"
    body = bundle("batch", entry("POST", "Patient", PATIENT), entry("POST", "Patient", PATIENT))
    assert statuses(plane.send("POST", "", body, x_amz_fhir_idempotency_key=key)) == ["201", "201"]


def test_urls_may_begin_with_the_data_store_s_own_address(plane: Plane) -> None:
    plane.put(PATIENT)
    base = f"http://healthlake.test/datastore/{plane.datastore_id}/r4"
    urls = [f"{base}/Patient/p1", "/Patient/p1", "Patient/p1"]
    assert statuses(plane.send("POST", "", bundle("batch", *(entry("GET", url) for url in urls)))) == ["200"] * 3


def test_no_value_of_a_resource_stands_in_an_outcome(plane: Plane) -> None:
    body = bundle("batch", entry("PUT", "Patient/p1", changed(BAD, birthDate="secret", name=[{"family": 7}])))
    text = json.dumps(plane.send("POST", "", body).body)
    assert "secret" not in text
