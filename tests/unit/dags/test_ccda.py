"""The DAG of a C-CDA pipeline, a preview: conversion, the stages of FHIR, and a person before anything is routed."""

from __future__ import annotations

from typing import Any

from tests.unit.dags.shipped import DAGS

CONVERSION = ["receive", "buffer", "parse", "validate", "normalize", "import", "audit"]
FHIR = ["fhir.parse", "fhir.validate", "fhir.normalize", "fhir.import", "fhir.audit"]


DAG: Any = DAGS["ccda"]


def test_what_was_converted_goes_through_the_stages_of_fhir_and_a_review() -> None:
    names = [task.task_id for task in DAG.topological_sort()]
    assert names == [*CONVERSION, *FHIR, "review", "release", "route"]


def test_nothing_is_routed_that_nobody_reviewed() -> None:
    assert DAG.get_task("route").upstream_task_ids == {"release"}
    assert DAG.get_task("release").upstream_task_ids == {"review"}
    assert DAG.get_task("route").trigger_rule == "all_success"


def test_converted_data_is_validated_strictly() -> None:
    assert DAG.get_task("fhir.import").partial_kwargs["validation_level"] == "strict"
