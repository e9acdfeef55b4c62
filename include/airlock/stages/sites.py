"""The site of an object: the part of its key that ``source.site_pattern`` names, or the first folder of the source."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import polars as pl

from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.pipelines import Source

SITE_LENGTH = 64  # characters that are kept of a site's name


def site_of(source: Source) -> pl.Expr:
    """Return each object's site from the column ``key``; "" where its key names none.

    Parameters
    ----------
    source
        The source below which the keys lie.
    """
    key, below = pl.col("key"), S3Uri.parse(source.uri).key
    if source.site_pattern is None:
        segments = key.str.strip_prefix(below).str.splitn("/", 2)
        name: pl.Expr = pl.when(segments.struct[1].is_not_null()).then(segments.struct[0])
    else:
        name = key.str.extract(source.site_pattern, re.compile(source.site_pattern).groupindex["site"])
    return name.fill_null("").str.slice(0, SITE_LENGTH).alias("site")
