"""What the pages need from outside: rights, the ledger, Airflow's DAGs, the pipeline files and the decision log."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from airlock.ledger import Ledger
    from airlock.ledger.console import Console
    from airlock.ledger.database import Scope
    from airlock.pipelines import Pipeline
    from airlock.stages.pages.progress import TaskProgress
    from airlock.stages.pages.tonight import DagState
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


class DecisionLog(Protocol):
    """The copies of decisions in the workspaces."""

    def decide(self, pipeline: Pipeline, ledger: Ledger, record: Callable[[Ledger], T], scope: Scope) -> T:
        """Record a decision about a pipeline in the ledger, after its copy was written."""


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
    log: DecisionLog | None = None

    def decide(self, name: str, record: Callable[[Ledger], T], scope: Scope) -> T:
        """Record what a person has done about a pipeline.

        Where this server has the pipeline's file, a copy is written to the workspace before, so that a rebuilt ledger
        has it too; if that fails, nothing is recorded.
        """
        pipeline = None if self.log is None else self.pipelines().get(name)
        if self.log is None or pipeline is None:
            return record(self.ledger())
        return self.log.decide(pipeline, self.ledger(), record, scope)
