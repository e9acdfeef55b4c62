"""A pipeline's workspace on S3, by boto3's own chain of credentials and ``AWS_ENDPOINT_URL``."""

from __future__ import annotations

import hashlib
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airlock.pipelines import PipelineError, load_pipelines
from airlock.storage.s3uri import S3Uri
from airlock.suggestions import suggest_name
from airlock_cli import settings
from airlock_cli.errors import RequestError, UnreachableError
from airlock_cli.show import say

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator
    from pathlib import Path

    from airlock.pipelines import Pipeline
    from airlock.storage.s3 import S3


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
    where, others = "", "there are none"
    if not settings.has_pipelines():
        where = f" in the ledger, and {settings.PIPELINES} is not set"
        others = "set it to the folder of the pipeline files"
    if known:
        others = f"there are {', '.join(sorted(known))}"
    return RequestError(f"there is no pipeline {name!r}{where}: {suggest_name(name, known, others)}")


def read(pipeline: Pipeline, run_key: str, name: str) -> bytes | None:
    """Return a file from a run's folder; None where there is none."""
    where = S3Uri.parse(pipeline.workspace).join(pipeline.name, run_key, name)
    with s3(where) as store:
        try:
            return store.get(where)
        except FileNotFoundError:
            return None


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
    with s3(where) as store:
        store.put(where, body, "text/csv")
    return str(where)


@contextmanager
def s3(where: S3Uri) -> Iterator[S3]:
    """Open S3 as the library has it, for an address there."""
    import boto3  # noqa: PLC0415  # takes long to import, and most commands need none
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    from airlock.storage.s3 import S3, S3Error  # noqa: PLC0415

    fix = "check your AWS credentials and AWS_ENDPOINT_URL"
    try:
        yield S3(boto3.Session(), boto3.client("s3"))
    except S3Error as error:
        raise UnreachableError(f"bucket {where.bucket!r} cannot be used ({error.code}): {fix}") from None
    except BotoCoreError as error:  # no client can be made
        raise UnreachableError(f"S3 cannot be asked ({error}): {fix}") from None
