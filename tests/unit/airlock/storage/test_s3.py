"""S3 against a server: odd keys, and copies that are guarded by the etag."""

from __future__ import annotations

import io
import json
from typing import TYPE_CHECKING, Any

import pytest
from botocore.exceptions import ReadTimeoutError

import airlock.storage.s3
from airlock.storage.s3 import BucketError, S3Error
from airlock.storage.s3uri import S3Uri
from tests.servers.objects import encrypt_bucket

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.storage.s3 import S3

ODD_NAMES = ["a b", "a+b", "é ü", "//", "x//y", "%41", "100%", "q?#{}", "../up", "back\\slash", "_", "~'\""]


@pytest.mark.parametrize("in_one_call", [10, 1024**3])
def test_a_file_goes_up_whole_or_in_parts(s3: S3, monkeypatch: pytest.MonkeyPatch, in_one_call: int) -> None:
    monkeypatch.setattr("airlock.storage.s3._PUT_IN_ONE_CALL", in_one_call)
    where = S3Uri("work", "audit/table.csv")
    s3.put_file(where, io.BytesIO(b"a line\n" * 10), "text/csv")
    assert s3.get(where) == b"a line\n" * 10
    assert s3.client.head_object(Bucket=where.bucket, Key=where.key)["ContentType"] == "text/csv"


@pytest.mark.parametrize("name", ODD_NAMES)
def test_an_odd_key_is_listed_read_copied_and_deleted_as_it_is(s3: S3, name: str) -> None:
    where = S3Uri("archive", f"odd/{name}")
    s3.put(where, b"content")
    (listed,) = s3.list_objects(S3Uri("archive", "odd/"))
    assert (listed.key, listed.size) == (where.key, 7)
    assert s3.exists(where)
    s3.copy({"Bucket": "archive", "Key": listed.key}, listed.etag, listed.size, S3Uri("work", "copy"))
    assert s3.get(S3Uri("work", "copy")) == b"content"
    s3.delete("archive", [listed.key])
    assert list(s3.list_objects(S3Uri("archive", ""))) == []


class TestStream:
    BODY = bytes(range(256)) * 12_000  # three pieces

    def test_an_object_comes_in_pieces(self, s3: S3) -> None:
        s3.put(S3Uri("archive", "x"), self.BODY)
        pieces = list(s3.stream(S3Uri("archive", "x")))
        assert b"".join(pieces) == self.BODY
        assert len(pieces) == 3

    @pytest.mark.parametrize("name", ODD_NAMES)
    def test_under_any_key(self, s3: S3, name: str) -> None:
        s3.put(S3Uri("archive", f"odd/{name}"), b"content")
        assert b"".join(s3.stream(S3Uri("archive", f"odd/{name}"))) == b"content"

    def test_an_empty_one_has_none(self, s3: S3) -> None:
        s3.put(S3Uri("archive", "x"), b"")
        assert b"".join(s3.stream(S3Uri("archive", "x"))) == b""

    def test_one_that_was_replaced_is_refused(self, s3: S3) -> None:
        s3.put(S3Uri("archive", "x"), b"old")
        (old,) = s3.list_objects(S3Uri("archive", "x"))
        assert b"".join(s3.stream(S3Uri("archive", "x"), old.etag)) == b"old"
        s3.put(S3Uri("archive", "x"), b"new")
        with pytest.raises(S3Error, match=r"412|PreconditionFailed"):
            list(s3.stream(S3Uri("archive", "x"), old.etag))

    def test_one_that_is_not_there_is_refused(self, s3: S3) -> None:
        with pytest.raises(S3Error, match="NoSuchKey"):
            list(s3.stream(S3Uri("archive", "nothing")))

    def test_a_connection_that_breaks_is_taken_up_where_it_broke(self, s3: S3) -> None:
        s3.put(S3Uri("archive", "x"), self.BODY)
        client = Breaking(s3.client, good=1)
        assert b"".join(airlock.storage.s3.S3(s3.session, client).stream(S3Uri("archive", "x"))) == self.BODY
        (etag,) = {item.etag for item in s3.list_objects(S3Uri("archive", "x"))}
        assert client.asked == [
            {},
            {"IfMatch": etag, "Range": f"bytes={1024**2}-"},
            {"IfMatch": etag, "Range": f"bytes={2 * 1024**2}-"},
        ]

    def test_one_that_was_replaced_while_it_was_broken_is_refused(self, s3: S3) -> None:
        s3.put(S3Uri("archive", "x"), self.BODY)
        stream = airlock.storage.s3.S3(s3.session, Breaking(s3.client, good=1)).stream(S3Uri("archive", "x"))
        assert next(stream)
        s3.put(S3Uri("archive", "x"), self.BODY[::-1])
        with pytest.raises(S3Error, match=r"412|PreconditionFailed"):
            list(stream)

    def test_one_that_breaks_without_a_byte_is_given_up(self, s3: S3) -> None:
        s3.put(S3Uri("archive", "x"), self.BODY)
        client = Breaking(s3.client, good=0)
        with pytest.raises(S3Error, match="ReadTimeoutError"):
            list(airlock.storage.s3.S3(s3.session, client).stream(S3Uri("archive", "x")))
        assert len(client.asked) == 6


class Breaking:
    """A client whose answers break off after so many pieces, unless they are at their end."""

    def __init__(self, client: Any, good: int) -> None:
        self.client = client
        self.good = good
        self.asked: list[dict[str, str]] = []

    def get_object(self, Bucket: str, Key: str, **more: str) -> dict[str, Any]:
        self.asked.append(more)
        reply = self.client.get_object(Bucket=Bucket, Key=Key, **more)
        body = reply["Body"]

        class Body:
            @staticmethod
            def iter_chunks(size: int) -> Iterator[bytes]:
                pieces = list(body.iter_chunks(size))
                yield from pieces[: self.good]
                if len(pieces) > self.good:
                    raise ReadTimeoutError(endpoint_url="http://s3")

        return reply | {"Body": Body}


def test_a_prefix_that_ends_in_a_slash_takes_no_longer_name_in(s3: S3) -> None:
    for key in ("1.2.3/a", "1.2.34/b", "1.2.3"):
        s3.put(S3Uri("archive", key), b"x")
    assert [item.key for item in s3.list_objects(S3Uri("archive", "1.2.3/"))] == ["1.2.3/a"]


def test_folder_placeholders_are_left_out_unless_asked_for(s3: S3) -> None:
    s3.put(S3Uri("archive", "folder/"), b"")
    s3.put(S3Uri("archive", "folder/full/"), b"x")
    assert [item.key for item in s3.list_objects(S3Uri("archive", ""))] == ["folder/full/"]
    everything = s3.list_objects(S3Uri("archive", ""), placeholders=True)
    assert [item.key for item in everything] == ["folder/", "folder/full/"]


def test_what_is_not_there_is_said_so(s3: S3) -> None:
    assert not s3.exists(S3Uri("archive", "nothing"))
    with pytest.raises(FileNotFoundError, match="archive"):
        s3.get(S3Uri("archive", "nothing"))


def test_an_object_that_changed_is_not_copied(s3: S3) -> None:
    s3.put(S3Uri("archive", "x"), b"old")
    (old,) = s3.list_objects(S3Uri("archive", "x"))
    s3.put(S3Uri("archive", "x"), b"new")
    with pytest.raises(S3Error, match="PreconditionFailed"):
        s3.copy({"Bucket": "archive", "Key": "x"}, old.etag, old.size, S3Uri("work", "x"))
    assert not s3.exists(S3Uri("work", "x"))


def test_an_object_under_a_kms_key_is_copied_to_a_bucket_without_one(s3: S3) -> None:
    encrypt_bucket(s3.client, "archive")
    s3.put(S3Uri("archive", "x"), b"content")
    (listed,) = s3.list_objects(S3Uri("archive", "x"))
    s3.copy({"Bucket": "archive", "Key": "x"}, listed.etag, listed.size, S3Uri("work", "x"))
    (copied,) = s3.list_objects(S3Uri("work", "x"))
    assert (s3.get(S3Uri("work", "x")), copied.etag == listed.etag) == (b"content", False)


def test_a_large_object_is_copied_in_parts(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    part = 5 * 1024**2  # the least that S3 takes
    monkeypatch.setattr(airlock.storage.s3, "COPY_IN_ONE_CALL", part)
    monkeypatch.setattr(airlock.storage.s3, "_COPY_PART", part)
    body = bytes(range(256)) * (2 * part // 256) + b"rest"
    s3.put(S3Uri("archive", "large"), body)
    (listed,) = s3.list_objects(S3Uri("archive", "large"))
    s3.copy({"Bucket": "archive", "Key": "large"}, listed.etag, listed.size, S3Uri("work", "large"))
    assert s3.get(S3Uri("work", "large")) == body
    assert next(iter(s3.list_objects(S3Uri("work", "large")))).etag.endswith("-3")


def test_a_copy_in_parts_that_fails_leaves_nothing(s3: S3, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airlock.storage.s3, "COPY_IN_ONE_CALL", 1)
    s3.put(S3Uri("archive", "large"), b"abc")
    with pytest.raises(S3Error):
        s3.copy({"Bucket": "archive", "Key": "gone"}, "0" * 32, 3, S3Uri("work", "large"))
    assert "Uploads" not in s3.client.list_multipart_uploads(Bucket="work")


@pytest.mark.parametrize("operation", ["copy_object", "upload_part_copy", "complete_multipart_upload"])
def test_a_copy_whose_answer_has_no_etag_is_an_error(s3: S3, monkeypatch: pytest.MonkeyPatch, operation: str) -> None:
    """boto3 takes an answer 200 without a body for a success."""
    if operation != "copy_object":
        monkeypatch.setattr(airlock.storage.s3, "COPY_IN_ONE_CALL", 1)
    s3.put(S3Uri("archive", "x"), b"abc")
    (listed,) = s3.list_objects(S3Uri("archive", "x"))
    asked: list[Any] = []
    monkeypatch.setattr(s3.client, operation, lambda **given: asked.append(given) or {})
    with pytest.raises(S3Error, match="IncompleteReadError"):
        s3.copy({"Bucket": "archive", "Key": "x"}, listed.etag, listed.size, S3Uri("work", "x"))
    assert len(asked) == 3
    assert "Uploads" not in s3.client.list_multipart_uploads(Bucket="work")


def test_more_than_a_thousand_objects_are_deleted(s3: S3) -> None:
    keys = [f"{number:04}" for number in range(1001)]
    s3.put(S3Uri("archive", keys[0]), b"")
    s3.put(S3Uri("archive", keys[-1]), b"")
    s3.delete("archive", keys)
    assert list(s3.list_objects(S3Uri("archive", ""))) == []


def test_a_delete_that_s3_refuses_is_an_error_without_the_key(s3: S3) -> None:
    s3.put(S3Uri("archive", "MUELLER"), b"")
    refusal = {"Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": "arn:aws:s3:::archive/*"}
    s3.client.put_bucket_policy(Bucket="archive", Policy=json.dumps({"Version": "2012-10-17", "Statement": [refusal]}))
    with pytest.raises(
        PermissionError, match=r"1 of 1 objects .* bucket archive .*AccessDenied.*s3:DeleteObject"
    ) as info:
        s3.delete("archive", ["MUELLER"])
    assert "MUELLER" not in str(info.value)


def test_a_bucket_that_cannot_be_listed_is_named_with_the_fix(s3: S3) -> None:
    with pytest.raises(
        BucketError, match=r"bucket 'nowhere' cannot be listed \(ListObjectsV2: NoSuchBucket\): correct"
    ):
        list(s3.list_objects(S3Uri("nowhere", "MUELLER/")))
