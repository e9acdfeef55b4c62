"""Pipeline files and their workspaces on S3, reached with boto3's credentials and ``AWS_ENDPOINT_URL``."""

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

    from airlock.pipelines import Pipeline, Publication
    from airlock.storage.s3 import S3


def load_named_pipeline(name: str) -> Pipeline:
    """Return the pipeline with this name from the folder of pipeline files.

    Raises
    ------
    RequestError
        If no valid file has this name.
    """
    known = load_all_pipelines()
    if name not in known:
        raise _unknown_pipeline(name, known)
    return known[name]


def require_all_pipelines() -> list[Pipeline]:
    """Return all pipelines of the folder of pipeline files.

    Raises
    ------
    RequestError
        If there is none, or a file is wrong: its runs would be missing.
    """
    known, problems = read_pipeline_files()
    if problems or not known:
        raise RequestError(
            f"{len(problems)} pipeline files are wrong and {len(known)} are right. A rebuild needs the files of all "
            f"pipelines that shared the ledger. List their problems: airlock pipelines check"
        )
    return list(known.values())


def require_known_pipeline(name: str, others: Collection[str]) -> None:
    """Refuse a pipeline name that no valid pipeline file has.

    Parameters
    ----------
    name
        The pipeline's name.
    others
        Further names to suggest, beside those of the files.

    Raises
    ------
    RequestError
        With similar names.
    """
    files = load_all_pipelines() if settings.has_pipelines() else {}
    if name not in files:
        raise _unknown_pipeline(name, {*files, *others})


def read_pipeline_files() -> tuple[dict[str, Pipeline], list[PipelineError]]:
    """Return the valid pipelines of the folder of pipeline files, by name, and an error for each wrong file.

    Raises
    ------
    RequestError
        If the folder cannot be read.
    """
    try:
        return load_pipelines(settings.pipelines())
    except PipelineError as error:
        raise RequestError(str(error)) from None


def load_all_pipelines() -> dict[str, Pipeline]:
    """Return the valid pipelines of the folder of pipeline files, by name."""
    known, problems = read_pipeline_files()
    if problems:
        say(f"Wrong pipeline files are ignored: {len(problems)}. List their problems: airlock pipelines check")
    return known


def _unknown_pipeline(name: str, known: Collection[str]) -> RequestError:
    where, others = "", "there are none"
    if not settings.has_pipelines():
        where = f" in the ledger, and {settings.PIPELINES} is not set"
        others = "set it to the folder of the pipeline files"
    if known:
        others = f"there are {', '.join(sorted(known))}"
    return RequestError(f"There is no pipeline {name!r}{where}: {suggest_name(name, known, others)}")


def read_run_file(pipeline: Pipeline, run_key: str, name: str) -> bytes | None:
    """Return the content of a file in a run's folder, or None if it does not exist."""
    where = S3Uri.parse(pipeline.workspace).join(pipeline.name, run_key, name)
    with open_s3(pipeline) as store:
        try:
            return store.get(where)
        except FileNotFoundError:
            return None


def upload_csv(pipeline: Pipeline, file: Path, check: Callable[[bytes], object]) -> str:
    """Upload a local CSV file to the workspace, named by its digest below ``redrives/``, and return its address.

    Nothing is uploaded if ``check`` raises for the content.

    Raises
    ------
    RequestError
        If the file cannot be read.
    """
    try:
        body = file.read_bytes()
    except OSError as error:
        raise RequestError(f"{file} cannot be read ({error.strerror}). Name the edited dispositions.csv.") from None
    check(body)
    name = f"{hashlib.sha256(body).hexdigest()[:16]}.csv"
    where = S3Uri.parse(pipeline.workspace).join(pipeline.name, "redrives", name)
    with open_s3(pipeline) as store:
        store.put(where, body, "text/csv")
    return str(where)


@contextmanager
def open_s3(*pipelines: Pipeline | Publication, is_patient: bool = False) -> Iterator[S3]:
    """Open S3 with the keys and owners of the buckets of pipelines; its errors become errors of a command.

    Parameters
    ----------
    *pipelines
        Those whose buckets are used. Where the files of two differ about a bucket, the first one counts.
    is_patient
        Whether it waits out refusals.
    """
    import boto3  # noqa: PLC0415  # slow to import, and most commands need none
    from botocore.config import Config  # noqa: PLC0415
    from botocore.exceptions import BotoCoreError  # noqa: PLC0415

    from airlock.storage.aws import PATIENCE  # noqa: PLC0415
    from airlock.storage.s3 import S3, S3Error  # noqa: PLC0415

    fix = "Check your AWS credentials and AWS_ENDPOINT_URL."
    buckets = {name: one for each in reversed(pipelines) for name, one in each.bucket_settings().items()}
    try:
        client = boto3.client("s3", config=Config(retries=PATIENCE) if is_patient else None)
        yield S3(boto3.Session(), client, buckets)
    except S3Error as error:
        raise UnreachableError(f"S3: {error}. {fix}") from None  # its text names the bucket
    except BotoCoreError as error:  # boto3 cannot create a client
        raise UnreachableError(f"S3 cannot be used ({error}). {fix}") from None
