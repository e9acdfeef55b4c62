"""A pipeline's workspace on S3, by boto3's own chain of credentials and ``AWS_ENDPOINT_URL``."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from airlock.nearest import did_you_mean
from airlock.pipelines import PipelineError, load_pipelines
from airlock.s3uri import S3Uri
from airlock_cli import settings
from airlock_cli.errors import RequestError, UnreachableError
from airlock_cli.show import say

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from airlock.pipelines import Pipeline
    from airlock.s3 import S3


def pipeline_named(name: str) -> Pipeline:
    """Return the pipeline of this name from the folder that the environment names.

    Raises
    ------
    RequestError
        If there is no good one of this name.
    """
    known = _good_files()
    if name not in known:
        raise _unknown(name, known)
    return known[name]


def need_known(name: str, others: Collection[str]) -> None:
    """Refuse a pipeline that no good file is of, where the environment names their folder.

    Parameters
    ----------
    name
        The pipeline's.
    others
        Names that may have been meant, beside those of the files.

    Raises
    ------
    RequestError
        With the names that come near it.
    """
    files = _good_files() if settings.has_pipelines() else {}
    if name not in files:
        raise _unknown(name, {*files, *others})


def _good_files() -> dict[str, Pipeline]:
    try:
        known, problems = load_pipelines(settings.pipelines())
    except PipelineError as error:
        raise RequestError(str(error)) from None
    for problem in problems:
        say(str(problem))
    return known


def _unknown(name: str, known: Collection[str]) -> RequestError:
    listed = f"there are {', '.join(sorted(known))}" if known else "there are none"
    return RequestError(f"there is no pipeline {name!r}: {did_you_mean(name, known, listed)}")


def read(pipeline: Pipeline, run_key: str, name: str) -> bytes | None:
    """Return a file from a run's folder; None where there is none."""
    where = S3Uri.parse(pipeline.workspace).join(pipeline.name, run_key, name)
    with _s3(where) as client:
        try:
            content: bytes = client.get_object(Bucket=where.bucket, Key=where.key)["Body"].read()
        except client.exceptions.NoSuchKey:
            return None
        return content


def upload(pipeline: Pipeline, file: Path, check: Callable[[bytes], object]) -> str:
    """Put a local CSV file into the workspace, under ``redrives/`` and the name of its content; return its address.

    Nothing is put there where ``check`` raises at its content.

    Raises
    ------
    RequestError
        If the file cannot be read.
    """
    try:
        body = file.read_bytes()
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}): name the edited dispositions.csv") from None
    check(body)
    name = f"{hashlib.sha256(body).hexdigest()[:16]}.csv"
    where = S3Uri.parse(pipeline.workspace).join(pipeline.name, "redrives", name)
    with _s3(where) as client:
        client.put_object(Bucket=where.bucket, Key=where.key, Body=body, ContentType="text/csv")
    return str(where)


@contextmanager
def s3(where: S3Uri) -> Iterator[S3]:
    """Open S3 as the library has it, for an address there."""
    import boto3  # noqa: PLC0415  # as in _s3

    from airlock.s3 import S3, BucketError  # noqa: PLC0415

    try:
        with _s3(where) as client:
            yield S3(boto3.Session(), client)
    except BucketError as error:
        raise UnreachableError(str(error)) from None


@contextmanager
def _s3(where: S3Uri) -> Iterator[Any]:
    import boto3  # noqa: PLC0415  # takes long to import, and most commands need none
    from botocore.exceptions import BotoCoreError, ClientError  # noqa: PLC0415

    try:
        yield boto3.client("s3")
    except ClientError as error:
        code = error.response["Error"]["Code"]
        raise UnreachableError(
            f"S3 refuses bucket {where.bucket!r} ({code}): check your AWS credentials and AWS_ENDPOINT_URL"
        ) from None
    except BotoCoreError as error:
        raise UnreachableError(
            f"S3 cannot be asked ({error}): check your AWS credentials and AWS_ENDPOINT_URL"
        ) from None
