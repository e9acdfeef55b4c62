"""The request of ``make run``: its pipeline, its source, and whether they need a real account."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from airlock.pipelines import PipelineError, load_pipelines
from airlock.storage.s3uri import S3Uri, S3UriError
from airlock.suggestions import suggest_name
from airlock_local.buckets import buckets_of, is_local
from airlock_local.deliver import LocalFile, SourceError, files_below, prefix_of
from airlock_local.environment import LOCAL_CONNECTION, connection_variable
from airlock_local.stores import pools_of, seeds_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.pipelines import Pipeline
    from airlock_local.stores import Pool

SAMPLE = "sample/"
_AWS = '{"conn_type": "aws", "extra": {"region_name": "us-east-1"}}'
_HTTP = '{"conn_type": "http", "host": "https://receiver.example", "password": "the signing secret"}'


@dataclass(frozen=True)
class Choice:
    """A checked request.

    Parameters
    ----------
    pipeline
        The pipeline to run.
    local_pipelines
        All pipelines of the folder that use the local stack alone.
    target
        The prefix that the run imports.
    files
        The files to upload first; None for the sample, empty if they are on S3 already.
    """

    pipeline: Pipeline
    local_pipelines: tuple[Pipeline, ...]
    target: S3Uri
    files: tuple[LocalFile, ...] | None

    @property
    def uses_account(self) -> bool:
        """True if the pipeline uses anything but the local stack."""
        return not is_local(self.pipeline)

    @property
    def uses_local(self) -> bool:
        """True if the pipeline uses the local stack."""
        return LOCAL_CONNECTION in self.pipeline.connections()

    def seeds(self) -> list[str]:
        """Return the emulator's flags that make what the local pipelines name."""
        return seeds_of(self.local_pipelines)

    def pools(self, parallelism: int) -> list[Pool]:
        """Return the pools of the chosen and the local pipelines, for so many tasks at the same time."""
        return pools_of((self.pipeline, *self.local_pipelines), parallelism)

    def buckets(self) -> list[str]:
        """Return the buckets of the local pipelines."""
        return buckets_of(self.local_pipelines)


def choose(folder: Path, name: str, source: str, environment: Mapping[str, str]) -> Choice:
    """Check a request, before anything is started.

    Parameters
    ----------
    folder
        Of the pipeline files.
    name
        The pipeline's name.
    source
        A folder, an ``s3://`` prefix, or empty for the default.
    environment
        Has the connections that the person defined.

    Raises
    ------
    PipelineError
        A pipeline file is wrong, or none has this name.
    SourceError
        The source cannot be delivered.
    """
    pipelines, problems = load_pipelines(folder)
    if problems:
        raise PipelineError("\n".join(str(problem) for problem in problems))
    if name not in pipelines:
        others = f"choose one of {', '.join(sorted(pipelines))}"
        raise PipelineError(f"There is no pipeline {name!r} in {folder}: {suggest_name(name, pipelines, others)}")
    pipeline = pipelines[name]
    _check_connections(pipeline, environment)
    local_pipelines = tuple(item for item in pipelines.values() if is_local(item))
    return Choice(pipeline, local_pipelines, *_delivery(pipeline, source))


def _check_connections(pipeline: Pipeline, environment: Mapping[str, str]) -> None:
    named = sorted(pipeline.connections() - {LOCAL_CONNECTION})
    missing = [connection for connection in named if connection_variable(connection) not in environment]
    if not missing:
        return
    of_webhooks = {route.webhook.conn_id for route in pipeline.routes if route.webhook is not None}
    examples = [f"{connection_variable(one)}='{_HTTP if one in of_webhooks else _AWS}'" for one in missing]
    raise PipelineError(
        f"Pipeline {pipeline.name!r} uses {'a connection that is' if len(missing) == 1 else 'connections that are'} "
        f"not defined: {', '.join(missing)}. Set in the environment, for example: {' '.join(examples)}"
    )


def _delivery(pipeline: Pipeline, source: str) -> tuple[S3Uri, tuple[LocalFile, ...] | None]:
    base = S3Uri.parse(pipeline.source.uri)
    if source.startswith("s3://"):
        return _on_s3(pipeline, source), ()
    if source:
        folder = Path(source).expanduser().absolute()
        return base.join(prefix_of(folder)), tuple(files_below(folder))
    if not is_local(pipeline):
        return base, ()
    return base.join(SAMPLE), None


def _on_s3(pipeline: Pipeline, source: str) -> S3Uri:
    base = S3Uri.parse(pipeline.source.uri)
    try:
        chosen = S3Uri.parse(source)
    except S3UriError as error:
        raise SourceError(f"SOURCE: {error}") from error
    if chosen.bucket == base.bucket and chosen.key.startswith(base.key) and chosen.key.endswith("/"):
        return chosen
    local = " (a local one)" if is_local(pipeline) else ""
    raise SourceError(
        f"SOURCE={source} is not a prefix, ending with '/', inside the source {base} of pipeline {pipeline.name!r}"
        f"{local}. For a bucket of your own account, copy include/pipelines/sample.yaml, give the copy a name, "
        "buckets, data store, role and aws_conn_id of yours, define that connection as AIRFLOW_CONN_<ID> in the "
        "environment, and call make run PIPELINE=<name>."
    )
