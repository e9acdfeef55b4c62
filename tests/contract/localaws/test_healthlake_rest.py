"""The control plane and the FHIR REST plane are one service: what is imported is read, and the gateway guards both."""

from __future__ import annotations

import json
import urllib.error
import urllib.request
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from tests.contract.localaws.endpoint import ON_AWS
from tests.contract.localaws.healthlake import ndjson, patient

if TYPE_CHECKING:
    from tests.contract.localaws.healthlake import HealthLakeEndpoint

pytestmark = pytest.mark.skipif(ON_AWS, reason="signs with the emulator's placeholder key")


def fhir(healthlake: HealthLakeEndpoint, path: str, *, signed: bool = True) -> tuple[int, Any]:
    """Read from the data store's own endpoint, as Describe tells it."""
    answer = healthlake.client.describe_fhir_datastore(DatastoreId=healthlake.datastore_id)
    request = AWSRequest("GET", answer["DatastoreProperties"]["DatastoreEndpoint"] + path)
    if signed:
        SigV4Auth(Credentials("key", "secret"), "healthlake", "us-east-1").add_auth(request)
    try:
        with urllib.request.urlopen(
            urllib.request.Request(str(request.url), headers=dict(request.headers)), timeout=10
        ) as found:
            return found.status, json.loads(found.read())
    except urllib.error.HTTPError as error:
        return error.code, json.loads(error.read())


def test_what_was_imported_is_read_under_its_own_id(healthlake: HealthLakeEndpoint) -> None:
    name = uuid.uuid4().hex
    healthlake.import_files({"a.ndjson": ndjson(patient(name), patient(f"{name}-bad", gender="lady"))})
    status, found = fhir(healthlake, f"Patient/{name}")
    assert (status, found["id"], found["meta"]["versionId"]) == (200, name, "1")
    assert fhir(healthlake, f"Patient/{name}-bad")[0] == 404


def test_an_import_again_adds_a_version(healthlake: HealthLakeEndpoint) -> None:
    files = {"a.ndjson": ndjson(patient("again"))}
    before = int(
        healthlake.import_files(files).files["SUCCESS/a.ndjson"][0]["UpdateResourceResponse"]["jsonBlob"]["meta"][
            "versionId"
        ]
    )
    healthlake.import_files(files)
    assert fhir(healthlake, "Patient/again")[1]["meta"]["versionId"] == str(before + 1)


def test_minimal_leaves_its_mark_in_the_resource(healthlake: HealthLakeEndpoint) -> None:
    name = uuid.uuid4().hex
    healthlake.import_files({"a.ndjson": ndjson(patient(name, birthDate="19700102"))}, ValidationLevel="minimal")
    _, found = fhir(healthlake, f"Patient/{name}")
    (extension,) = found["extension"]
    assert extension["url"] == "http://healthlake.amazonaws.com/fhir/StructureDefinition/validation-issue"
    assert json.loads(extension["valueString"])["issue"]


def test_an_unsigned_read_is_401(healthlake: HealthLakeEndpoint) -> None:
    assert fhir(healthlake, "Patient/p0", signed=False)[0] == 401


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [
        ({"kind": "throttle_storm", "operation": "ReadResource", "times": 1}, 429, "throttled"),
        ({"kind": "quota_storm", "operation": "Read*", "times": 1}, 429, "throttled"),
        ({"kind": "lost_response", "operation": "ReadResource", "times": 1, "answer": "500"}, 500, "exception"),
    ],
)
def test_call_faults_strike_the_rest_plane_too(
    ill: HealthLakeEndpoint, fault: dict[str, Any], status: int, code: str
) -> None:
    ill.places.faults(fault)
    answered, outcome = fhir(ill, "Patient/p0")
    assert (answered, outcome["issue"][0]["code"]) == (status, code)
    assert outcome["resourceType"] == "OperationOutcome"


def test_interactions_are_counted_by_their_action(ill: HealthLakeEndpoint) -> None:
    ill.places.control("DELETE", "calls")
    fhir(ill, "metadata")
    fhir(ill, "Patient/nobody")
    counted = ill.places.calls()["operations"]
    assert counted["ReadResource"] == {"404": 1}
