"""Every way of writing to S3, on a bucket whose policy is iam/bucket-policy.json: TLS, one key, one organization."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

import airlock.storage.s3
from airlock.pipelines import BucketSettings
from airlock.storage.copies import Retries, copy_objects
from airlock.storage.copy_requests import Copy
from airlock.storage.s3 import S3, BucketError
from airlock.storage.s3uri import S3Uri
from tests.iam_policies import shipped
from tests.servers.guarded_s3 import Guard, guarded_s3

if TYPE_CHECKING:
    from collections.abc import Iterator

PART = 5 * 1024**2  # the least that S3 takes as a part
KEY = "arn:aws:kms:us-east-1:123456789012:key/11111111-2222-3333-4444-555555555555"
FILLED = {"BUCKET": "work", "REGION": "us-east-1", "ACCOUNT_ID": "123456789012", "KEY_ID": KEY.rpartition("/")[2]}
OURS = {"aws:SecureTransport": "true", "aws:PrincipalOrgID": "o-hospital"}


Open = Callable[..., S3]


class InFlight:
    """As `airlock.pipelines.parts.Staging` has it."""

    copies_in_flight = 4


@pytest.fixture(scope="module")
def running(s3_server: str) -> Iterator[tuple[Guard, Open]]:
    """Start one server for all tests; what the guard judges by is each test's own."""
    guard = Guard()
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    config = Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"})
    with guarded_s3(guard) as endpoint:

        def connect(**settings: Any) -> S3:
            """Open S3 with these settings of the bucket that is written to."""
            buckets = {"work": BucketSettings(**({"kms_key_id": KEY} | settings))}
            return S3(session, session.client("s3", endpoint_url=endpoint, config=config), buckets)

        yield guard, connect


@pytest.fixture
def guard(running: tuple[Guard, Open]) -> Guard:
    policy = shipped("bucket-policy.json", FILLED | {"ORGANIZATION_ID": "o-hospital"})
    guard = running[0]
    guard.buckets, guard.context, guard.refused, guard.unowned = {"work": policy}, dict(OURS), [], set()
    return guard


@pytest.fixture
def connect(s3: S3, running: tuple[Guard, Open], guard: Guard, request: pytest.FixtureRequest) -> Open:
    """Give S3 through the guard; the objects that are copied are there."""
    size = PART + 1 if "in_parts" in request.node.name else 1
    for name in ("1.dcm", "2.dcm"):
        s3.put(S3Uri("archive", name), b"x" * size)
    return running[1]


def put(s3: S3) -> None:
    s3.put(S3Uri("work", "a"), b"x")


def put_file(s3: S3) -> None:
    s3.put_file(S3Uri("work", "a"), io.BytesIO(b"x"), "text/csv")


def put_file_in_parts(s3: S3) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(airlock.storage.s3, "_PUT_IN_ONE_CALL", PART)
        s3.put_file(S3Uri("work", "a"), io.BytesIO(b"x" * (PART + 1)), "text/csv")


def _copies(s3: S3) -> list[Copy]:
    listed = s3.list_objects(S3Uri("archive", ""))
    return [Copy("archive", item.key, None, item.etag, item.size, S3Uri("work", item.key)) for item in listed]


def copy(s3: S3) -> None:
    one = _copies(s3)[0]
    s3.copy(one.source, one.etag, one.size, one.target)


def copy_in_parts(s3: S3) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(airlock.storage.s3, "COPY_IN_ONE_CALL", PART)
        patch.setattr(airlock.storage.s3, "_COPY_PART", PART)
        copy(s3)


def copy_in_bulk(s3: S3) -> None:
    """The first copy is boto3's, the others are aiohttp's in its form."""
    outcomes = copy_objects(s3, _copies(s3), InFlight(), frozenset(), retries=Retries(tries=1))
    assert outcomes == [None, None]


Write = Callable[[S3], None]
WRITES = [put, put_file, put_file_in_parts, copy, copy_in_parts, copy_in_bulk]
every_write = pytest.mark.parametrize("write", WRITES, ids=lambda write: write.__name__)


@every_write
def test_a_write_that_names_the_key_is_taken(connect: Open, guard: Guard, write: Write) -> None:
    guarded = connect()
    write(guarded)
    assert guard.refused == []
    stored = guarded.client.list_objects_v2(Bucket="work")["Contents"]
    heads = [guarded.client.head_object(Bucket="work", Key=item["Key"]) for item in stored]
    assert {(head["ServerSideEncryption"], head["SSEKMSKeyId"]) for head in heads} == {("aws:kms", KEY)}


@every_write
def test_a_write_that_names_no_key_is_refused(connect: Open, guard: Guard, write: Write) -> None:
    guarded = connect(kms_key_id=None)
    with pytest.raises(BucketError, match="AccessDenied"):
        write(guarded)
    assert {refusal.by for refusal in guard.refused} == {"RefuseWritesThatNameNoKey"}
    assert "Contents" not in guarded.client.list_objects_v2(Bucket="work")


@every_write
def test_a_write_that_names_another_key_is_refused(connect: Open, guard: Guard, write: Write) -> None:
    with pytest.raises(BucketError, match="AccessDenied"):
        write(connect(kms_key_id=KEY.replace("1111", "2222")))
    assert {refusal.by for refusal in guard.refused} == {"RefuseOtherKeys"}


@every_write
def test_a_write_that_expects_the_owner_does_so_in_each_request(connect: Open, guard: Guard, write: Write) -> None:
    write(connect(expected_bucket_owner=guard.owner))
    assert {operation for operation, bucket in guard.unowned if bucket == "work"} == set()


@every_write
def test_a_write_that_expects_another_owner_is_refused(connect: Open, guard: Guard, write: Write) -> None:
    with pytest.raises(BucketError, match=r"expects bucket 'work' to belong to account 210987654321"):
        write(connect(expected_bucket_owner="210987654321"))
    assert {refusal.by for refusal in guard.refused} == {"another account owns the bucket"}


@pytest.mark.parametrize(
    ("changed", "by"),
    [
        ({"aws:SecureTransport": "false"}, "RefuseRequestsWithoutTls"),
        ({"aws:PrincipalOrgID": "o-other"}, "RefuseOtherOrganizations"),
    ],
)
def test_nothing_is_read_without_tls_or_from_outside(
    connect: Open, guard: Guard, changed: dict[str, str], by: str
) -> None:
    guarded = connect()
    guarded.put(S3Uri("work", "a"), b"x")
    guard.context |= changed
    with pytest.raises(BucketError, match="AccessDenied"):
        guarded.get(S3Uri("work", "a"))
    with pytest.raises(BucketError, match="AccessDenied"):
        list(guarded.list_objects(S3Uri("work", "")))
    assert {refusal.by for refusal in guard.refused} == {by}
