from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest

if TYPE_CHECKING:
    from airflow.sdk import Context


@dataclass
class TaskInstance:
    """The part of a task instance that operators read, and the XComs that they push."""

    dag_id: str = "dag"
    run_id: str = "scheduled__2026-11-01T00:00:00+00:00"
    task_id: str = "import"
    map_index: int = -1
    xcoms: dict[str, Any] = field(default_factory=dict)

    def xcom_push(self, key: str, value: Any) -> None:
        self.xcoms[key] = value


class Store(dict[str, Any]):
    """Stands in for context["task_state_store"]; ``history`` tells what was written, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.history: list[Any] = []

    def set(self, key: str, value: Any) -> None:
        self[key] = json.loads(json.dumps(value))
        self.history.append(self[key])


@pytest.fixture
def store() -> Store:
    return Store()


@pytest.fixture
def ti() -> TaskInstance:
    return TaskInstance()


@pytest.fixture
def context(store: Store, ti: TaskInstance) -> Context:
    return cast("Context", {"ti": ti, "task_state_store": store})
