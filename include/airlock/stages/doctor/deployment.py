"""Airflow's connections and pools that a pipeline names, and its DAGs."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Final

from airlock.pipelines import REVIEW_SUFFIX, SWEEP_SUFFIX, ImagingPipeline
from airlock.stages.doctor.findings import Check, failed, passed, warned
from airlock.stages.doctor.uses import list_aws_connections, list_other_connections, list_stores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.pipelines import Pipeline
    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.world import Connection, Pool, World

DEFINED: Final = "connection.defined"
_PARALLELISM: Final = 32  # Airflow's default of [core] parallelism


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of each connection, pool and DAG."""
    pipeline = world.pipeline
    for name in list_aws_connections(pipeline):
        yield Check(DEFINED, name, partial(_check_connection, world, name, is_aws=True))
    for name in list_other_connections(pipeline):
        yield Check(DEFINED, name, partial(_check_connection, world, name, is_aws=False))
    stores = list_stores(pipeline)
    for pool in sorted({store.settings.pool for store in stores}):
        yield Check("pool.exists", pool, partial(_check_pool, world, pool, waits=True))
    if isinstance(pipeline, ImagingPipeline):
        pool = pipeline.staging.pool
        yield Check("pool.exists", pool, partial(_check_pool, world, pool, waits=False))
    for name in _list_dags(pipeline):
        yield Check("airflow.dag", name, partial(_check_dag, world, name))


def _list_dags(pipeline: Pipeline) -> list[str]:
    """Return the ids of a pipeline's DAGs."""
    names = [pipeline.name]
    if pipeline.asks_people:
        names.append(f"{pipeline.name}{REVIEW_SUFFIX}")
    if pipeline.sweep.cron is not None:
        names.append(f"{pipeline.name}{SWEEP_SUFFIX}")
    return names


def _check_connection(world: World, name: str, *, is_aws: bool) -> Finding:
    found = world.airflow.connection(name)
    if found.problem:
        return failed(found.problem, found.fix)
    return _judge_connection(found, name, is_aws=is_aws)


def _judge_connection(found: Connection, name: str, *, is_aws: bool) -> Finding:
    if found.is_defined is None:
        return warned(
            f"Not checked: {found.source}.", "Set AIRLOCK_API_URL, or call airlock doctor where the connection is."
        )
    if found.is_defined and is_aws and found.kind not in {"", "aws"}:
        return failed(f"Its type is {found.kind!r}, not aws.", "Set conn_type to aws.")
    if found.is_defined and is_aws and not found.is_readable:
        return warned(
            f"It is in {found.source}, whose secrets cannot be read here: AWS was asked with the credentials of this "
            "environment.",
            f"Call airlock doctor with AIRFLOW_CONN_{name.upper()} set, or with credentials of the same role.",
        )
    if found.is_defined:
        return passed(f"It is defined ({found.source}).")
    if is_aws:
        return warned(
            f"It is not defined ({found.source}). Airflow uses the credentials of the machine instead.",
            f"Define it, for example in AIRFLOW_CONN_{name.upper()}, unless that is intended.",
        )
    return failed(f"It is not defined ({found.source}).", "Define it in Airflow; what is sent by it fails without it.")


def _check_pool(world: World, name: str, *, waits: bool) -> Finding:
    """Return the finding on a pool; ``waits`` says whether its tasks are deferred while their jobs run."""
    found = world.airflow.pool(name)
    if found is None:
        return failed(
            "There is no such pool: its tasks would wait for ever.",
            f'airflow pools set {name} SLOTS "..." --include-deferred (docs/operations.md#deploying)',
        )
    if found.slots == 0:
        return failed("It has no slots: its tasks wait for ever.", "Give it slots (docs/operations.md#deploying).")
    if waits and not found.include_deferred:
        return warned(
            "Deferred tasks do not count in it, so it does not limit the jobs that run at the same time.",
            f"airflow pools set {name} {found.slots} ... --include-deferred",
        )
    if not waits:
        return _judge_staging(world, name, found)
    return passed(_count_slots(found))


def _count_slots(pool: Pool) -> str:
    slots = "no limit" if pool.slots < 0 else "1 slot" if pool.slots == 1 else f"{pool.slots} slots"
    return f"It has {slots}."


def _judge_staging(world: World, name: str, pool: Pool) -> Finding:
    """Return the finding on the pool of the tasks that copy batches, which must leave workers to those that import."""
    tasks = _read_parallelism(world)
    if tasks > 1 and not 0 < pool.slots < tasks:
        return warned(
            f"{_count_slots(pool)[:-1]}, and a scheduler runs {tasks} tasks at a time: all batches are copied before "
            "the first one is imported.",
            f"airflow pools set {name} {tasks // 2} ... --include-deferred (docs/operations.md#deploying)",
        )
    return passed(_count_slots(pool))


def _read_parallelism(world: World) -> int:
    """Return the most tasks that a scheduler runs at a time; 0 if it has no limit, or none is known here."""
    given = world.airflow.option("core", "parallelism") if world.airflow.has_settings else "0"
    if given is None:
        return _PARALLELISM
    return int(given) if given.isdecimal() else 0


def _check_dag(world: World, name: str) -> Finding:
    found = world.airflow.dag(name)
    if found is None:
        return failed(
            "Airflow has no such DAG.",
            "Look at Import errors in Airflow's UI. Give every part of Airflow the same pipeline files, and their "
            "folder in AIRLOCK_PIPELINES.",
        )
    if found.is_paused:
        return warned("It is paused, so no run starts.", f"Switch it on in the UI, or: airflow dags unpause {name}")
    return passed("Airflow has it, and it is switched on.")
