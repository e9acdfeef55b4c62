"""One DAG run as the stages see it: its pipeline, its window, its workspace, its store and ledger."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Generic

from typing_extensions import TypeVar

from airlock.pipelines import ImagingPipeline, Pipeline
from airlock.records import digest
from airlock.storage.s3uri import S3Uri, S3UriError
from airlock.storage.workspace import Workspace

if TYPE_CHECKING:
    from airlock.ledger import Ledger, Resolution
    from airlock.records import Window
    from airlock.storage.s3 import S3


PLAN = "plan"  # the folder of the workspace that holds a plan's datasets


class PrefixOutsideSourceError(ValueError):
    """A run's prefix is not below its pipeline's source."""


def run_key(pipeline: str, run_id: str) -> str:
    """Return a run's own name, legal in S3 keys and job names; Airflow's run id, with its ``:`` and ``+``, is not."""
    readable = re.sub(r"[^A-Za-z0-9]+", "-", run_id).strip("-")[:40]
    return f"{readable}-{digest(pipeline, run_id, length=8)}"


def source_prefix(pipeline: Pipeline, prefix: str | None) -> S3Uri:
    """Return the prefix that a run lists: the pipeline's source, or a prefix below it that a person chose.

    Parameters
    ----------
    pipeline
        The pipeline with the source.
    prefix
        A key prefix in the source's bucket, as ``archive/2026/``, or the whole ``s3://`` address; None for all.

    Raises
    ------
    PrefixOutsideSourceError
        If it does not lie below the source or does not end in ``/``.
    """
    source = S3Uri.parse(pipeline.source.uri)
    if not prefix:
        return source
    try:
        chosen = S3Uri.parse(prefix) if prefix.startswith("s3://") else S3Uri(source.bucket, prefix.lstrip("/"))
    except S3UriError:
        chosen = S3Uri("")
    if chosen.bucket != source.bucket or not chosen.key.startswith(source.key) or not chosen.key.endswith("/"):
        raise PrefixOutsideSourceError(
            f"The prefix must be inside the source {source} of pipeline {pipeline.name!r} and end in '/'. "
            f"Correct the prefix, or the pipeline's source.uri."
        )
    return chosen


@dataclass(frozen=True)
class RedriveRequest:
    """A person's request to redrive arrivals."""

    asked_by: str
    why: str
    run: str | None = None  # a run key, or Airflow's run id
    study: str | None = None  # a study key
    reasons: tuple[str, ...] = ()
    csv: str | None = None  # s3:// address
    non_primary: Resolution | None = None
    findings: bool = False  # what the data store has lost
    site: str | None = None

    @property
    def choice(self) -> dict[str, Any]:
        """The selection for the ledger, without the address of a list, which may contain a person's name."""
        given = {"run": self.run, "study": self.study, "reasons": list(self.reasons) or None}
        more = {"csv": True if self.csv else None, "non_primary": self.non_primary and self.non_primary.value}
        more |= {"findings": True if self.findings else None, "site": self.site}
        return {name: value for name, value in (given | more).items() if value is not None}


@dataclass(frozen=True)
class WaveOf:
    """The part of another run's delivery that a run takes, see `airlock.stages.waves`."""

    of: str  # Airflow's id of the run that listed the delivery
    number: int  # from 2: the run that listed is the first wave


PipelineT_co = TypeVar("PipelineT_co", bound=Pipeline, default=ImagingPipeline, covariant=True)


@dataclass(frozen=True)
class Run(Generic[PipelineT_co]):
    """One run, the argument of every stage; a plain ``Run`` is a run of an imaging pipeline."""

    pipeline: PipelineT_co
    run_id: str
    window: Window | None  # None: everything below the prefix
    prefix: S3Uri
    s3: S3
    ledger: Ledger
    folder: str = ""  # of the workspace, for a second chain of stages: "fhir"
    plan_only: bool = False  # the run ends after normalize and claims, stages and imports nothing
    redrive: RedriveRequest | None = None  # the arrivals to redrive, instead of a listing
    wave: WaveOf | None = None  # a part of another run's listing, instead of a listing

    def within(self, folder: str) -> Run[PipelineT_co]:
        """Return the same run in a folder of its workspace, for a second chain of stages."""
        return replace(self, folder=folder)

    def as_plan(self) -> Run[PipelineT_co]:
        """Return the same run as a plan, in a folder of its own: Airflow may repeat the run under its id in earnest."""
        return replace(self, folder=PLAN, plan_only=True)

    @cached_property
    def key(self) -> str:
        """The run's name in S3 keys and in the ledger."""
        return run_key(self.pipeline.name, self.run_id)

    @property
    def holder(self) -> str | None:
        """The run whose arrivals in the ledger count as its own: this run; None for a plan, which holds none."""
        return None if self.plan_only else self.key

    @cached_property
    def workspace(self) -> Workspace:
        """The run's datasets."""
        return self.workspace_of(self.key, self.folder)

    def workspace_of(self, key: str, folder: str) -> Workspace:
        """Return the datasets of a run of the same pipeline, by its `key`."""
        root = S3Uri.parse(self.pipeline.workspace).join(self.pipeline.name, key, "")
        return Workspace(self.s3, root.join(folder, "") if folder else root)
