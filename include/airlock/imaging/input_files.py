"""Which file of the batch each ``inputFile`` in the output of a HealthImaging job names.

AWS's example shows a key there and documents no more. So a name may be the key in the bucket or the key below the
job's prefix, alone or after ``s3://bucket/``, plain or percent-encoded. A name that fits two files of the batch counts
as none, unless a single form explains all names of the job.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

import polars as pl

from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.imaging.manifests import JobOutput
    from airlock.stages.jobs import EndedJob

TWO_FILES = "inputFile, which fits two files of the batch"


def name_files(files: pl.DataFrame, job: EndedJob, output: JobOutput) -> JobOutput:
    """Return a job's output in which every line has the key of its file.

    Parameters
    ----------
    files
        The batch's list (rows of the batches dataset).
    job
        The batch's job, which has ended.
    output
        What that job left. A line about a file that is not in the batch stays as it is.
    """
    readings = _find_readings(output.lines["staged_key"].unique(), files["staged_key"], S3Uri.parse(job.input_uri))
    is_doubtful = pl.col("name").is_duplicated()
    two, one = readings.filter(is_doubtful)["name"], readings.filter(~is_doubtful)
    lines = output.lines.filter(~pl.col("staged_key").is_in(two.implode()))
    lines = lines.with_columns(pl.col("staged_key").replace(one["name"], one["key"]))
    lost = output.lines.height - lines.height
    if not lost:
        return replace(output, lines=lines)
    shapes = output.shapes | {TWO_FILES: lost}
    return replace(output, lines=lines, unreadable_lines=output.unreadable_lines + lost, shapes=shapes)


def _find_readings(names: pl.Series, keys: pl.Series, prefix: S3Uri) -> pl.DataFrame:
    """Return each ``name`` with each ``key`` that it fits, once; names that fit none are left out.

    A form that turns all these names into different files is preferred: it is the job's own form.
    """
    each = [
        pl.DataFrame({"name": names, "key": read}).filter(pl.col("key").is_in(keys.implode()))
        for read in _read_each_way(names, prefix)
    ]
    known = pl.concat(found["name"] for found in each).n_unique()
    whole = [found for found in each if found.height == known == found["key"].n_unique()]
    return pl.concat(whole or each).unique()


def _read_each_way(names: pl.Series, prefix: S3Uri) -> Iterator[pl.Series]:
    """Yield the keys that the names are in each form. Names without escapes need not be decoded."""
    yield from _read_plain(names, prefix)
    if names.str.contains("[%+]").any():
        for decode in (unquote, unquote_plus):
            decoded = [decode(name) for name in names]
            yield from _read_plain(pl.Series(decoded, dtype=pl.String), prefix)


def _read_plain(names: pl.Series, prefix: S3Uri) -> Iterator[pl.Series]:
    bucket = f"s3://{prefix.bucket}/"
    forms = [names, names.str.strip_prefix(bucket)] if names.str.starts_with(bucket).any() else [names]
    for form in forms:
        for above in ("", prefix.key):
            yield above + form
