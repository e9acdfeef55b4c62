"""The stub of S3 answers Airlock's own clients as S3 would, without holding an archive's bytes."""

from __future__ import annotations

import io
import json
import urllib.request
from typing import TYPE_CHECKING, Any

import boto3
import pydicom
import pytest
from benchmarks.stub_s3 import COUNTS, ETAG, LONGEST_WAIT, SIZE, Archive, Rate, stub_s3
from botocore.config import Config

from airlock.storage.s3 import S3, S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

OBJECTS = 2_500  # three pages


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    with stub_s3({"other": 10, "images": OBJECTS}) as url:
        yield url


@pytest.fixture(scope="module")
def s3(endpoint: str) -> S3:
    session = boto3.Session("stub", "stub", region_name="us-east-1")
    return S3(session, session.client("s3", endpoint_url=endpoint))


def header(s3: S3, bucket: str, key: str) -> Any:
    reply = s3.client.get_object(Bucket=bucket, Key=key, Range="bytes=0-16383")
    return pydicom.dcmread(io.BytesIO(reply["Body"].read()), stop_before_pixels=True)


def test_an_archive_is_listed_in_the_order_of_its_keys_page_by_page(s3: S3) -> None:
    listed = list(s3.list_objects(S3Uri("images", "in/")))
    keys = [item.key for item in listed]
    assert len(keys) == len(set(keys)) == OBJECTS
    assert keys == sorted(keys)
    assert {(item.size, item.etag) for item in listed} == {(SIZE, ETAG)}


def test_a_prefix_and_its_folders_are_listed(s3: S3) -> None:
    assert next(s3.list_objects(S3Uri("images", "in/0000004/0/"))).key == "in/0000004/0/0000.dcm"
    assert s3.list_folders(S3Uri("images", "in/")) == [f"{number:07}" for number in range(5)]
    assert list(s3.list_objects(S3Uri("images", "out/"))) == []


def test_each_image_has_a_header_of_its_own(s3: S3) -> None:
    one, other = header(s3, "images", "in/0000004/0/0007.dcm"), header(s3, "images", "in/0000003/3/0007.dcm")
    assert one.StudyInstanceUID != other.StudyInstanceUID
    assert one.PatientID != other.PatientID
    assert one.SeriesInstanceUID.startswith(one.StudyInstanceUID + ".")
    assert one.SOPInstanceUID.startswith(one.SeriesInstanceUID + ".")
    again = header(s3, "other", "in/0000000/0/0007.dcm")
    assert again.SOPInstanceUID != header(s3, "images", "in/0000000/0/0007.dcm").SOPInstanceUID


def test_ranges_fit_together_and_end_with_the_object() -> None:
    archive, key = Archive(1, 10), "in/0000000/0/0003.dcm"
    whole = archive.read(key, 0, SIZE - 1)
    assert len(whole) == SIZE
    assert archive.read(key, 0, 99) + archive.read(key, 100, 9_999) == whole[:10_000]
    assert archive.find("in/0000000/0/0009.dcm") is not None
    assert archive.find("in/0000000/0/0010.dcm") is None
    assert archive.find("in/0000000/5/0000.dcm") is None


def test_copies_are_listed_with_the_size_and_etag_of_their_source(s3: S3) -> None:
    source = {"Bucket": "images", "Key": "in/0000000/0/0001.dcm"}
    s3.copy(source, ETAG, SIZE, S3Uri("staging", "a/000000.dcm"))
    (found,) = s3.list_objects(S3Uri("staging", "a/"))
    assert (found.key, found.etag, found.size) == ("a/000000.dcm", ETAG, SIZE)


@pytest.mark.parametrize(
    ("key", "etag", "code"),
    [("in/0000000/0/0001.dcm", "f" * 32, "PreconditionFailed"), ("in/9999999/0/0001.dcm", ETAG, "NoSuchKey")],
)
def test_a_copy_of_what_changed_or_is_gone_is_refused(s3: S3, key: str, etag: str, code: str) -> None:
    with pytest.raises(S3Error) as refused:
        s3.copy({"Bucket": "images", "Key": key}, etag, SIZE, S3Uri("staging", "b/000000.dcm"))
    assert refused.value.code == code
    assert list(s3.list_objects(S3Uri("staging", "b/"))) == []


def test_a_workspace_is_written_read_listed_and_deleted(s3: S3) -> None:
    names = [S3Uri("workspace", f"runs/one/{name} & more") for name in ("a", "b")]
    for name in names:
        s3.put(name, name.key.encode())
    assert s3.get(names[0]) == names[0].key.encode()
    assert [item.key for item in s3.list_objects(S3Uri("workspace", "runs/"))] == [name.key for name in names]
    assert s3.exists(names[1])
    s3.delete("workspace", [names[1].key])
    assert not s3.exists(names[1])
    with pytest.raises(FileNotFoundError):
        s3.get(names[1])


def test_requests_are_counted(s3: S3, endpoint: str) -> None:
    s3.put(S3Uri("counted", "a"), b"1")
    with urllib.request.urlopen(endpoint + COUNTS) as reply:
        assert json.load(reply)["requests"]["put counted"] == 1


def test_a_rate_makes_requests_wait_for_their_turn_and_refuses_those_that_would_wait_too_long() -> None:
    rate = Rate(4)
    assert [rate.take_turn(100.0) for _ in range(6)] == [0, 0.25, 0.5, 0.75, LONGEST_WAIT, None]
    assert rate.take_turn(101.0) == 0.25


def test_more_than_a_rate_gets_slow_down() -> None:
    with stub_s3({"images": 10}, rates={"get": 0.5}) as url:
        session, once = (
            boto3.Session("stub", "stub", region_name="us-east-1"),
            Config(retries={"total_max_attempts": 1}),
        )
        client = session.client("s3", endpoint_url=url, config=once)
        client.get_object(Bucket="images", Key="in/0000000/0/0000.dcm")
        with pytest.raises(client.exceptions.ClientError, match="SlowDown"):
            client.get_object(Bucket="images", Key="in/0000000/0/0000.dcm")
