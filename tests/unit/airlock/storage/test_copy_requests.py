"""Requests for copies equal those of boto3, whatever it decides: endpoint, addressing, signing, odd keys, settings."""

from __future__ import annotations

import random
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import boto3
import pytest
from botocore import UNSIGNED
from botocore.awsrequest import AWSResponse
from botocore.config import Config
from botocore.credentials import Credentials, ReadOnlyCredentials

from airlock.pipelines import BucketSettings
from airlock.storage.copy_requests import Copy, CopyForm, noting_requests
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.storage.test_s3 import ODD_NAMES

if TYPE_CHECKING:
    from botocore.awsrequest import AWSPreparedRequest

KEYS = ("AKIAEXAMPLE", "secret", "session/token+=")
ALPHABET = "ab01 +%&=?#;:,@!$'\"()*<>[]{}|\\^`~-._/\t\n\r\x00\x01\x1f\x7f\x85\xa0éüß中\u200b\u2028\U0001f600"
FULL = {
    "staging": BucketSettings(kms_key_id="alias/b", bucket_key=False, expected_bucket_owner="1" * 12),
    "archive": BucketSettings(expected_bucket_owner="2" * 12),
}
CREDENTIALS = Credentials(*KEYS)
FIRST = Copy("archive", "in/first", None, "e" * 32, 1, S3Uri("staging", "batches/first"))


@pytest.fixture(autouse=True)
def _stop_the_clock(monkeypatch: pytest.MonkeyPatch) -> None:
    now = datetime(2026, 11, 30, 23, 59, 59, tzinfo=UTC)
    monkeypatch.setattr("botocore.auth.get_current_datetime", lambda **_: now)


def connect(
    *,
    region: str = "us-east-1",
    endpoint: str | None = None,
    buckets: dict[str, BucketSettings] | None = None,
    **config: Any,
) -> S3:
    """Return an S3 that answers each copy by itself."""
    session = boto3.Session(*KEYS, region_name=region)
    client = session.client("s3", endpoint_url=endpoint, config=Config(**config))
    body = b"<CopyObjectResult><ETag>&quot;e&quot;</ETag></CopyObjectResult>"
    raw = SimpleNamespace(stream=lambda: iter([body]))
    client.meta.events.register_last("before-send", lambda request, **_: AWSResponse(request.url, 200, {}, raw))
    return S3(session, client, buckets)


def ask_boto3(s3: S3, copy: Copy) -> AWSPreparedRequest:
    with noting_requests(s3.client) as sent:
        s3.copy(copy.source, copy.etag, copy.size, copy.target)
    return sent[-1]


def differences(s3: S3, copies: list[Copy], first: Copy = FIRST) -> list[Copy]:
    """Return the copies whose requests differ from those that boto3 makes."""
    form = CopyForm.of(ask_boto3(s3, first), first, CREDENTIALS)
    assert form is not None
    return [copy for copy in copies if not _is_alike(form, copy, ask_boto3(s3, copy))]


def _is_alike(form: CopyForm, copy: Copy, wanted: AWSPreparedRequest) -> bool:
    url, headers = form.sign(copy, ReadOnlyCredentials(*KEYS, None))
    signed = {name.lower(): value for name, value in headers.items()}
    theirs = {name.lower(): value for name, value in wanted.headers.items()}
    of_each_try = {"amz-sdk-invocation-id", "amz-sdk-request", "content-length"}
    texts = {name: value.decode() for name, value in theirs.items() if name not in of_each_try}
    texts["host"] = urlsplit(url).netloc  # which http.client adds for boto3
    return (url, signed) == (wanted.url, texts)


def odd_copies(number: int) -> list[Copy]:
    """Return copies of objects with odd keys to odd keys."""
    chance = random.Random(16)

    def key() -> str:
        return "".join(chance.choices(ALPHABET, k=chance.randint(1, 40)))

    places = [*ODD_NAMES, "..", ".", "a/../b", "/", "//a//", "a/./b", "x" * 1024]
    odd = [(f"in/{name}", f"to/{name}") for name in places] + [(name, name) for name in places]
    odd += [(key(), key()) for _ in range(number - len(odd))]
    versions = [None, "null", "3sL4kqtJlcpXroDTDmJ+rmSpXd3dIbrHY"]
    return [
        Copy("archive", source, versions[n % 3], f"{n:032x}", n, S3Uri("staging", target))
        for n, (source, target) in enumerate(odd)
    ]


@pytest.mark.parametrize("buckets", [None, FULL])
def test_odd_keys_are_asked_for_byte_by_byte_as_boto3_does(buckets: dict[str, BucketSettings] | None) -> None:
    assert differences(connect(endpoint="http://127.0.0.1:9", buckets=buckets), odd_copies(150)) == []


OWN = "https://s3.hospital.example:9000/base"
VPC = "https://bucket.vpce-1a2b3c4d-5e6f.s3.us-east-1.vpce.amazonaws.com"
POINT = "arn:aws:s3:us-east-1:123456789012:accesspoint/point"


@pytest.mark.parametrize(
    ("target", "given"),
    [
        ("staging", {"region": "eu-central-1"}),
        ("staging", {"region": "cn-north-1"}),
        ("staging", {"region": "us-gov-west-1", "use_fips_endpoint": True}),
        ("staging", {"region": "eu-west-1", "use_dualstack_endpoint": True}),
        ("staging", {"s3": {"addressing_style": "path"}}),
        ("staging", {"s3": {"use_accelerate_endpoint": True}}),
        ("staging", {"endpoint": OWN, "s3": {"addressing_style": "virtual"}}),
        ("staging", {"endpoint": VPC, "s3": {"payload_signing_enabled": True}}),
        ("with.dots", {}),
        (POINT, {}),
        (POINT, {"endpoint": VPC}),
    ],
)
def test_every_way_of_addressing_a_bucket_is_followed(target: str, given: dict[str, Any]) -> None:
    copies = [copy._replace(target=S3Uri(target, copy.target.key)) for copy in odd_copies(40)[::8]]
    assert differences(connect(**given), copies, first=FIRST._replace(target=S3Uri(target, "batches/first"))) == []


def test_the_signature_follows_the_day_and_the_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    request = ask_boto3(connect(endpoint="http://127.0.0.1:9"), FIRST)
    kept = CopyForm.of(request, FIRST, CREDENTIALS)
    assert kept is not None
    seen = set()
    for day, key in ((1, "one"), (2, "one"), (2, "two"), (2, "one"), (3, "two")):
        now = datetime(2026, 12, day, tzinfo=UTC)
        monkeypatch.setattr("botocore.auth.get_current_datetime", lambda now=now, **_: now)
        new = CopyForm.of(request, FIRST, CREDENTIALS)
        assert new is not None
        credentials = ReadOnlyCredentials(key, key, None, None)
        assert kept.sign(FIRST, credentials) == new.sign(FIRST, credentials)
        seen.add(kept.sign(FIRST, credentials)[1]["Authorization"])
    assert len(seen) == 4


class TestNoForm:
    @pytest.mark.parametrize("version", ["s3", UNSIGNED])
    def test_where_boto3_signs_in_another_way(self, version: Any) -> None:
        s3 = connect(endpoint="http://127.0.0.1:9", signature_version=version)
        assert CopyForm.of(ask_boto3(s3, FIRST), FIRST, CREDENTIALS) is None

    def test_for_a_directory_bucket_which_has_sessions(self) -> None:
        s3 = connect(endpoint="http://127.0.0.1:9")
        request = ask_boto3(s3, FIRST)
        request.headers["x-amz-s3session-token"] = "t"
        assert CopyForm.of(request, FIRST, CREDENTIALS) is None

    def test_for_a_request_about_another_key(self) -> None:
        s3 = connect(endpoint="http://127.0.0.1:9")
        request, other = ask_boto3(s3, FIRST), FIRST._replace(key="in/another")
        assert CopyForm.of(request, other, CREDENTIALS) is None


def test_requests_of_other_threads_are_not_noted() -> None:
    from threading import Thread

    s3 = connect(endpoint="http://127.0.0.1:9")
    with noting_requests(s3.client) as sent:
        other = Thread(target=s3.copy, args=(FIRST.source, FIRST.etag, FIRST.size, FIRST.target))
        other.start()
        other.join()
    assert sent == []
