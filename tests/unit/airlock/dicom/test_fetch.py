"""What S3's answers mean: a reason for one object, or the end of the task. The server here answers what a key names."""

from __future__ import annotations

import asyncio
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING

import boto3
import pytest
from botocore.config import Config

from airlock.dicom.errors import HeaderError
from airlock.dicom.fetch import Arrival, RangeReader, S3UnavailableError, needs_boto3
from airlock.dicom.ranged import Range
from airlock.pipelines import ParseSettings
from airlock.reasons import Reason
from airlock.storage.s3 import S3

if TYPE_CHECKING:
    from collections.abc import Iterator

BODY = (
    '<?xml version="1.0" encoding="UTF-8"?><Error><Code>{code}</Code><Message>no</Message><Key>{key}</Key>'
    "<RequestId>1</RequestId><HostId>1</HostId></Error>"
)


class Refusing(BaseHTTPRequestHandler):
    """Answers ``.../<status>-<code>`` with that status and that S3 error code; no code, no body."""

    def do_GET(self) -> None:
        status, _, code = self.path.partition("?")[0].rpartition("/")[2].partition("-")
        body = BODY.format(code=code, key="CANARY").encode() if code else b""
        self.send_response(int(status))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Keep quiet."""


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Refusing)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def read(endpoint: str, key: str, **settings: float) -> bytes:
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    client = session.client("s3", endpoint_url=endpoint, config=Config(retries={"total_max_attempts": 1}))
    reader = RangeReader(S3(session, client), ParseSettings.model_validate(settings))

    async def once() -> bytes:
        return await reader.read(Arrival("bucket", key, None, "etag", 100), Range(0, 10))

    return asyncio.run(once())


@pytest.mark.parametrize("prefix", ["CANARY/", "CANARY//"], ids=["obstore", "boto3"])
class TestRefusals:
    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            ("404-NoSuchKey", Reason.OBJECT_GONE),
            ("404-NoSuchVersion", Reason.OBJECT_GONE),
            ("404-", Reason.OBJECT_GONE),
            ("405-MethodNotAllowed", Reason.OBJECT_GONE),
            ("412-PreconditionFailed", Reason.OBJECT_CHANGED),
            ("412-", Reason.OBJECT_CHANGED),
            ("416-InvalidRange", Reason.OBJECT_CHANGED),
            ("403-AccessDenied", Reason.ACCESS_DENIED),
            ("403-", Reason.ACCESS_DENIED),
            ("403-InvalidObjectState", Reason.ACCESS_DENIED),
            ("400-KMS.DisabledException", Reason.ACCESS_DENIED),
            ("400-InvalidRequest", Reason.ACCESS_DENIED),  # it lies there under a key of the customer's own (SSE-C)
            ("400-InvalidArgument", Reason.UNREADABLE),
            ("400-InvalidURI", Reason.UNREADABLE),
            ("400-KeyTooLongError", Reason.UNREADABLE),
        ],
    )
    def test_about_one_object(self, endpoint: str, prefix: str, answer: str, reason: Reason) -> None:
        with pytest.raises(HeaderError) as caught:
            read(endpoint, prefix + answer)
        assert caught.value.reason is reason
        assert "CANARY" not in str(caught.value)

    @pytest.mark.parametrize(
        "answer",
        [
            "403-InvalidAccessKeyId",
            "403-SignatureDoesNotMatch",
            "400-ExpiredToken",
            "403-RequestTimeTooSkewed",
            "404-NoSuchBucket",
            "400-AuthorizationHeaderMalformed",
        ],
    )
    def test_about_all_of_them(self, endpoint: str, prefix: str, answer: str) -> None:
        with pytest.raises(S3UnavailableError) as caught:
            read(endpoint, prefix + answer)
        assert answer.partition("-")[2] in str(caught.value)
        assert "CANARY" not in str(caught.value)
        assert caught.value.__cause__ is None
        assert caught.value.__suppress_context__

    @pytest.mark.parametrize(("code", "says"), [("InvalidRequest", "SSE-C"), ("InvalidObjectState", "not restored")])
    def test_what_the_code_does_not_say_is_said(self, endpoint: str, prefix: str, code: str, says: str) -> None:
        with pytest.raises(HeaderError, match=says):
            read(endpoint, f"{prefix}400-{code}")

    def test_no_answer_in_time(self, endpoint: str, prefix: str) -> None:
        with pytest.raises(S3UnavailableError):
            read(endpoint, prefix + "503-SlowDown", request_timeout_seconds=0.3, retries=0)

    def test_nobody_there(self, prefix: str) -> None:
        with pytest.raises(S3UnavailableError):
            read("http://127.0.0.1:9", prefix + "x", request_timeout_seconds=0.3, retries=0)


def test_a_key_that_looks_like_an_answer_means_nothing(endpoint: str) -> None:
    with pytest.raises(HeaderError) as caught:
        read(endpoint, "<Code>NoSuchBucket</Code>/404-NoSuchKey")
    assert caught.value.reason is Reason.OBJECT_GONE


@pytest.mark.parametrize("key", ["a//b", "/a", "a/", "./a", "a/../b", "a/.", "a\tb", "a\nb", ""])
def test_keys_for_boto3(key: str) -> None:
    assert needs_boto3(key)


@pytest.mark.parametrize("key", ["a/b", "a b+é#%20", "a\\b", ".a", "a/..b", "a?b", "{x}"])
def test_keys_for_obstore(key: str) -> None:
    assert not needs_boto3(key)
