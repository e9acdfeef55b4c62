"""A listing's rows as boto3's own reading of the same answer has them, and answers that are no listing."""

from __future__ import annotations

import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, quote, urlsplit

import boto3
import polars as pl
import pytest
from botocore.config import Config
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.storage import key_ranges
from airlock.storage.key_ranges import RangedListing
from airlock.storage.listing import LISTED, ListingError, decode_keys
from airlock.storage.s3 import S3, BucketError, S3Error
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.storage.test_s3 import ODD_NAMES

if TYPE_CHECKING:
    from collections.abc import Iterator

ARCHIVE = S3Uri("archive", "in/")
NAMESPACE = 'xmlns="http://s3.amazonaws.com/doc/2006-03-01/"'
TIME = "2026-11-24T02:00:00.000Z"


NAMES = [*ODD_NAMES, "&amp;", "<Key>", "%0A"]


def item(key: str = "in/a", etag: str = "&quot;e&quot;", size: str = "5", time: str = TIME) -> str:
    columns = {"Key": key, "LastModified": time, "ETag": etag, "Size": size}
    return f"<Contents>{''.join(f'<{name}>{text}</{name}>' for name, text in columns.items())}</Contents>"


def answer(*items: str, more: str = "<IsTruncated>false</IsTruncated>", namespace: str = NAMESPACE) -> bytes:
    head = f"<ListBucketResult {namespace}><Name>archive</Name><EncodingType>url</EncodingType>{more}"
    return f'<?xml version="1.0"?>\n{head}{"".join(items)}</ListBucketResult>'.encode()


def truncated(token: str) -> str:
    return f"<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>"


@contextmanager
def answering(*answers: tuple[int, bytes]) -> Iterator[tuple[S3, list[str]]]:
    """An S3 whose server gives these answers in turn, the last again and again; and the tokens that it was sent."""
    tokens: list[str] = []

    class Canned(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, body = answers[min(len(tokens), len(answers) - 1)]
            tokens.extend(parse_qs(urlsplit(self.path).query).get("continuation-token", [""]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Canned)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    session = boto3.Session("testing", "testing", region_name="us-east-1")
    config = Config(retries={"total_max_attempts": 2, "mode": "standard"})
    url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield S3(session, session.client("s3", endpoint_url=url, config=config)), tokens
    finally:
        server.shutdown()
        server.server_close()


def listed(s3: S3) -> list[tuple[Any, ...]]:
    return [row for rows in RangedListing(s3, ARCHIVE, 1) for row in rows.iter_rows()]


class TestAgainstBoto3:
    def test_every_object_is_what_boto3_reads(self, s3: S3) -> None:
        for name in NAMES:
            s3.put(S3Uri("archive", f"in/{name}"), name.encode())
        items = s3.client.list_objects_v2(Bucket="archive", Prefix="in/")["Contents"]
        expected = [(item["Key"], None, item["ETag"].strip('"'), item["Size"], item["LastModified"]) for item in items]
        assert listed(s3) == expected
        assert len(expected) == len(NAMES)

    def test_page_after_page_in_key_order(self, s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("MOTO_S3_DEFAULT_MAX_KEYS", "2")
        for number in range(5):
            s3.put(S3Uri("archive", f"in/{number}"), b"x")
        assert [row[0] for row in listed(s3)] == [f"in/{number}" for number in range(5)]

    def test_other_calls_of_the_client_read_as_ever(self, s3: S3) -> None:
        s3.put(S3Uri("archive", "in/a"), b"x")
        assert len(listed(s3)) == 1
        assert s3.client.list_objects_v2(Bucket="archive")["Contents"][0]["Key"] == "in/a"

    def test_folders_are_named_one_level_down(self, s3: S3) -> None:
        for key in ("in/b +/x", "in/a/x", "in/a/deep/y", "in/file", "other/z"):
            s3.put(S3Uri("archive", key), b"x")
        assert s3.list_folders(ARCHIVE) == ["a", "b +"]

    def test_a_bucket_that_is_not_there_is_said_so(self, s3: S3) -> None:
        with pytest.raises(BucketError, match=r"bucket 'nowhere' cannot be listed \(ListObjectsV2: NoSuchBucket\)"):
            list(RangedListing(s3, S3Uri("nowhere", ""), 1))


@settings(max_examples=50)
@given(st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5)))
def test_keys_are_decoded_all_at_once_as_one_by_one(keys: list[str]) -> None:
    assert decode_keys([quote(key, safe="/").replace("%20", "+") for key in keys]) == keys


class TestAnswers:
    def test_of_another_namespace_or_none(self) -> None:
        for namespace in ("", 'xmlns="urn:other"'):
            with answering((200, answer(item(), namespace=namespace))) as (s3, _):
                assert [row[:4] for row in listed(s3)] == [("in/a", None, "e", 5)]

    def test_control_characters_in_a_key_are_a_part_of_it(self) -> None:
        """Which moto's server does not take."""
        with answering((200, answer(item("in/a%0Ab"), item("in/+%2B%25%0D%07%7F")))) as (s3, _):
            assert [row[0] for row in listed(s3)] == ["in/a\nb", "in/ +%\r\x07\x7f"]

    def test_the_next_page_is_asked_for_by_its_token(self) -> None:
        pages = [answer(item("in/a"), more=truncated("t+1/=")), answer(item("in/b"))]
        with answering(*((200, page) for page in pages)) as (s3, tokens):
            assert [row[0] for row in listed(s3)] == ["in/a", "in/b"]
        assert tokens == ["", "t+1/="]

    def test_of_many_pages_are_joined(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(key_ranges, "FRAME_ROWS", 2000)
        keys = [f"in/{number:04}" for number in range(2001)]
        pages = [
            answer(*map(item, keys[:1000]), more=truncated("1")),
            answer(*map(item, keys[1000:2000]), more=truncated("2")),
            answer(item(keys[2000])),
        ]
        with answering(*((200, page) for page in pages)) as (s3, _):
            frames = list(RangedListing(s3, ARCHIVE, 1))
        assert [frame.height for frame in frames] == [2000, 1]
        assert pl.concat(frames)["key"].to_list() == keys
        assert all(frame.schema == LISTED for frame in frames)

    def test_an_error_under_the_status_of_a_success_is_asked_again(self) -> None:
        error = b"<Error><Code>InternalError</Code><Message>again</Message></Error>"
        with answering((200, error), (200, answer(item()))) as (s3, _):
            assert len(listed(s3)) == 1
        with answering((200, error)) as (s3, _), pytest.raises(S3Error, match="InternalError"):
            listed(s3)

    def test_one_that_breaks_off_is_asked_again(self) -> None:
        with answering((200, answer(item())[:-40]), (200, answer(item()))) as (s3, _):
            assert len(listed(s3)) == 1

    @pytest.mark.parametrize(
        ("body", "complaint"),
        [
            (b"<html><body>log in</body></html>", "is not from S3"),
            (b'<!DOCTYPE x [<!ENTITY a "b">]><ListBucketResult>&a;</ListBucketResult>', "document type"),
            (answer(more="<IsTruncated>true</IsTruncated>"), "continues, but gives no token"),
            (answer(item(), more=truncated("same")), "continues, but gives no token"),
            (answer("<Contents><ETag>e</ETag></Contents>"), "an object without a key"),
            (answer("<Contents><Key></Key><ETag>e</ETag></Contents>"), "an object without a key"),
            (answer("<Contents><Key>MUELLER</Key></Contents>"), "1 objects without a readable etag"),
            (answer(item("MUELLER", size="")), "1 objects without a readable size"),
            (answer(item("MUELLER", size="5.5"), item()), "1 objects without a readable size"),
            (answer(item("MUELLER", time="yesterday")), "1 objects without a readable last_modified"),
        ],
    )
    def test_one_that_s3_never_gives_ends_the_listing(self, body: bytes, complaint: str) -> None:
        with answering((200, body)) as (s3, _), pytest.raises(ListingError, match=complaint) as info:
            listed(s3)
        assert "MUELLER" not in str(info.value)

    def test_botocore_reads_no_row(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Neither to look for an error, nor to make objects of it: it would take most of a listing's time."""
        seen: list[int] = []

        def look(_status: int, body: bytes) -> bool:
            seen.append(len(body))
            return False

        monkeypatch.setattr("botocore.handlers._looks_like_special_case_error", look)
        with answering((200, answer(*(item(f"in/{number}") for number in range(100))))) as (s3, _):
            assert len(listed(s3)) == 100
        assert len(seen) == 1
        assert seen[0] < 500
