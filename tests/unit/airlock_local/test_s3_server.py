"""The local S3 as a process: programs of this machine use it, a web page of anybody else gets and changes nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ClientError

from airlock_local.buckets import local_client
from tests.servers.local_s3 import local_s3
from tests.unit.localaws.test_callers import FOREIGN, ask

if TYPE_CHECKING:
    from collections.abc import Iterator

    from botocore.awsrequest import AWSPreparedRequest

# A simple request, which a browser sends without asking first; moto checks no signature.
PRESIGNED = "/archive/patient.dcm?AWSAccessKeyId=x&Signature=y&Expires=99999999999"


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    with local_s3("--allowed-host", "S3") as found:
        yield found


@pytest.fixture(scope="module", autouse=True)
def client(url: str) -> Any:
    """The client of a program of this machine, which keeps a file of a patient there."""
    client = local_client(url)
    client.create_bucket(Bucket="archive")
    client.put_object(Bucket="archive", Key="patient.dcm", Body=b"Rita")
    rule = {"AllowedOrigins": ["*"], "AllowedMethods": ["GET", "PUT"]}
    client.put_bucket_cors(Bucket="archive", CORSConfiguration={"CORSRules": [rule]})
    return client


@pytest.mark.parametrize("headers", FOREIGN)
@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", PRESIGNED),
        ("GET", "/archive"),
        ("PUT", "/archive/new"),
        ("POST", "/moto-api/reset"),
        ("OPTIONS", "/archive"),
    ],
)
def test_others_get_and_change_nothing(url: str, client: Any, method: str, path: str, headers: dict[str, str]) -> None:
    status, answered, body = ask(url, method, path, headers)
    assert status == 403
    assert "Rita" not in body
    assert not [name for name in answered if name.startswith("access-control-")]
    assert [item["Key"] for item in client.list_objects_v2(Bucket="archive")["Contents"]] == ["patient.dcm"]


@pytest.mark.parametrize("host", ["s3:4566", "LOCALHOST:4566", "localhost.:4566"])
def test_it_answers_to_its_names_and_sends_no_cors_headers(url: str, host: str) -> None:
    origin = f"http://{host.lower()}"  # a page of its own: moto has one
    status, answered, _ = ask(url, "GET", "/moto-api/data.json", {"host": host, "origin": origin})
    assert status == 200
    assert not [name for name in answered if name.startswith("access-control-")]


def test_a_bucket_may_be_named_in_the_host(url: str) -> None:
    status, _, body = ask(url, "GET", PRESIGNED.removeprefix("/archive"), {"host": "archive.localhost:4566"})
    assert (status, body) == (200, "Rita")


def test_a_client_is_told_why_it_is_refused(client: Any) -> None:
    def call_it_by(request: AWSPreparedRequest, **_: Any) -> None:
        request.headers["Host"] = "my-machine:4566"

    client.meta.events.register("before-send.s3", call_it_by)
    with pytest.raises(ClientError, match=r"'my-machine:4566' is not allowed here.*--allowed-host"):
        client.list_buckets()
    client.meta.events.unregister("before-send.s3", call_it_by)
