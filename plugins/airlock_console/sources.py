"""What the pages need from outside: rights, the ledger, Airflow's DAGs, the pipeline files and their AWS account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
    from datetime import datetime

    from airlock.ledger import Ledger
    from airlock.ledger.console import Console
    from airlock.ledger.database import Scope
    from airlock.pipelines import Pipeline
    from airlock.stages.pages.progress import TaskProgress
    from airlock.stages.pages.tonight import DagState, QueueDepth
    from airlock.storage.s3 import S3

T = TypeVar("T")


class Rights(Protocol):
    """What a user of Airflow may do."""

    def readable_dags(self, user: Any) -> set[str]:
        """Return the DAGs that the user may read."""

    def may_change(self, user: Any, dag_id: str) -> bool:
        """Return whether the user may change a DAG's runs."""

    def may_reveal(self, user: Any, dag_id: str) -> bool:
        """Return whether the user may see identifiers of a DAG's patients."""

    def may_review(self, user: Any, dag_id: str) -> bool:
        """Return whether the user may answer reviews of a DAG, if its pipeline names nobody."""

    def names_of(self, user: Any) -> set[str]:
        """Return the user's id and name, and ``group:name`` for each of their roles and groups."""


class Account(Protocol):
    """The AWS account of the pipelines, where this server has their files."""

    def decide(self, pipeline: Pipeline, ledger: Ledger, record: Callable[[Ledger], T], scope: Scope) -> T:
        """Record a decision about a pipeline in the ledger, after its copy was written."""

    def stream_list(self, pipeline: Pipeline, run_key: str, name: str) -> Iterator[bytes]:
        """Yield a file of a run's audit from the workspace."""

    def count_messages(self, pipelines: Sequence[Pipeline]) -> list[QueueDepth]:
        """Return the depth of the queues of these pipelines."""


@dataclass(frozen=True)
class Sources:
    """The outside world of the pages."""

    rights: Rights
    ledger: Callable[[], Console]
    dags: Callable[[Collection[str]], Mapping[str, DagState]]
    tasks: Callable[[str, str], Sequence[TaskProgress]]  # of a DAG run, by DAG and run id
    names: Callable[[], Collection[str]]  # of all pipelines: of files, and of runs in the ledger
    pipelines: Callable[[], Mapping[str, Pipeline]]  # by name; empty where the API server has no pipeline files
    s3: Callable[[Pipeline], S3]  # the account of a pipeline's workspace
    now: Callable[[], datetime]
    account: Account | None = None

    def decide(self, name: str, record: Callable[[Ledger], T], scope: Scope) -> T:
        """Record what a person has done about a pipeline.

        Where this server has the pipeline's file, a copy is written to the workspace before, so that a rebuilt ledger
        has it too; if that fails, nothing is recorded.
        """
        pipeline = None if self.account is None else self.pipelines().get(name)
        if self.account is None or pipeline is None:
            return record(self.ledger())
        return self.account.decide(pipeline, self.ledger(), record, scope)

    def queues(self, names: Collection[str]) -> list[QueueDepth]:
        """Return the depth of the queues of these pipelines, of which this server has the files."""
        if self.account is None:
            return []
        files = self.pipelines()
        return self.account.count_messages([files[name] for name in sorted(names) if name in files])
