"""The census of a source, which a sweep takes on its way: its objects and bytes by site and month.

The month of an object is that of the time which assigns it to a run: the date in its key, or when it was stored.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.censuses import NO_MONTH, Counted
from airlock.stages.windows import moments

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import Source

_EPOCH = 719_163  # the ordinal of 1970-01-01, of which polars counts days

# The ends of names of files other than images, as people store them beside images. Only these are counted by name: an
# end that is not in the list may be a part of a patient's name.
OTHER_FILES = (
    *("avi", "bat", "bmp", "csv", "db", "dll", "doc", "docx", "ds_store", "exe", "gif", "gz", "hl7", "htm"),
    *("html", "inf", "ini", "iso", "jpeg", "jpg", "json", "lnk", "log", "md5", "mha", "mov", "mp3", "mp4"),
    *("nii", "nrrd", "pdf", "png", "ppt", "pptx", "rar", "sha1", "sha256", "stl", "sys", "tar", "tif", "tiff"),
    *("tmp", "txt", "url", "wav", "xls", "xlsx", "xml", "zip", "7z"),
)
_END = r"\.([a-z0-9_]{1,8})$"

Census = dict[str, dict[str, list[int]]]  # objects and bytes, by site and month


def month_of(source: Source, listed: pl.DataFrame) -> pl.Series:
    """Return the month of each listed object as YYYY-MM, `NO_MONTH` where its key has no valid date."""
    if source.window == "last_modified":
        return listed["last_modified"].dt.strftime("%Y-%m").alias("month")
    days = (moments(source, listed) - _EPOCH).cast(pl.Int32).cast(pl.Date)
    return days.dt.strftime("%Y-%m").fill_null(NO_MONTH).alias("month")


def add_to_census(census: Census, source: Source, rows: pl.DataFrame) -> None:
    """Count listed objects, which have the column ``site`` too."""
    with_month = rows.with_columns(month_of(source, rows))
    counted = with_month.group_by("site", "month").agg(pl.len(), pl.col("size").sum())
    for site, month, objects, size in counted.sort("site", "month").iter_rows():
        counts = census.setdefault(site, {}).setdefault(month, [0, 0])
        counts[0] += objects
        counts[1] += size


def count_other_files(counts: dict[str, int], rows: pl.DataFrame) -> None:
    """Add the listed objects other than images by the ends of their names, by that end."""
    ends = rows["key"].str.slice(-10).str.to_lowercase().str.extract(_END)
    for end, number in ends.filter(ends.is_in(OTHER_FILES)).value_counts().iter_rows():
        counts[end] = counts.get(end, 0) + number


def list_census(census: Census) -> Iterator[Counted]:
    """Yield the rows of a census for the ledger."""
    for site, months in sorted(census.items()):
        for month, (objects, size) in sorted(months.items()):
            yield Counted(site, month, objects, size)
