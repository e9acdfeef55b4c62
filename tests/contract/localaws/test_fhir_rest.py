"""The FHIR REST plane over HTTP, signed as botocore signs: what a client of a data store can rely on."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.httpsession import URLLib3Session

from tests.contract.localaws.endpoint import until
from tests.contract.localaws.healthlake import ndjson

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from tests.contract.localaws.healthlake import HealthLakeEndpoint

FHIR = {"content-type": "application/fhir+json"}
SYSTEM = "urn:contract"


@dataclass
class Answer:
    status: int
    headers: Mapping[str, str]
    body: Any

    @property
    def ids(self) -> list[str]:
        return [item["resource"]["id"] for item in self.body.get("entry", []) if item["search"]["mode"] == "match"]


@dataclass
class Fhir:
    """A client of one data store; `run` marks the resources of this session."""

    base: str
    sign: Callable[[AWSRequest], None]
    run: str

    def send(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        url = path if path.startswith(self.base) else self.base + path
        named = {**FHIR, **{name.replace("_", "-"): text for name, text in headers.items()}}
        request = AWSRequest(method, url, named, data=None if body is None else json.dumps(body))
        self.sign(request)
        response = URLLib3Session().send(request.prepare())
        return Answer(response.status_code, response.headers, json.loads(response.content or b"null"))

    def put(self, resource: dict[str, Any], **headers: str) -> Answer:
        return self.send("PUT", f"{resource['resourceType']}/{resource['id']}", resource, **headers)

    def patient(self, **elements: Any) -> dict[str, Any]:
        """Return a patient with an id of its own."""
        identifier = [{"system": SYSTEM, "value": self.run}]
        return {"resourceType": "Patient", "id": uuid.uuid4().hex, "identifier": identifier, **elements}


@pytest.fixture(scope="module")
def fhir(healthlake: HealthLakeEndpoint) -> Fhir:
    client = healthlake.client
    described = client.describe_fhir_datastore(DatastoreId=healthlake.datastore_id)
    auth = SigV4Auth(client._request_signer._credentials, "healthlake", client.meta.region_name)
    return Fhir(described["DatastoreProperties"]["DatastoreEndpoint"], auth.add_auth, uuid.uuid4().hex)


def test_an_unsigned_request_is_401(fhir: Fhir) -> None:
    unsigned = Fhir(fhir.base, lambda _request: None, fhir.run)
    assert unsigned.send("GET", "Patient/x").status == 401


def test_a_resource_lives_in_versions(fhir: Fhir) -> None:
    patient = fhir.patient(gender="female")
    path = f"Patient/{patient['id']}"
    assert [fhir.put(patient).status, fhir.put(patient, if_match='W/"1"').status] == [201, 200]
    read = fhir.send("GET", path)
    assert (read.status, read.headers["etag"], read.body["gender"]) == (200, 'W/"2"', "female")
    assert fhir.put(patient, if_match='W/"1"').status == 412
    assert fhir.send("DELETE", path).status == 204
    assert fhir.send("GET", path).status == 410
    assert fhir.send("GET", f"{path}/_history/1").body["meta"]["versionId"] == "1"
    assert fhir.put(patient, if_none_match="*").status == 412
    history = until(lambda: fhir.send("GET", f"{path}/_history").body, lambda body: len(body.get("entry", ())) == 3)
    assert history["entry"][0]["request"]["method"] == "DELETE"


def test_a_create_is_repeated_without_a_second_resource(fhir: Fhir) -> None:
    key, patient = str(uuid.uuid4()), fhir.patient()
    del patient["id"]
    first = fhir.send("POST", "Patient", patient, x_amz_fhir_idempotency_key=key)
    again = fhir.send("POST", "Patient", patient, x_amz_fhir_idempotency_key=key)
    assert (first.status, first.headers["etag"], again.status) == (201, 'W/"1"', 409)
    assert "location" not in first.headers
    assert again.headers["location"].endswith(f"Patient/{first.body['id']}")
    assert again.body["issue"][0]["code"] == "duplicate"


def test_a_resource_is_refused_by_level_and_judged_by_validate(fhir: Fhir) -> None:
    bad = fhir.patient(birthDate="2024-13-45")
    refused = fhir.put(bad)
    assert (refused.status, refused.body["resourceType"]) == (400, "OperationOutcome")
    verdict = fhir.send("POST", "Patient/$validate", bad)
    assert verdict.status == 200
    assert {issue["severity"] for issue in verdict.body["issue"]} & {"error", "fatal"}
    good = fhir.send("POST", "Patient/$validate", fhir.patient())
    assert [issue["code"] for issue in good.body["issue"]] == ["informational"]
    kept = fhir.put(bad, x_amzn_healthlake_fhir_validation_level="minimal")
    assert (kept.status, kept.headers["x-amzn-healthlake-validation-issues"]) == (201, "true")


def test_a_search_is_followed_through_links_whose_equals_signs_must_be_encoded(fhir: Fhir) -> None:
    mark = uuid.uuid4().hex
    for _ in range(3):
        assert fhir.put(fhir.patient(identifier=[{"system": SYSTEM, "value": mark}])).status == 201
    criteria = quote(f"{SYSTEM}|{mark}", safe="")
    address = f"Patient?identifier={criteria}&_count=2&_total=accurate"
    first = until(lambda: fhir.send("GET", address), lambda answer: answer.body.get("total") == 3)
    links = {link["relation"]: link["url"] for link in first.body["link"]}
    assert links["next"].startswith(f"{fhir.base}Patient?")
    assert links["next"].endswith("==")
    second = fhir.send("GET", f"{links['next'].rstrip('=')}%3D%3D")
    assert (len(first.ids), len(second.ids)) == (2, 1)
    assert "next" not in {link["relation"] for link in second.body["link"]}


def test_what_healthlake_does_not_know_is_an_operation_outcome(fhir: Fhir) -> None:
    for path, status in (("Patient?colour=red", 400), ("Patient/nobody", 404), ("Starship/1", 404)):
        answer = fhir.send("GET", path)
        assert (answer.status, answer.body["resourceType"]) == (status, "OperationOutcome")


def entry(method: str, url: str, resource: Any = None, full_url: str | None = None) -> dict[str, Any]:
    found: dict[str, Any] = {"request": {"method": method, "url": url}}
    return found | {"resource": resource} | ({"fullUrl": full_url} if full_url else {})


def test_a_transaction_stands_together_and_a_batch_alone(fhir: Fhir) -> None:
    patient, urn = fhir.patient(), f"urn:uuid:{uuid.uuid4()}"
    study = {
        "resourceType": "ImagingStudy",
        "id": uuid.uuid4().hex,
        "status": "available",
        "subject": {"reference": urn},
    }
    entries = [entry("POST", "Patient", patient, urn), entry("PUT", f"ImagingStudy/{study['id']}", study)]
    done = fhir.send("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries})
    assert (done.status, done.body["type"]) == (200, "transaction-response")
    location = done.body["entry"][0]["response"]["location"].partition("/_history")[0]
    stored = fhir.send("GET", f"ImagingStudy/{study['id']}")
    assert stored.body["subject"]["reference"] == location

    lost = fhir.patient()
    entries = [entry("PUT", f"Patient/{lost['id']}", lost), entry("POST", "Patient", fhir.patient(gender="M"))]
    assert fhir.send("POST", "", {"resourceType": "Bundle", "type": "transaction", "entry": entries}).status == 400
    assert fhir.send("GET", f"Patient/{lost['id']}").status == 404
    batch = fhir.send("POST", "", {"resourceType": "Bundle", "type": "batch", "entry": entries})
    assert [item["response"]["status"][:3] for item in batch.body["entry"]] == ["201", "400"]


def test_a_large_transaction_is_queued_and_polled(fhir: Fhir) -> None:
    patients = [fhir.patient() for _ in range(101)]
    entries = [entry("PUT", f"Patient/{patient['id']}", patient) for patient in patients]
    body = {"resourceType": "Bundle", "type": "transaction", "entry": entries}
    assert fhir.send("POST", "", body).status == 422
    queued = fhir.send("POST", "", body, prefer="respond-async")
    assert queued.status == 202
    place = queued.headers["content-location"]
    assert place.startswith(f"{fhir.base}Transaction/")
    done = until(lambda: fhir.send("GET", place), lambda answer: answer.status != 202)
    assert (done.status, done.body["type"], len(done.body["entry"])) == (200, "transaction-response", 101)
    assert fhir.send("GET", f"Patient/{patients[-1]['id']}").status == 200


def test_what_an_import_brought_in_is_read_and_found(fhir: Fhir, healthlake: HealthLakeEndpoint) -> None:
    mark = uuid.uuid4().hex
    patient = fhir.patient(identifier=[{"system": SYSTEM, "value": mark}])
    assert healthlake.import_files({"Patient.ndjson": ndjson(patient)}).status == "COMPLETED"
    assert fhir.send("GET", f"Patient/{patient['id']}").body["meta"]["versionId"] == "1"
    found = until(lambda: fhir.send("GET", f"Patient?identifier={mark}"), lambda answer: bool(answer.ids))
    assert found.ids == [patient["id"]]


def test_metadata_describes_the_data_store(fhir: Fhir) -> None:
    statement = fhir.send("GET", "metadata").body
    types = {item["type"] for item in statement["rest"][0]["resource"]}
    assert statement["fhirVersion"] == "4.0.1"
    assert {"Patient", "ImagingStudy", "Endpoint"} <= types


def test_calls_are_counted_and_struck_by_faults_under_aws_s_names(fhir: Fhir, ill: HealthLakeEndpoint) -> None:
    patient = fhir.patient()
    fhir.put(patient)
    ill.places.control("DELETE", "calls")
    ill.places.faults({"kind": "throttle_storm", "operation": "ReadResource", "times": 1})
    answers = [fhir.send("GET", f"Patient/{patient['id']}") for _ in range(2)]
    assert [answer.status for answer in answers] == [429, 200]
    assert answers[0].body["issue"][0]["code"] == "throttled"
    assert ill.places.calls()["operations"]["ReadResource"] == {"429": 1, "200": 1}


def test_a_lost_answer_is_of_a_call_that_was_carried_out(fhir: Fhir, ill: HealthLakeEndpoint) -> None:
    patient = fhir.patient()
    ill.places.faults({"kind": "lost_response", "operation": "UpdateResource", "answer": "500", "times": 1})
    assert fhir.put(patient).status == 500
    assert fhir.send("GET", f"Patient/{patient['id']}").status == 200
