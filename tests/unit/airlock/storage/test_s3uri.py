"""Addresses in S3."""

from __future__ import annotations

import pytest

from airlock.storage.s3uri import S3Uri, S3UriError


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [
        ("s3://bucket", "bucket", ""),
        ("s3://bucket/", "bucket", ""),
        ("s3://bucket/a/b", "bucket", "a/b"),
        ("s3://bucket/a b/é+%41//x\n", "bucket", "a b/é+%41//x\n"),
        ("s3://my.bucket-1//leading/", "my.bucket-1", "/leading/"),
    ],
)
def test_an_address_is_a_bucket_and_a_key(text: str, bucket: str, key: str) -> None:
    assert S3Uri.parse(text) == S3Uri(bucket, key)


@pytest.mark.parametrize(
    "text", ["", "bucket/key", "s3:/bucket/key", "http://bucket/key", "s3://Bucket/key", "s3://b/key", "s3://-b-/key"]
)
def test_what_is_no_address_is_refused_with_the_fix(text: str) -> None:
    with pytest.raises(S3UriError, match="write s3://bucket/prefix/"):
        S3Uri.parse(text)


@pytest.mark.parametrize(
    ("prefix", "parts", "joined"),
    [
        ("s3://bucket", ("a",), "s3://bucket/a"),
        ("s3://bucket/p/", ("a", "b"), "s3://bucket/p/a/b"),
        ("s3://bucket/p/", ("a", "b", ""), "s3://bucket/p/a/b/"),
        ("s3://bucket/p/", ("a/b/",), "s3://bucket/p/a/b/"),
        ("s3://bucket/p", ("/a/", "/b"), "s3://bucket/p/a/b"),
        ("s3://bucket/p/", ("same", "same"), "s3://bucket/p/same/same"),
        ("s3://bucket/p/", ("same/", "same/"), "s3://bucket/p/same/same/"),
        ("s3://bucket//p//", ("a",), "s3://bucket//p//a"),
    ],
)
def test_joining_keeps_the_prefix_as_it_is(prefix: str, parts: tuple[str, ...], joined: str) -> None:
    assert str(S3Uri.parse(prefix).join(*parts)) == joined
