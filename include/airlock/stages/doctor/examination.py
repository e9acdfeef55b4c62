"""All checks of a pipeline, made one after the other, and what they found as JSON."""

from __future__ import annotations

from collections import Counter
from itertools import chain
from typing import TYPE_CHECKING, Any, Final

from airlock.stages.doctor import (
    airflow_settings,
    arrivals,
    buckets,
    datastores,
    deployment,
    identity,
    keys,
    ledgers,
    lifecycles,
    machine,
    receivers,
    rights,
    roles,
    sources,
)
from airlock.stages.doctor.attempts import make_checks
from airlock.stages.doctor.findings import Result

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.stages.doctor.findings import Check, Finding
    from airlock.stages.doctor.world import World

SCHEMA: Final = "airlock.doctor/1"
SECONDS: Final = 15.0  # for one check; a client of AWS waits for less
# A module comes after those whose checks its own need.
SUBJECTS: Final = (
    deployment,
    identity,
    ledgers,
    airflow_settings,
    machine,
    buckets,
    lifecycles,
    sources,
    arrivals,
    datastores,
    roles,
    rights,
    keys,
    receivers,
)


def list_checks(world: World) -> list[Check]:
    """Return all checks of a pipeline."""
    return list(chain.from_iterable(subject.list_checks(world) for subject in SUBJECTS))


def examine(world: World, seconds: float = SECONDS) -> list[tuple[Check, Finding]]:
    """Make all checks of a pipeline.

    Parameters
    ----------
    world
        What is looked at.
    seconds
        The longest time for one check.

    Returns
    -------
    list of (Check, Finding)
        In the order of `SUBJECTS`.
    """
    return list(make_checks(list_checks(world), seconds))


def describe(pipeline: str, found: Sequence[tuple[Check, Finding]]) -> dict[str, Any]:
    """Return the findings of a pipeline as JSON, schema `SCHEMA`."""
    counts = Counter(finding.result for _, finding in found)
    return {
        "schema": SCHEMA,
        "pipeline": pipeline,
        "counts": {result.value: counts[result] for result in Result},
        "checks": [
            {
                "check": check.name,
                "about": check.about,
                "result": finding.result.value,
                "found": finding.found,
                "fix": finding.fix,
            }
            for check, finding in found
        ],
    }
