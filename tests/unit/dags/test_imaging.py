"""The DAG of an imaging pipeline: eight stages, and three more where released studies are published as FHIR."""

from __future__ import annotations

from typing import Any

import pytest
from airflow.sdk.definitions.mappedoperator import MappedOperator

import imaging
from airlock.stages.buffer import shard_rows
from tests.unit.dags.shipped import DAGS

STAGES = ["receive", "buffer", "parse", "validate", "normalize", "stage", "import", "audit"]
PUBLISHING = ["fhir.normalize", "fhir.import", "fhir.audit"]


def is_mapped(task: Any) -> bool:
    return isinstance(task, MappedOperator) or task.get_closest_mapped_task_group() is not None


@pytest.fixture(params=["sample", "nightly"])
def dag(request: pytest.FixtureRequest) -> Any:
    return DAGS[request.param]


def test_stages_are_in_order() -> None:
    stages = [task.task_id for task in DAGS["nightly"].topological_sort() if task.task_id != "next_wave"]
    assert stages == [*STAGES, "route"]


def test_the_next_wave_starts_as_soon_as_this_one_has_claimed(dag: Any) -> None:
    assert dag.get_task("next_wave").upstream_task_ids == {"buffer"}
    assert dag.get_task("next_wave").downstream_task_ids == set()


def test_what_is_released_is_published_before_it_is_routed() -> None:
    dag: Any = DAGS["sample"]
    assert {task.task_id for task in dag.tasks} == {*STAGES, *PUBLISHING, "route", "next_wave"}
    assert dag.get_task("fhir.normalize").upstream_task_ids == {"audit"}
    assert dag.get_task("fhir.import").upstream_task_ids == {"fhir.normalize"}
    assert dag.get_task("fhir.audit").upstream_task_ids == {"fhir.import"}
    assert dag.get_task("route").upstream_task_ids == {"fhir.audit"}
    assert dag.get_task("fhir.audit").trigger_rule == "all_done"


def test_mapped_tasks_are_parse_and_those_of_each_batch(dag: Any) -> None:
    assert {task.task_id for task in dag.tasks if is_mapped(task)} - {"fhir.import"} == {"parse", "stage", "import"}


def test_a_batch_is_imported_as_soon_as_it_is_staged(dag: Any) -> None:
    """As tasks of one mapped group: two tasks that are mapped by themselves would wait for all of the first."""
    stage, import_ = dag.get_task("stage"), dag.get_task("import")
    assert stage.get_closest_mapped_task_group() is import_.get_closest_mapped_task_group() is not None
    assert import_.upstream_task_ids == {"normalize", "stage"}  # of normalize it takes the batches' ids
    assert dag.get_task("audit").upstream_task_ids == {"import"}


def test_batches_are_copied_in_a_pool_of_their_own(dag: Any) -> None:
    assert dag.get_task("stage").pool == "airlock_staging"


def test_imports_hold_a_slot_of_their_services_pool(dag: Any) -> None:
    assert dag.get_task("import").pool == "healthimaging_import"
    assert dag.task_dict.get("fhir.import") is None or dag.get_task("fhir.import").pool == "healthlake_import"


def test_a_million_objects_are_few_task_instances() -> None:
    """Airflow's scheduler slows down with their number. From the defaults: a nightly run of whole jobs' batches."""
    pipeline = imaging.pipelines["nightly"]
    arrivals = 1_000_000
    batches = -(-arrivals // pipeline.limits.files_per_job)
    mapped = {
        "parse": -(-arrivals // shard_rows(pipeline.parse, arrivals)),
        "stage": batches,
        "import": batches,
    }
    instances = sum(mapped[task.task_id] if is_mapped(task) else 1 for task in DAGS["nightly"].tasks)
    assert mapped == {"parse": 40, "stage": 200, "import": 200}
    assert instances <= 450
