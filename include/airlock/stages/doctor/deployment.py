"""Airflow's connections and pools that a pipeline names."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from airlock.pipelines import ImagingPipeline
from airlock.stages.doctor.findings import Check, failed, passed, warned
from airlock.stages.doctor.uses import list_aws_connections, list_other_connections, list_stores

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.world import World


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of each connection and pool."""
    pipeline = world.pipeline
    for name in list_aws_connections(pipeline):
        yield Check("connection.defined", name, partial(_check_connection, world, name, is_aws=True))
    for name in list_other_connections(pipeline):
        yield Check("connection.defined", name, partial(_check_connection, world, name, is_aws=False))
    stores = list_stores(pipeline)
    for pool in sorted({store.settings.pool for store in stores}):
        yield Check("pool.exists", pool, partial(_check_pool, world, pool, waits=True))
    if isinstance(pipeline, ImagingPipeline):
        pool = pipeline.staging.pool
        yield Check("pool.exists", pool, partial(_check_pool, world, pool, waits=False))


def _check_connection(world: World, name: str, *, is_aws: bool) -> Finding:
    found = world.airflow.connection(name)
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
    return passed(f"It has {'no limit' if found.slots < 0 else f'{found.slots} slots'}.")
