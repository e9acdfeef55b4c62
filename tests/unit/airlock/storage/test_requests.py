"""Requests are counted by operation, retries included, and keep to a rate."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock.storage.requests import RequestMeter
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.storage.s3 import S3

WHERE = S3Uri("archive", "in/")


def test_requests_are_counted_by_operation(s3: S3) -> None:
    s3.put(WHERE.join("before"), b"x")
    with RequestMeter().attached(s3.client) as requests:
        s3.put(WHERE.join("1"), b"x")
        assert s3.exists(WHERE.join("1"))
        assert [page.keys for page in s3.list_pages(WHERE)] == [["in/1", "in/before"]]
    s3.put(WHERE.join("after"), b"x")
    assert requests.sent == {"PutObject": 1, "HeadObject": 1, "ListObjectsV2": 1}


def test_requests_keep_to_the_rate() -> None:
    pauses: list[float] = []
    meter = RequestMeter(10, clock=lambda: sum(pauses), pause=pauses.append)
    for _ in range(21):
        meter.count("Get")
    assert sum(pauses) == pytest.approx(2.0)
    assert (meter.take_counts(), meter.take_counts()) == ({"Get": 21}, {})


def test_a_listing_goes_on_after_a_key(s3: S3) -> None:
    for name in ("a", "é +%41//x", "z"):
        s3.put(WHERE.join(name), b"x")
    assert [page.keys for page in s3.list_pages(WHERE, "in/a")] == [["in/z", "in/é +%41//x"]]
    assert [page.keys for page in s3.list_pages(WHERE, "in/é +%41//x")] == [[]]
