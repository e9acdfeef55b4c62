"""The ranges of a prefix are together its whole listing, whatever the folders are called and however it is cut."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock.storage.key_ranges import KeyRange, cut_ranges, list_ranges
from airlock.storage.s3 import S3, BucketError
from airlock.storage.s3uri import S3Uri
from tests.explore.clock import Clock
from tests.explore.memory_s3 import MemoryS3

if TYPE_CHECKING:
    from collections.abc import Iterable

SOURCE = S3Uri("archive", "in/")
ODD = ("a/1", "a/2", "a0", "a/b/c/3", "ä/4", "z", "//5", " /6", "é +%41//x", "\U0001f4a9/7", "\uffee/8")


@pytest.fixture
def s3() -> S3:
    client = MemoryS3(Clock().now)
    client.create_bucket(Bucket="archive")
    return S3(None, client)  # type: ignore[arg-type]


def store(s3: S3, keys: Iterable[str]) -> None:
    for key in keys:
        s3.put(S3Uri("archive", key), b"x")


def list_all(s3: S3, ranges: list[KeyRange], at_once: int = 3) -> list[str]:
    return [key for one in list_ranges(s3, SOURCE, ranges, at_once) if one.rows is not None for key in one.rows["key"]]


@pytest.mark.parametrize("most", [1, 2, 3, 64])
def test_the_ranges_list_every_object_below_the_prefix_once(s3: S3, most: int) -> None:
    store(s3, [*(f"in/{name}" for name in ODD), "in.txt", "io/1", "in"])
    ranges = cut_ranges(s3, SOURCE, most)
    assert len(ranges) <= most
    assert sorted(list_all(s3, ranges)) == sorted(f"in/{name}" for name in ODD)


def test_few_folders_are_cut_at_their_own_folders(s3: S3) -> None:
    store(s3, (f"in/2026/{month:02}/{number}" for month in range(1, 13) for number in range(3)))
    ranges = cut_ranges(s3, SOURCE)
    assert KeyRange("in/2026/04/", "in/2026/05/") in ranges
    assert len(list_all(s3, ranges)) == 36


def test_a_prefix_without_folders_is_one_range(s3: S3) -> None:
    store(s3, ["in/1", "in/2"])
    assert cut_ranges(s3, SOURCE) == [KeyRange("", None)]
    assert cut_ranges(s3, S3Uri("archive", "none/")) == [KeyRange("", None)]


def test_a_listing_goes_on_after_a_key(s3: S3) -> None:
    store(s3, (f"in/{number:04}" for number in range(2500)))
    rest = list_all(s3, [KeyRange("in/1199", "in/2400")])
    assert rest == [f"in/{number:04}" for number in range(1200, 2401)]


def test_each_frame_has_the_key_after_which_its_range_goes_on(s3: S3) -> None:
    store(s3, ["in/1", "in/2", "in/3", "in/3/"])
    s3.put(SOURCE.join("3", ""), b"")
    frames = list(list_ranges(s3, SOURCE, [KeyRange("", "in/1"), KeyRange("in/1")], 1))
    assert [(one.number, one.rows is None, one.last) for one in frames] == [
        (0, False, "in/1"),
        (0, True, ""),
        (1, False, "in/3/"),
        (1, True, ""),
    ]


def test_a_bucket_that_cannot_be_listed_is_an_error(s3: S3) -> None:
    nowhere = S3Uri("nowhere", "in/")
    with pytest.raises(BucketError, match="bucket 'nowhere' cannot be listed"):
        cut_ranges(s3, nowhere)
    with pytest.raises(BucketError, match="bucket 'nowhere' cannot be listed"):
        list(list_ranges(s3, nowhere, [KeyRange()], 2))
