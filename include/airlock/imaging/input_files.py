"""Which file of the batch each ``inputFile`` in the output of a HealthImaging job names.

AWS's example shows a key there and documents no more. So a name may be the key in the bucket or the key below the
job's prefix, alone or after ``s3://bucket/``, plain or percent-encoded. A name that fits two files of the batch counts
as none, unless a single form explains all names of the job.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import unquote, unquote_plus

import polars as pl

from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable

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
    names = set(output.lines["staged_key"])
    readings = _find_readings(names, set(files["staged_key"]), S3Uri.parse(job.input_uri))
    keys = {name: next(iter(found)) for name, found in readings.items() if len(found) == 1}
    two = pl.Series([name for name in readings if name not in keys], dtype=pl.String)
    lines = output.lines.filter(~pl.col("staged_key").is_in(two.implode()))
    lines = lines.with_columns(pl.col("staged_key").replace(list(keys), list(keys.values())))
    lost = output.lines.height - lines.height
    if not lost:
        return replace(output, lines=lines)
    shapes = output.shapes | {TWO_FILES: lost}
    return replace(output, lines=lines, unreadable_lines=output.unreadable_lines + lost, shapes=shapes)


def _find_readings(names: Collection[str], keys: Collection[str], prefix: S3Uri) -> dict[str, set[str]]:
    """Return the keys that each name fits, for the names that fit any.

    A form that turns all these names into different files is preferred: it is the job's own form.
    """
    escaped = any("%" in name or "+" in name for name in names)
    each = [
        {name: key for name in names if (key := form(name)) in keys} for form in _list_forms(prefix, escaped=escaped)
    ]
    known = set().union(*each)
    whole = [found for found in each if len(found) == len(known) == len(set(found.values()))]
    return {name: {found[name] for found in whole or each if name in found} for name in known}


def _list_forms(prefix: S3Uri, *, escaped: bool) -> Iterable[Callable[[str], str]]:
    """Return the forms of a name: functions that make a key of it. Names without escapes need not be decoded."""
    for decoded in (str, unquote, unquote_plus) if escaped else (str,):
        for bucket in ("", f"s3://{prefix.bucket}/"):
            for above in ("", prefix.key):
                yield partial(_make_key, decoded, bucket, above)


def _make_key(decoded: Callable[[str], str], bucket: str, above: str, name: str) -> str:
    return above + decoded(name).removeprefix(bucket)
