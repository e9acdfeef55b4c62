"""The DAG of a C-CDA pipeline, a preview: conversion, and the stages of FHIR; what it routes a person has approved."""

from __future__ import annotations

from typing import Any

from tests.unit.dags.shipped import DAGS

CONVERSION = ["receive", "buffer", "parse", "validate", "normalize", "import", "audit"]
FHIR = ["fhir.parse", "fhir.validate", "fhir.normalize", "fhir.import", "fhir.audit"]


DAG: Any = DAGS["ccda"]


def test_what_was_converted_goes_through_the_stages_of_fhir() -> None:
    names = [task.task_id for task in DAG.topological_sort()]
    assert names == [*CONVERSION, *FHIR, "route"]


def test_route_comes_after_the_audit_which_releases_nothing_that_nobody_reviewed() -> None:
    assert DAG.get_task("route").upstream_task_ids == {"fhir.audit"}
    assert DAG.get_task("route").trigger_rule == "all_success"


def test_converted_data_is_validated_strictly() -> None:
    assert DAG.get_task("fhir.import").partial_kwargs["validation_level"] == "strict"
