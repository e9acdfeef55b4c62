"""Each operation of S3 that the code calls names the owner of its bucket; each that begins an object names the key."""

from __future__ import annotations

import ast
import io
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.awsrequest import AWSResponse

from airlock.pipelines import BucketSettings
from airlock.storage.protection import protect_buckets
from airlock.storage.s3 import S3, S3Error
from airlock.storage.s3uri import S3Uri
from tests.iam_table import OPERATIONS
from tests.markdown import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
BUCKETS = {
    "work": BucketSettings(kms_key_id=KEY, expected_bucket_owner="1" * 12),
    "archive": BucketSettings(expected_bucket_owner="2" * 12),
    "unsigned": BucketSettings(kms_key_id=KEY, bucket_key=False),
}
PARAMETERS: dict[str, dict[str, Any]] = {  # besides the bucket
    "HeadObject": {"Key": "k"},
    "GetObject": {"Key": "k"},
    "PutObject": {"Key": "k"},
    "CopyObject": {"Key": "k", "CopySource": {"Bucket": "archive", "Key": "s"}},
    "CreateMultipartUpload": {"Key": "k"},
    "UploadPart": {"Key": "k", "UploadId": "u", "PartNumber": 1},
    "UploadPartCopy": {
        "Key": "k",
        "UploadId": "u",
        "PartNumber": 1,
        "CopySource": {"Bucket": "archive", "Key": "s"},
    },
    "CompleteMultipartUpload": {"Key": "k", "UploadId": "u"},
    "AbortMultipartUpload": {"Key": "k", "UploadId": "u"},
    "DeleteObjects": {"Delete": {"Objects": [{"Key": "k"}]}},
}
OWNER, SOURCE, SSE = "x-amz-expected-bucket-owner", "x-amz-source-expected-bucket-owner", "x-amz-server-side-encryption"
OF_S3 = sorted(name.removeprefix("s3:") for name in OPERATIONS if name.startswith("s3:"))


@pytest.fixture(scope="module")
def ask() -> Callable[..., dict[str, str]]:
    """Return a function that calls an operation on a bucket and returns what its request names."""
    client: Any = boto3.Session("testing", "testing", region_name="us-east-1").client("s3")
    protect_buckets(client, BUCKETS)
    sent: list[dict[str, str]] = []

    def answer(request: Any, **_: Any) -> AWSResponse:
        named = {name.lower(): value for name, value in request.headers.items()}
        sent.append({name: value.decode() for name, value in named.items() if "owner" in name or SSE in name})
        response = AWSResponse(request.url, 400, {}, None)
        response._content = b"<Error><Code>Asked</Code></Error>"
        return response

    client.meta.events.register("before-send.s3", answer)

    def ask(operation: str, bucket: str = "work") -> dict[str, str]:
        with pytest.raises(client.exceptions.ClientError):
            client._make_api_call(operation, {"Bucket": bucket, **PARAMETERS.get(operation, {})})
        return sent[-1]

    return ask


@pytest.mark.parametrize("operation", OF_S3)
def test_an_operation_of_the_table_names_the_owner(ask: Callable[..., dict[str, str]], operation: str) -> None:
    asked = ask(operation)
    assert asked[OWNER] == "1" * 12
    assert asked.get(SOURCE) == ("2" * 12 if "CopySource" in PARAMETERS.get(operation, {}) else None)


@pytest.mark.parametrize("operation", OF_S3)
def test_an_operation_of_the_table_names_the_key_if_it_begins_an_object(
    ask: Callable[..., dict[str, str]], operation: str
) -> None:
    named = {name: value for name, value in ask(operation).items() if name.startswith(SSE)}
    key = {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": KEY, f"{SSE}-bucket-key-enabled": "true"}
    assert named == (key if operation in {"PutObject", "CopyObject", "CreateMultipartUpload"} else {})


def test_a_bucket_without_settings_gets_no_parameters(ask: Callable[..., dict[str, str]]) -> None:
    assert ask("PutObject", "elsewhere") == {}
    assert ask("CopyObject", "elsewhere") == {SOURCE: "2" * 12}  # of the bucket that is copied from


def test_a_bucket_key_is_switched_off(ask: Callable[..., dict[str, str]]) -> None:
    asked = ask("PutObject", "unsigned")
    assert asked == {SSE: "aws:kms", f"{SSE}-aws-kms-key-id": KEY, f"{SSE}-bucket-key-enabled": "false"}


def _refuse(request: Any, **_: Any) -> AWSResponse:
    response = AWSResponse(request.url, 403, {}, None)
    response._content = b"<Error><Code>AccessDenied</Code></Error>"
    return response


USES: dict[str, Callable[[S3], object]] = {
    "put": lambda s3: s3.put(S3Uri("work", "k"), b""),
    "put_file": lambda s3: s3.put_file(S3Uri("work", "k"), io.BytesIO(b""), "text/csv"),
    "get": lambda s3: s3.get(S3Uri("work", "k")),
    "exists": lambda s3: s3.exists(S3Uri("work", "k")),
    "list": lambda s3: list(s3.list_objects(S3Uri("work", ""))),
    "folders": lambda s3: s3.list_folders(S3Uri("work", "")),
    "delete": lambda s3: s3.delete("work", ["k"]),
    "copy": lambda s3: s3.copy({"Bucket": "archive", "Key": "k"}, "e", 1, S3Uri("work", "k")),
}


@pytest.mark.parametrize("use", USES)
def test_a_refusal_names_the_bucket_and_the_setting(use: str) -> None:
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    client = session.client("s3")
    client.meta.events.register("before-send.s3", _refuse)
    with pytest.raises(S3Error) as refused:
        USES[use](S3(session, client, BUCKETS))
    told = str(refused.value)
    assert "The pipeline file (buckets, expected_bucket_owner) expects" in told
    assert "bucket 'work' to belong to account 111111111111" in told
    assert ("bucket 'archive' to belong to account 222222222222" in told) is (use == "copy")


def test_a_refusal_without_an_expected_owner_does_not_speak_of_one() -> None:
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    client = session.client("s3")
    client.meta.events.register("before-send.s3", _refuse)
    with pytest.raises(S3Error) as refused:
        S3(session, client, BUCKETS).get(S3Uri("unsigned", "k"))
    assert "expected_bucket_owner" not in str(refused.value)


def _list_openings() -> list[tuple[str, int]]:
    """Return where the code opens S3, and how many positional arguments it gives beyond those that say how."""
    found = []
    for folder in ("include/airlock", "include/airlock_cli", "plugins"):
        for path in sorted((ROOT / folder).rglob("*.py")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    name = ast.unparse(node.func).rpartition(".")[2]
                    if name in OPENERS:
                        found.append((f"{path.name}:{name}", len(node.args) - OPENERS[name]))
    return found


OPENERS = {"S3": 2, "connect_s3": 1, "open_s3": 0}  # the arguments without the buckets


def test_whoever_opens_s3_passes_the_settings_of_the_buckets() -> None:
    found = _list_openings()
    assert len(found) > 20
    assert [place for place, given in found if given < 1] == []
