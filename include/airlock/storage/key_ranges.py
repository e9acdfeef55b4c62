"""Listings in parallel: the keys below a prefix are cut at its folders into ranges, which are listed at the same time.

S3 lists one prefix at a few thousand keys a second, but many at once. A range is bounded by keys, not by a folder, so
that objects beside the folders belong to a range too, and an interrupted listing goes on after a key.
"""

from __future__ import annotations

from bisect import bisect_right
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

from airlock.storage.listing import Page, frames_of, without_placeholders

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    import polars as pl

    from airlock.storage.s3 import S3
    from airlock.storage.s3uri import S3Uri

RANGES = 64
_FEW = 8  # folders; below so many, their own folders cut better
_PAGES = 100  # of folders that are read to cut a prefix


class KeyRange(NamedTuple):
    """Keys in S3's order."""

    after: str = ""  # they follow this key; all if it is empty
    upto: str | None = None  # and do not follow this one; None has no end


class RangeFrame(NamedTuple):
    """Objects of one range, in key order."""

    number: int  # of the range
    rows: pl.DataFrame | None  # `listing.LISTED` without folder placeholders; None at the range's end
    last: str = ""  # the key after which the range goes on


def cut_ranges(s3: S3, uri: S3Uri, most: int = RANGES) -> list[KeyRange]:
    """Return ranges that together are all keys below a prefix, with about as many folders in each.

    Parameters
    ----------
    s3, uri
        The prefix.
    most
        The number of ranges that is not exceeded.

    Raises
    ------
    BucketError
        If S3 has no such bucket or refuses to list it.
    """
    folders = [uri.join(name, "") for name in s3.list_folders(uri, _PAGES)]
    if len(folders) < _FEW:
        below = [folder.join(name, "") for folder in folders for name in s3.list_folders(folder, _PAGES)]
        folders += below
    bounds = sorted({folder.key for folder in folders})
    step = -(-len(bounds) // most) or 1
    inner = bounds[step::step]
    return [KeyRange(after, upto) for after, upto in zip(["", *inner], [*inner, None], strict=True)]


def list_ranges(s3: S3, uri: S3Uri, ranges: Sequence[KeyRange], at_once: int) -> Iterator[RangeFrame]:
    """Yield the objects of ranges frame by frame, in no order between ranges; memory holds a frame of each at most.

    Parameters
    ----------
    s3, uri
        The prefix.
    ranges
        The ranges of its keys.
    at_once
        The number of ranges that are listed at the same time.

    Raises
    ------
    S3Error
        If S3 does not list one of them.
    """
    waiting = iter([(number, _list_range(s3, uri, keys)) for number, keys in enumerate(ranges)])
    with ThreadPoolExecutor(at_once, thread_name_prefix="airlock-listing") as pool:
        underway = {pool.submit(next, frames, None): (number, frames) for number, frames in islice(waiting, at_once)}
        while underway:
            done = wait(underway, return_when=FIRST_COMPLETED).done
            for future in sorted(done, key=lambda one: underway[one][0]):
                number, frames = underway.pop(future)
                found = future.result()
                following = (number, frames) if found is not None else next(waiting, None)
                if following is not None:
                    underway[pool.submit(next, following[1], None)] = following
                yield RangeFrame(number, None) if found is None else RangeFrame(number, *found)


def _list_range(s3: S3, uri: S3Uri, keys: KeyRange) -> Iterator[tuple[pl.DataFrame, str]]:
    """Yield the objects of a range frame by frame, each with its last key."""
    for rows in frames_of(_cut_pages(s3.list_pages(uri, keys.after), keys.upto)):
        if rows.height:
            yield without_placeholders(rows), rows["key"][-1]


def _cut_pages(pages: Iterator[Page], upto: str | None) -> Iterator[Page]:
    """Yield pages up to a key, and ask for no more than one that follows it."""
    for page in pages:
        if upto is None or not page.keys or page.keys[-1] <= upto:
            yield page
            continue
        kept = bisect_right(page.keys, upto)
        yield Page(page.keys[:kept], page.etags[:kept], page.sizes[:kept], page.times[:kept])
        return
