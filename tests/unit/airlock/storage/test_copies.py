"""Copies in bulk, against servers: what is copied, what becomes of each file, and what ends all of them."""

from __future__ import annotations

import logging
import os
import signal
import traceback
from base64 import b64encode
from collections import Counter
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

import airlock.storage.s3
from airlock.pipelines import BucketSettings
from airlock.storage.copies import Retries, copy_objects
from airlock.storage.copy_requests import Copy
from airlock.storage.s3 import S3, BucketError, S3Error
from airlock.storage.s3uri import S3Uri
from tests.servers import copying_s3 as server_of
from tests.servers.copying_s3 import CopyingS3, copying_s3, refusal
from tests.servers.network import certify_loopback, forward_proxy
from tests.unit.airlock.storage.test_s3 import ODD_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "DOE^JANE^MRN-99812"
SEEN = ("DOE", "JANE", "99812", "http://", "https://", "staging/")
ALONE = frozenset({"PreconditionFailed", "412", "NoSuchKey", "NoSuchVersion"})
QUICK = Retries(first_pause=0.001, longest_pause=0.01)
ETAG = "0123456789abcdef" * 2
FOLDER = S3Uri("work", "staging/b1/")


class TooLongError(BaseException):
    """As Airflow raises it in a task."""


@dataclass(frozen=True)
class Settings:
    """As `airlock.pipelines.parts.Staging` has them."""

    copies_in_flight: int = 64


copy_all = partial(copy_objects, settings=Settings(), refusals=ALONE, retries=QUICK)


def client(endpoint: str, *, verify: str | bool | None = None, **config: Any) -> S3:
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    once = {"retries": {"total_max_attempts": 1}, "s3": {"addressing_style": "path"}}
    return S3(session, session.client("s3", endpoint_url=endpoint, verify=verify, config=Config(**once | config)))


def waiting(server: CopyingS3, fault: server_of.Fault) -> S3:
    """Return a client that waits for an answer for half a second if none will come."""
    return client(server.endpoint, read_timeout=0.5 if fault is server_of.never else 60)


@pytest.fixture
def server() -> Iterator[CopyingS3]:
    with copying_s3() as running:
        yield running


def store(server: CopyingS3, number: int, etag: str = ETAG) -> list[Copy]:
    """Store so many objects and return a copy of each."""
    made = [Copy("archive", f"in/{NAME}/{n}.dcm", None, etag, 9, FOLDER.join(f"{n:06}.dcm")) for n in range(number)]
    server.etags |= {f"{copy.bucket}/{copy.key}": ETAG for copy in made}
    return made


def targets(copies: list[Copy]) -> list[str]:
    return [f"{copy.target.bucket}/{copy.target.key}" for copy in copies]


def stored(s3: S3, key: str, content: bytes) -> Copy:
    """Store an object in the archive and return its copy, under a name of its own in ``work``."""
    s3.put(S3Uri("archive", key), content)
    listed = next(item for item in s3.list_objects(S3Uri("archive", key)) if item.key == key)
    return Copy("archive", key, None, listed.etag, listed.size, FOLDER.join(key))


class TestOnARealServer:
    def test_an_odd_key_is_copied_from_and_to_as_it_is(self, s3: S3) -> None:
        copies = [stored(s3, f"odd/{name}", name.encode()) for name in ODD_NAMES]
        assert copy_all(s3, copies) == [None] * len(copies)
        assert [s3.get(copy.target).decode() for copy in copies] == ODD_NAMES

    def test_the_version_is_copied_that_was_listed(self, s3: S3) -> None:
        s3.client.put_bucket_versioning(Bucket="archive", VersioningConfiguration={"Status": "Enabled"})
        first = [s3.client.put_object(Bucket="archive", Key="x", Body=b"old") for _ in range(2)]
        s3.put(S3Uri("archive", "x"), b"new")
        found = s3.find(S3Uri("archive", "x")) or {}
        old = Copy("archive", "x", first[0]["VersionId"], first[0]["ETag"].strip('"'), 3, FOLDER.join("old"))
        copies = [
            stored(s3, "y", b"by boto3"),
            old,
            old._replace(version_id="nothing", target=FOLDER.join("gone")),
            old._replace(version_id=found["version_id"], target=FOLDER.join("changed")),
            old._replace(version_id=found["version_id"], etag=found["etag"], target=FOLDER.join("new")),
        ]
        assert copy_all(s3, copies) == [None, None, "NoSuchVersion", "PreconditionFailed", None]
        assert (s3.get(FOLDER.join("old")), s3.get(FOLDER.join("new"))) == (b"old", b"new")

    def test_objects_that_have_changed_leave_nothing(self, s3: S3) -> None:
        copies = [stored(s3, "x", b"new")._replace(etag="f" * 32, target=FOLDER.join(f"{n}")) for n in range(50)]
        assert copy_all(s3, copies) == ["PreconditionFailed"] * 50
        assert list(s3.list_objects(FOLDER)) == []

    def test_what_is_gone_or_has_changed_costs_itself_only(self, s3: S3) -> None:
        copies = [stored(s3, f"{number}", b"x%d" % number) for number in range(6)]
        s3.delete("archive", ["1"])
        s3.put(S3Uri("archive", "3"), b"other")
        assert copy_all(s3, copies) == [None, "NoSuchKey", None, "PreconditionFailed", None, None]
        assert {item.key for item in s3.list_objects(FOLDER)} == {f"{FOLDER.key}{n}" for n in (0, 2, 4, 5)}

    def test_a_large_object_is_copied_in_parts(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        part = 5 * 1024**2  # the least that S3 takes
        monkeypatch.setattr(airlock.storage.s3, "COPY_IN_ONE_CALL", part)
        monkeypatch.setattr(airlock.storage.s3, "_COPY_PART", part)
        large = bytes(range(256)) * (part // 256) + b"rest"
        copies = [stored(s3, "large", large), stored(s3, "a", b"a"), stored(s3, "b", b"b")]
        assert copy_all(s3, copies) == [None] * 3
        assert [s3.get(copy.target) for copy in copies] == [large, b"a", b"b"]

    def test_buckets_are_told_apart(self, s3: S3) -> None:
        s3.put(S3Uri("work", "source"), b"of work")
        found = s3.find(S3Uri("work", "source")) or {}
        of_work = Copy("work", "source", None, found["etag"], 7, S3Uri("archive", "copy of work"))
        copies = [stored(s3, "a", b"a"), of_work, stored(s3, "b", b"b"), of_work._replace(etag="f" * 32)]
        assert copy_all(s3, copies) == [None, None, None, "PreconditionFailed"]
        assert s3.get(of_work.target) == b"of work"

    def test_a_bucket_that_does_not_exist_is_named(self, s3: S3) -> None:
        copies = [stored(s3, "a", b"a")._replace(target=S3Uri("nowhere", str(n))) for n in range(3)]
        with pytest.raises(BucketError, match=r"to bucket 'nowhere' .*NoSuchBucket"):
            copy_all(s3, copies)

    def test_boto3_makes_the_copies_of_a_client_whose_signatures_it_alone_can_make(
        self, s3: S3, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        old = client(s3.client.meta.endpoint_url, signature_version="s3")
        copies = [stored(s3, f"{number}", b"x%d" % number) for number in range(5)]
        copies[2] = copies[2]._replace(etag="f" * 32)
        assert copy_all(old, copies) == [None, None, "PreconditionFailed", None, None]
        assert [text for text in caplog.messages if "boto3 makes the copies" in text] != []

    def test_nothing_is_copied_of_nothing(self, s3: S3) -> None:
        assert copy_all(s3, []) == []


def test_boto3_makes_the_first_copy_only(server: CopyingS3, monkeypatch: pytest.MonkeyPatch) -> None:
    s3 = client(server.endpoint)
    calls: list[int] = []
    seen: list[int] = []

    def copy(*given: Any) -> None:
        calls.append(1)
        S3.copy(s3, *given)

    monkeypatch.setattr(s3, "copy", copy)
    copies = store(server, 200)
    assert copy_all(s3, copies, progress=seen.append) == [None] * 200
    assert server.copies == Counter(targets(copies))
    assert (calls, seen) == ([1], list(range(1, 201)))


def test_a_thousand_wrong_etags_are_refused_one_by_one(server: CopyingS3) -> None:
    copies = store(server, 1000, etag="f" * 32)
    right = store(server, 1)[0]._replace(target=FOLDER.join("right"))
    assert copy_all(client(server.endpoint), [*copies, right]) == ["PreconditionFailed"] * 1000 + [None]
    assert server.copies == Counter(["work/staging/b1/right"])


def test_the_key_and_the_owners_are_in_every_request(server: CopyingS3) -> None:
    copies = store(server, 3)
    plain = client(server.endpoint)
    work = BucketSettings(kms_key_id="alias/batches", expected_bucket_owner="1" * 12)
    buckets = {copies[0].bucket: BucketSettings(expected_bucket_owner="2" * 12), copies[0].target.bucket: work}
    copy_objects(S3(plain.session, plain.client, buckets), copies, Settings(), ())
    wanted = {
        "x-amz-server-side-encryption": "aws:kms",
        "x-amz-server-side-encryption-aws-kms-key-id": "alias/batches",
        "x-amz-server-side-encryption-bucket-key-enabled": "true",
        "x-amz-expected-bucket-owner": "1" * 12,
        "x-amz-source-expected-bucket-owner": "2" * 12,
    }
    assert [request.items() >= wanted.items() for request in server.requests] == [True] * 3


def test_the_credentials_are_those_of_the_client(server: CopyingS3) -> None:
    session = boto3.Session(region_name="us-east-1")
    own = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
    s3 = S3(session, session.client("s3", endpoint_url=server.endpoint, **own))
    assert copy_all(s3, store(server, 10)) == [None] * 10


class TestFaultsThatPass:
    @pytest.mark.parametrize(
        "fault",
        [
            *(refusal(status, "InternalError") for status in (200, 500)),
            *(refusal(503, code) for code in ("SlowDown", "ServiceUnavailable")),
            *(refusal(400, code) for code in ("RequestTimeout", "ThrottlingException")),
            *(server_of.reset, server_of.reset_once_made, server_of.cut, server_of.empty, server_of.never),
        ],
    )
    def test_the_copy_is_tried_again(self, server: CopyingS3, fault: server_of.Fault) -> None:
        copies = store(server, 12)
        server.fault = lambda number: fault if number in {3, 5, 7, 8} else None
        assert copy_all(waiting(server, fault), copies) == [None] * 12
        assert set(server.copies) == set(targets(copies))

    def test_boto3_sends_a_copy_again_whose_answer_has_no_body(self, server: CopyingS3) -> None:
        copies = store(server, 2)
        server.fault = lambda number: server_of.empty if number == 0 else None
        assert copy_all(client(server.endpoint), copies) == [None, None]
        assert set(server.copies) == set(targets(copies))

    def test_a_server_that_never_says_that_it_copied_ends_the_copies(self, server: CopyingS3) -> None:
        copies = store(server, 2)
        server.fault = lambda _number: server_of.empty
        with pytest.raises(S3Error, match="IncompleteReadError"):
            copy_all(client(server.endpoint), copies)

    def test_a_storm_loses_nothing_and_doubles_nothing(self, server: CopyingS3) -> None:
        """Of every hundred answers, five are 503, five are resets, and some are errors under 200 or are cut."""
        bad = [refusal(503, "SlowDown")] * 5 + [server_of.reset] * 3 + [server_of.reset_once_made] * 2
        bad += [refusal(200, "InternalError"), refusal(200, "SlowDown"), server_of.cut, server_of.empty]
        server.fault = lambda number: bad[n] if 0 <= (n := number * 37 % 100 - 1) < len(bad) else None
        wrong = {17, 900, 1499}
        copies = [copy._replace(etag="f" * 32) if n in wrong else copy for n, copy in enumerate(store(server, 1500))]
        seen: list[int] = []
        found = copy_all(client(server.endpoint), copies, progress=seen.append)
        assert found == ["PreconditionFailed" if n in wrong else None for n in range(1500)]
        assert set(server.copies) == set(targets([copy for n, copy in enumerate(copies) if n not in wrong]))
        assert seen == list(range(1, 1501))
        assert len(server.requests) > 1600

    @pytest.mark.parametrize("since", [0, 30])
    def test_expired_credentials_are_renewed_once(self, server: CopyingS3, since: int) -> None:
        """Also those of the first copy, which boto3 makes."""
        s3, keys = server_of.connect_as_role(server)
        expired, copies = refusal(400, "ExpiredToken"), store(server, 100)

        def fault(number: int) -> server_of.Fault | None:
            return expired if number >= since and server_of.is_signed_by(server, number, "testing") else None

        server.fault = fault
        assert copy_all(s3, copies) == [None] * 100
        assert (server.copies, keys) == (Counter(targets(copies)), ["testing", "renewed1"])

    def test_threads_of_boto3_renew_expired_credentials_once(
        self, server: CopyingS3, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr("airlock.storage.copies.find_connection", lambda *_: None)
        s3, keys = server_of.connect_as_role(server)
        expired, copies = refusal(400, "ExpiredToken"), store(server, 60)
        server.fault = lambda n: expired if n >= 20 and server_of.is_signed_by(server, n, "testing") else None
        assert copy_all(s3, copies) == [None] * 60
        assert (server.copies, keys) == (Counter(targets(copies)), ["testing", "renewed1"])

    def test_credentials_that_cannot_be_renewed_end_the_copies(self, server: CopyingS3) -> None:
        s3, _ = server_of.connect_as_role(server)
        server.fault = lambda _number: refusal(400, "ExpiredToken")
        with pytest.raises(S3Error, match="ExpiredToken"):
            copy_all(s3, store(server, 10))


class TestFaultsThatDoNot:
    FAULTS = (
        (refusal(503, "SlowDown"), S3Error, "SlowDown"),
        (refusal(200, "InternalError"), S3Error, "InternalError"),
        (refusal(400, "ExpiredToken"), S3Error, "ExpiredToken"),
        (refusal(403, "AccessDenied"), BucketError, "AccessDenied"),
        (refusal(301, "PermanentRedirect"), BucketError, "PermanentRedirect"),
        (lambda handler: handler.answer(307, ""), BucketError, "PermanentRedirect"),
        (lambda handler: handler.answer(409, f"<html>{NAME}</html>"), S3Error, "409"),
        (server_of.reset, S3Error, "ConnectionClosedError"),
        (server_of.cut, S3Error, "IncompleteReadError"),
        (server_of.never, S3Error, "ReadTimeoutError"),
        (lambda handler: handler.wfile.write(b"\x00%b\r\n" % NAME.encode()), S3Error, "ConnectionClosedError"),
    )

    @pytest.mark.parametrize(("fault", "kind", "code"), FAULTS)
    def test_all_copies_end_with_an_error_that_names_no_key(
        self, server: CopyingS3, caplog: pytest.LogCaptureFixture, fault: Any, kind: type[S3Error], code: str
    ) -> None:
        caplog.set_level(logging.DEBUG)
        server.fault = lambda number: fault if number >= 20 else None
        with pytest.raises(S3Error) as raised:
            copy_all(waiting(server, fault), store(server, 500), retries=Retries(3, 0.001, 0.002))
        text = "".join(traceback.format_exception(raised.value)) + caplog.text
        assert (type(raised.value), raised.value.code) == (kind, code)
        assert str(raised.value).startswith("an object cannot be copied from bucket 'archive' to bucket 'work' (CopyO")
        assert [name for name in SEEN if name in text] == []
        # Each of those in flight is tried once, or three times; aiohttp repeats each on a connection that was reset.
        assert len(server.requests) < 20 + 64 * (2 if kind is BucketError else 3 * 2 + 1)

    @pytest.mark.filterwarnings("ignore:coroutine .* was never awaited")  # of the connections that it ends
    def test_what_a_signal_raises_ends_them_at_once(self, server: CopyingS3) -> None:
        def too_long(*_: object) -> None:
            raise TooLongError

        def fault(number: int) -> None:
            if number == 50:
                os.kill(os.getpid(), signal.SIGUSR1)

        before = signal.signal(signal.SIGUSR1, too_long)
        server.fault = fault
        try:
            with pytest.raises(TooLongError):
                copy_all(client(server.endpoint), store(server, 2000))
        finally:
            signal.signal(signal.SIGUSR1, before)
        assert len(server.requests) < 1000


class TestNetwork:
    @pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
    def test_the_authority_of_the_hospital_is_trusted_if_it_is_named(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        bundle, context = certify_loopback(tmp_path)
        with copying_s3(context) as server:
            copies = store(server, 100)
            with pytest.raises(S3Error, match="SSLError"):
                copy_all(client(server.endpoint), copies)
            assert copy_all(client(server.endpoint, verify=str(bundle)), copies) == [None] * 100
            monkeypatch.setenv("AWS_CA_BUNDLE", str(bundle))
            assert copy_all(client(server.endpoint), copies) == [None] * 100
            assert copy_all(client(server.endpoint, verify=False), copies) == [None] * 100
        assert server.copies == Counter(targets(copies) * 3)

    @pytest.mark.parametrize("named_in", ["environment", "connection"])
    def test_every_connection_goes_through_the_proxy(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, named_in: str
    ) -> None:
        bundle, context = certify_loopback(tmp_path)
        with copying_s3(context) as server, forward_proxy() as proxy:
            address = proxy.url.replace("http://", "http://airlock:p%40ss@")
            config: dict[str, Any] = {"proxies": {"https": address}}
            if named_in == "environment":
                monkeypatch.setenv("HTTPS_PROXY", address)
                config = {}
            s3 = client(server.endpoint, verify=str(bundle), **config)
            assert copy_all(s3, store(server, 40), settings=Settings(copies_in_flight=5)) == [None] * 40
        assert proxy.tunnels == [server.endpoint.removeprefix("https://")] * 6  # one is boto3's
        assert set(proxy.authorizations) == {f"Basic {b64encode(b'airlock:p@ss').decode()}"}
