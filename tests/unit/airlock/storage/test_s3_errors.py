"""S3 that is cut off, refuses or talks nonsense: the error names bucket, operation and fix, and no key."""

from __future__ import annotations

import io
import logging
import traceback
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from botocore.config import Config

from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from tests.servers.broken import broken_server, full_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NAME = "DOE^JANE^MRN-99812"
WHERE = S3Uri("archive", f"in/{NAME}/01.ndjson")
SEEN = ("DOE", "JANE", "99812", "http://", "https://", "ndjson")
ERROR = f"<Error><Code>{{}}</Code><Message>{NAME}</Message><Key>{WHERE.key}</Key></Error>"

OPERATIONS: dict[str, Callable[[S3], Any]] = {
    "ListObjectsV2": lambda s3: list(s3.list_objects(WHERE)),
    "ListObjectsV2 of folders": lambda s3: s3.list_folders(WHERE),
    "GetObject": lambda s3: s3.get(WHERE),
    "GetObject in pieces": lambda s3: list(s3.stream(WHERE, "0" * 32)),
    "HeadObject": lambda s3: s3.exists(WHERE),
    "HeadObject of a row": lambda s3: s3.find(WHERE),
    "PutObject": lambda s3: s3.put(WHERE, b"x"),
    "PutObject of a file": lambda s3: s3.put_file(WHERE, io.BytesIO(b"x"), "text/csv"),
    "DeleteObjects": lambda s3: s3.delete(WHERE.bucket, [WHERE.key]),
    "CopyObject": lambda s3: s3.copy({"Bucket": "archive", "Key": WHERE.key}, "0" * 32, 1, WHERE),
    "CopyObject in parts": lambda s3: s3.copy({"Bucket": "archive", "Key": WHERE.key}, "0" * 32, 6 * 1024**3, WHERE),
}


def http(status: int, body: str, length: int | None = None) -> bytes:
    head = f'HTTP/1.1 {status} X\r\nContent-Length: {len(body) if length is None else length}\r\nETag: "x"\r\n'
    return f"{head}Connection: close\r\n\r\n{body}".encode()


SESSION = boto3.Session("testing", "testing", region_name="us-east-1")  # one, which loads its models once


def client(endpoint: str, **config: Any) -> S3:
    quick = {"connect_timeout": 0.1, "read_timeout": 0.05, "retries": {"total_max_attempts": 1}}
    return S3(SESSION, SESSION.client("s3", endpoint_url=endpoint, config=Config(**quick | config)))


@contextmanager
def refused() -> Iterator[S3]:
    yield client("http://127.0.0.1:9")


@contextmanager
def unknown_host() -> Iterator[S3]:
    yield client("http://nowhere.invalid")


@contextmanager
def dead_proxy() -> Iterator[S3]:
    yield client("http://s3.example.com", proxies={"http": "http://127.0.0.1:9"})


@contextmanager
def no_handshake() -> Iterator[S3]:
    with full_server() as endpoint:
        yield client(endpoint)


def answering(answer: bytes | None, scheme: str = "http") -> Any:
    @contextmanager
    def served() -> Iterator[S3]:
        with broken_server(answer) as endpoint:
            yield client(endpoint.replace("http", scheme, 1))

    return served


FAULTS: dict[str, tuple[Any, str]] = {
    "connection refused": (refused, "EndpointConnectionError"),
    "host name unknown": (unknown_host, "EndpointConnectionError"),
    "proxy is away": (dead_proxy, "ProxyConnectionError"),
    "no connection in time": (no_handshake, "ConnectTimeoutError"),
    "no answer in time": (answering(None), "ReadTimeoutError"),
    "connection closed": (answering(b""), "ConnectionClosedError"),
    "no TLS": (answering(b"HTTP/1.1 200 OK\r\n\r\n", "https"), "SSLError"),
    "no XML": (answering(http(200, f"<ListBucketResult><Key>{WHERE.key}")), ""),
    "answer breaks off": (answering(http(200, "", length=9999)), ""),
    "forbidden": (answering(http(403, ERROR.format("AccessDenied"))), ""),
    "busy": (answering(http(503, ERROR.format("SlowDown"))), ""),
    "an unknown code": (answering(http(409, ERROR.format("OperationAborted"))), ""),
    "headers that cannot be parsed": (answering(b"HTTP/1.1 500 X\r\n: " + NAME.encode() + b"\r\n\r\n"), ""),
}


EACH = [(operation, "connection closed") for operation in OPERATIONS]
EACH += [(operation, fault) for fault in FAULTS for operation in ("ListObjectsV2", "GetObject", "GetObject in pieces")]


@pytest.mark.parametrize(("operation", "fault"), EACH)
def test_an_error_of_s3_names_no_object(operation: str, fault: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    broken, code = FAULTS[fault]
    error: Exception | None = None
    with broken() as s3:
        try:
            OPERATIONS[operation](s3)
        except Exception as raised:  # noqa: BLE001  (whatever it is, Airflow's log has it)
            error = raised
    text = "".join(traceback.format_exception(error)) if error else ""
    assert [name for name in SEEN if name in text + caplog.text] == []
    if code:  # other answers are nonsense for some operations only
        assert "'archive'" in str(error)
        assert f"({operation.split(maxsplit=1)[0]}: {code})" in str(error)
