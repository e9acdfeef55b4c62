"""What the pages need from outside: rights, the ledger, Airflow's DAGs and the pipeline files."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence
    from datetime import datetime

    from airlock.ledger.console import Console
    from airlock.pipelines import Pipeline
    from airlock.stages.pages.progress import TaskProgress
    from airlock.stages.pages.tonight import DagState
    from airlock.storage.s3 import S3


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
