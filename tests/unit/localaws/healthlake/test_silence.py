"""HealthLake's other answers to what AWS leaves open."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from localaws.server import serve
from localaws.settings import Seed
from tests.contract.localaws.endpoint import ROLE, Endpoint, local_imaging, local_s3, until
from tests.contract.localaws.healthlake import HealthLakeEndpoint, local_healthlake, ndjson, patient, status_of
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator

DATASTORE = "d" * 32
PLACES = ("s3://contract-input/in/", "s3://contract-output/out/")
REFUSED = patient("p2") | {"gender": "blue"}


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    with moto_server() as url:
        yield url


@contextmanager
def healthlake(aws: str, **choices: str) -> Iterator[HealthLakeEndpoint]:
    seeds, quick = (Seed(DATASTORE, "seeded"),), {"submitted_seconds": 0.0, "change_seconds": 0.0}
    with serve(s3_endpoint=aws, healthlake_datastore=seeds, choices=choices, **quick) as url:
        places = Endpoint(local_imaging(url), local_s3(aws), DATASTORE, ROLE, *PLACES, url)
        yield HealthLakeEndpoint(local_healthlake(url), places, DATASTORE, ROLE, "alias/test")


@pytest.mark.parametrize(
    ("shape", "stored", "refused"),
    [
        ("json_blob", {"UpdateResourceResponse": {"jsonBlob", "statusCode"}}, 2),
        ("status", {"UpdateResourceResponse": {"statusCode"}}, 2),
        ("line_id", {"lineId": 0, "UpdateResourceResponse": {"statusCode"}}, 1),
    ],
)
def test_result_lines_have_the_chosen_shape(aws: str, shape: str, stored: dict[str, Any], refused: int) -> None:
    with healthlake(aws, fhir_result_line=shape, fhir_line_id="from_0") as endpoint:
        files = endpoint.import_files({"a.ndjson": ndjson(patient("p1"), REFUSED)}).files
    (line,), (failure,) = files["SUCCESS/a.ndjson"], files["FAILURE/a.ndjson"]
    assert line | {"UpdateResourceResponse": set(line["UpdateResourceResponse"])} == stored
    assert (failure["lineId"], "resourceId" in failure) == (1, refused == 2)
    assert failure["UpdateResourceResponse"]["jsonBlob"]["resourceType"] == "OperationOutcome"


def test_a_reused_token_may_answer_the_first_job_whatever_is_asked(aws: str) -> None:
    with healthlake(aws, reused_token="first_job") as endpoint:
        uri = endpoint.places.upload({"a.ndjson": ndjson(patient("p1"))})
        jobs = {endpoint.start(uri, ClientToken="again", JobName=name) for name in ("one", "two")}
    assert len(jobs) == 1


@pytest.mark.parametrize("choice", ["usable", "refused"])
def test_an_update_may_fail_and_the_store_then_works_or_not(aws: str, choice: str) -> None:
    with healthlake(aws, fhir_update_ends="update_failed", update_failed_store=choice) as endpoint:
        endpoint.client.update_fhir_datastore(DatastoreId=DATASTORE, DatastoreName="renamed")
        until(lambda: status_of(endpoint.client, DATASTORE), lambda status: status == "UPDATE_FAILED")
        uri = endpoint.places.upload({"a.ndjson": ndjson(patient("p1"))})
        if choice == "usable":
            assert endpoint.ended(endpoint.start(uri))["JobStatus"] == "COMPLETED"
        else:
            with pytest.raises(ClientError, match="is UPDATE_FAILED"):
                endpoint.start(uri)
        assert endpoint.client.update_fhir_datastore(DatastoreId=DATASTORE, DatastoreName="again")
