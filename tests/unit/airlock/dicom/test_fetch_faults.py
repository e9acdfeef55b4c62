"""Reading ranges from a server that goes wrong: what is tried again, what ends the task, never a mix of versions."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config
from botocore.credentials import RefreshableCredentials
from botocore.session import get_session

from airlock.dicom import fetch
from airlock.dicom.errors import HeaderError
from airlock.dicom.fetch import Arrival, RangeReader, RequestRate, S3UnavailableError
from airlock.dicom.ranged import Range
from airlock.pipelines import BucketSettings, ParseSettings
from airlock.reasons import Reason
from airlock.storage.s3 import S3
from tests.servers.faulty_s3 import FaultyS3, cut, faulty_s3, refusal

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterator
    from pathlib import Path

BODY = bytes(range(256)) * 8
SPAN = Range(0, 1024)
FIPS = Config(use_fips_endpoint=True)
VPC = "https://bucket.vpce-1a2b.s3.us-east-1.vpce.amazonaws.com"
BOTH = pytest.mark.parametrize("key", ["a/1.dcm", "a//1.dcm"], ids=["obstore", "boto3"])


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[FaultyS3]:
    monkeypatch.setattr(fetch, "_BACKOFF", (timedelta(milliseconds=1), timedelta(milliseconds=5)))
    with faulty_s3() as s3:
        yield s3


def connect(server: FaultyS3, session: boto3.Session | None = None) -> S3:
    """Return S3 at the server, through a client that tries a request once: the reader has retries of its own."""
    session = session or boto3.Session("first", "secret", region_name="us-east-1")
    once = Config(retries={"total_max_attempts": 1})
    return S3(session, session.client("s3", endpoint_url=server.endpoint, region_name="us-east-1", config=once))


def read(s3: S3, arrival: Arrival, *spans: Range, **settings: Any) -> list[bytes]:
    reader = RangeReader(s3, ParseSettings.model_validate({"retries": 2} | settings))

    async def each() -> list[bytes]:
        return [await reader.read(arrival, span) for span in spans or [SPAN]]

    return asyncio.run(each())


def stored(server: FaultyS3, key: str = "a/1.dcm", body: bytes = BODY) -> Arrival:
    return Arrival("bucket", key, None, server.put(key, body), len(body))


@BOTH
def test_each_request_names_the_owner_of_the_bucket_in_a_signed_header(server: FaultyS3, key: str) -> None:
    plain, arrival = connect(server), stored(server, key)
    read(S3(plain.session, plain.client, {"bucket": BucketSettings(expected_bucket_owner="1" * 12)}), arrival)
    assert [request.owner for request in server.requests] == ["1" * 12]


class TestRegion:
    @pytest.mark.parametrize("lists", [True, False], ids=["allowed", "forbidden"])
    def test_a_bucket_of_another_region_is_read_there_and_looked_up_once(self, server: FaultyS3, lists: bool) -> None:
        server.region, server.lists = "eu-west-1", lists
        reader = RangeReader(connect(server), ParseSettings.model_validate({}))
        arrivals = [stored(server, key) for key in ("a/1.dcm", "a/2.dcm")]

        async def each() -> list[bytes]:
            return [await reader.read(arrival, SPAN) for arrival in arrivals]

        assert asyncio.run(each()) == [BODY[:1024]] * 2
        assert server.looked_up == 1

    def test_an_error_names_it(self, server: FaultyS3) -> None:
        server.region, server.always = "eu-west-1", refusal(403, "SignatureDoesNotMatch")
        with pytest.raises(S3UnavailableError, match=r"bucket bucket in eu-west-1 failed with SignatureDoesNotMatch"):
            read(connect(server), stored(server))

    @pytest.mark.parametrize(
        ("client", "bucket", "endpoint"),
        [
            ({"region_name": "us-east-1"}, "eu-west-1", "https://s3.eu-west-1.amazonaws.com"),
            ({"region_name": "us-east-1"}, "us-east-1", "https://s3.amazonaws.com"),
            ({"region_name": "eu-west-1"}, "us-west-2", "https://s3.us-west-2.amazonaws.com"),
            ({"region_name": "us-east-1", "config": FIPS}, "us-west-2", "https://s3-fips.us-west-2.amazonaws.com"),
            ({"region_name": "us-east-1", "endpoint_url": VPC}, "eu-west-1", VPC),
            (
                {"region_name": "us-east-1", "endpoint_url": "https://s3.hospital.example"},
                "eu-west-1",
                "https://s3.hospital.example",
            ),
        ],
        ids=["another", "the same", "from a third", "FIPS", "VPC", "own"],
    )
    def test_its_endpoint_is_aws_s_own_of_that_region(
        self, client: Any, bucket: str, endpoint: str, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        session = boto3.Session("first", "secret")
        made = S3(session, session.client("s3", **client))
        assert fetch.open_store(made, "bucket", bucket, ParseSettings()).config["endpoint"] == endpoint


class TestTriedAgain:
    def test_s3_asks_to_slow_down(self, server: FaultyS3) -> None:
        arrival = stored(server)
        server.faults.extend([refusal(503, "SlowDown"), refusal(503, "SlowDown")])
        assert read(connect(server), arrival) == [BODY[:1024]]
        assert len(server.requests) == 3

    @BOTH
    def test_the_connection_breaks_in_mid_body(self, server: FaultyS3, key: str) -> None:
        arrival = stored(server, key)
        server.faults.extend([cut(100), cut(200)])
        assert read(connect(server), arrival) == [BODY[:1024]]
        assert len(server.requests) == 3
        assert {request.if_match for request in server.requests} == {f'"{arrival.etag}"'}

    def test_the_connection_breaks_before_an_answer(self, server: FaultyS3) -> None:
        arrival = stored(server)
        server.faults.append(lambda handler, _head, _body: setattr(handler, "close_connection", True))
        assert read(connect(server), arrival) == [BODY[:1024]]


class TestEndOfTheTask:
    def test_throttling_that_outlasts_the_retries_says_what_to_set(self, server: FaultyS3) -> None:
        arrival = stored(server)
        server.always = refusal(503, "SlowDown")
        with pytest.raises(
            S3UnavailableError, match=r"SlowDown: lower parse.in_flight, or set .*, then clear the task"
        ):
            read(connect(server), arrival)
        assert len(server.requests) == 3

    @BOTH
    def test_connections_that_break_again_and_again(self, server: FaultyS3, key: str) -> None:
        arrival = stored(server, key)
        server.always = cut(0)
        with pytest.raises(S3UnavailableError, match="check the endpoint"):
            read(connect(server), arrival)
        assert len(server.requests) == 3

    def test_no_answer_at_all(self, server: FaultyS3) -> None:
        arrival = stored(server)
        server.always = lambda handler, _head, _body: handler.rfile.read(1)  # nothing, until the client hangs up
        with pytest.raises(S3UnavailableError, match="no answer"):
            read(connect(server), arrival, request_timeout_seconds=0.1, retries=1)
        assert len(server.requests) == 2


class TestOddAnswers:
    """What obstore cannot read goes through boto3."""

    @pytest.mark.parametrize("name", ["Content-Type", "x-amz-meta-name", "Content-Disposition"])
    def test_a_header_beyond_ascii(self, server: FaultyS3, name: str) -> None:
        server.always = lambda handler, head, body: handler.answer(206, body, head | {name: "M\xfcller"})
        assert read(connect(server), stored(server)) == [BODY[:1024]]

    @BOTH
    def test_a_weak_etag_is_the_same_etag(self, server: FaultyS3, key: str) -> None:
        arrival = stored(server, key)
        weak = {"ETag": f'W/"{arrival.etag}"'}
        server.always = lambda handler, head, body: handler.answer(206, body, head | weak)
        assert read(connect(server), arrival._replace(etag=f'W/"{arrival.etag}')) == [BODY[:1024]]


class TestOneVersion:
    """What was listed is what is read, or the arrival's reason is ``object_changed``."""

    SECOND = Range(1024, 2048)

    @BOTH
    @pytest.mark.parametrize("heeds_if_match", [True, False])
    def test_replaced_between_two_ranges(self, server: FaultyS3, key: str, heeds_if_match: bool) -> None:
        arrival = stored(server, key)
        server.heeds_if_match = heeds_if_match
        server.before = lambda number: server.objects.update({key: BODY[::-1]} if number == 1 else {})
        with pytest.raises(HeaderError) as caught:
            read(connect(server), arrival, SPAN, self.SECOND)
        assert caught.value.reason is Reason.OBJECT_CHANGED
        assert [request.range for request in server.requests] == ["0-1023", "1024-2047"]

    @BOTH
    def test_replaced_while_a_body_is_taken_up_again(self, server: FaultyS3, key: str) -> None:
        assert self._replaced_in_mid_body(server, key).reason is Reason.OBJECT_CHANGED

    def test_the_same_where_conditions_are_ignored(self, server: FaultyS3) -> None:
        server.heeds_if_match = False
        with pytest.raises(S3UnavailableError):  # the next try of the task finds the object changed
            self._replaced_in_mid_body(server, "a/1.dcm")

    def _replaced_in_mid_body(self, server: FaultyS3, key: str) -> HeaderError:
        arrival = stored(server, key)
        server.faults.append(cut(100))
        server.before = lambda number: server.objects.update({key: BODY[::-1]} if number == 1 else {})
        with pytest.raises(HeaderError) as caught:
            read(connect(server), arrival)
        return caught.value

    @BOTH
    @pytest.mark.parametrize("odd", ["W/{}", '{}"', "{}é", "{}\n"])
    def test_an_etag_that_no_condition_can_hold_is_compared(self, server: FaultyS3, key: str, odd: str) -> None:
        arrival = stored(server, key)
        other = arrival._replace(etag=odd.format("other"))
        with pytest.raises(HeaderError) as caught:
            read(connect(server), other)
        assert caught.value.reason is Reason.OBJECT_CHANGED


class TestCredentials:
    def test_static_keys(self, server: FaultyS3) -> None:
        server.accepts = {"first"}
        assert read(connect(server), stored(server)) == [BODY[:1024]]

    def test_keys_that_s3_does_not_know_end_the_task(self, server: FaultyS3) -> None:
        server.accepts = {"another"}
        with pytest.raises(S3UnavailableError, match="InvalidAccessKeyId: check the endpoint, the credentials"):
            read(connect(server), stored(server))

    def test_none_at_all(self, server: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_PROFILE"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(S3UnavailableError, match="no valid credentials"):
            read(connect(server, boto3.Session()), stored(server))

    def test_a_profile(self, server: FaultyS3, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        server.accepts = {"profiled"}
        file = tmp_path / "credentials"
        file.write_text("[archive]\naws_access_key_id = profiled\naws_secret_access_key = secret\n")
        monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(file))
        assert read(connect(server, boto3.Session(profile_name="archive")), stored(server)) == [BODY[:1024]]

    @BOTH
    def test_a_role_s_are_renewed_in_mid_task(self, server: FaultyS3, key: str) -> None:
        role = Role()
        arrival = stored(server, key)
        reader = RangeReader(connect(server, role.session()), ParseSettings(retries=0))

        async def until(access_key: str) -> None:
            while not server.requests or server.requests[-1].access_key != access_key:
                assert await reader.read(arrival, SPAN) == BODY[:1024]

        async def task() -> None:
            server.accepts = {"key1"}
            await until("key1")
            role.pass_time(timedelta(minutes=55))
            server.accepts = {"key1", "key2"}  # for a while both are good: obstore asks ten times a second for them
            await until("key2")
            server.accepts = {"key2"}
            assert await reader.read(arrival, SPAN) == BODY[:1024]

        asyncio.run(task())

    def test_a_role_that_cannot_be_assumed_any_more_ends_the_task(self, server: FaultyS3) -> None:
        role = Role()
        s3 = connect(server, role.session())
        role.pass_time(timedelta(minutes=55))
        role.refuses = True
        with pytest.raises(S3UnavailableError, match=r"no valid credentials: check .* then clear the task"):
            read(s3, stored(server))


class TestRate:
    def test_requests_are_spaced_evenly(self) -> None:
        now = 100.0
        rate = RequestRate(4, lambda: now)
        assert [rate.reserve() for _ in range(3)] == [0, 0.25, 0.5]
        now += 0.6
        assert rate.reserve() == pytest.approx(0.15)

    def test_time_in_which_nothing_was_asked_is_not_caught_up(self) -> None:
        now = 0.0
        rate = RequestRate(4, lambda: now)
        rate.reserve()
        now += 10
        assert [rate.reserve() for _ in range(2)] == [0, 0.25]

    @BOTH
    def test_the_reader_waits_for_its_turn(self, server: FaultyS3, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
        waits: list[float] = []
        sleep = asyncio.sleep

        def noted(seconds: float) -> Awaitable[None]:
            waits.append(seconds)
            return sleep(0)

        monkeypatch.setattr(fetch.RequestRate, "reserve", lambda _rate: len(waits) / 1000)
        monkeypatch.setattr(fetch.asyncio, "sleep", noted)
        assert read(connect(server), stored(server, key), SPAN, SPAN, requests_per_second=4) == [BODY[:1024]] * 2
        assert waits == [0, 0.001]


class Role:
    """An assumed role, as botocore keeps it: each set of credentials is good for an hour, by a clock of its own."""

    def __init__(self) -> None:
        self.refuses = False
        self._given = 0
        self._now = datetime.now(UTC)

    def session(self) -> boto3.Session:
        botocore_session = get_session()
        credentials = RefreshableCredentials.create_from_metadata(self._assume(), self._assume, "sts-assume-role")
        credentials._time_fetcher = lambda: self._now
        botocore_session._credentials = credentials
        return boto3.Session(botocore_session=botocore_session, region_name="us-east-1")

    def pass_time(self, time: timedelta) -> None:
        self._now += time

    def _assume(self) -> dict[str, str]:
        if self.refuses:
            raise PermissionError("the role's trust was taken back")
        self._given += 1
        keys = {"access_key": f"key{self._given}", "secret_key": "secret", "token": f"token{self._given}"}
        return keys | {"expiry_time": (self._now + timedelta(hours=1)).isoformat()}
