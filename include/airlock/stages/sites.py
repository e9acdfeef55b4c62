"""The site of an object: the part of its key that ``source.site_pattern`` names.

Without ``source.site_pattern`` the source is one site, "": any folder of its keys may be named after a patient.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.pipelines import Source
    from airlock.storage.s3uri import S3Uri

SITE_LENGTH = 64  # characters that are kept of a site's name
MOST_COUNTED = 200  # sites of a run that are counted by name
OTHER = "other"  # all others


def site_of(source: Source) -> pl.Expr:
    """Return each object's site from the column ``key``; "" where its key names none.

    Parameters
    ----------
    source
        The source below which the keys lie.
    """
    key = pl.col("key")
    if source.site_pattern is None:
        name = key.str.head(0)  # a literal would not have the number of rows
    else:
        name = key.str.extract(source.site_pattern, re.compile(source.site_pattern).groupindex["site"])
    return name.fill_null("").str.slice(0, SITE_LENGTH).alias("site")


def first_folder(source: S3Uri) -> pl.Expr:
    """Return the first folder below a source of each ``key``; "" for an object beside the folders."""
    segments = pl.col("key").str.strip_prefix(source.key).str.splitn("/", 2)
    name = pl.when(segments.struct[1].is_not_null()).then(segments.struct[0])
    return name.fill_null("").alias("folder")


class CountedSites:
    """The sites by which a run's objects are counted in the ledger and by the brake.

    A run counts `MOST_COUNTED` sites by name, so that a pattern that matches too much does not make a row per folder.

    Parameters
    ----------
    source
        The source below which the keys lie.
    named
        Sites that are counted by name already.
    """

    def __init__(self, source: Source, named: Iterable[str] = ()) -> None:
        self._site = site_of(source)
        self._named = set(named) - {OTHER}

    def add_to(self, rows: pl.DataFrame) -> pl.DataFrame:
        """Return rows that have the column ``key`` with the column ``site``."""
        found = rows.with_columns(self._site)
        for name in found["site"].unique().sort():
            if len(self._named) < MOST_COUNTED:
                self._named.add(name)
        site = pl.col("site")
        return found.with_columns(site=pl.when(site.is_in(list(self._named))).then(site).otherwise(pl.lit(OTHER)))
