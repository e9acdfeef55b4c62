"""The DAG of a C-CDA pipeline, a preview: conversion, the stages of FHIR, and a person before anything is routed."""

from __future__ import annotations

from typing import Any

import pytest

import ccda
from tests.unit.dags.shipped import documents

CONVERSION = ["receive", "buffer", "parse", "validate", "normalize", "import", "audit"]
FHIR = ["fhir.parse", "fhir.validate", "fhir.normalize", "fhir.import", "fhir.audit"]


@pytest.fixture(scope="module")
def dag() -> Any:
    return documents()


def test_none_ships() -> None:
    assert ccda.dags == {}


def test_what_was_converted_goes_through_the_stages_of_fhir_and_a_review(dag: Any) -> None:
    names = [task.task_id for task in dag.topological_sort()]
    assert names == [*CONVERSION, *FHIR, "review", "release", "route"]


def test_nothing_is_routed_that_nobody_reviewed(dag: Any) -> None:
    assert dag.get_task("route").upstream_task_ids == {"release"}
    assert dag.get_task("release").upstream_task_ids == {"review"}
    assert dag.get_task("route").trigger_rule == "all_success"


def test_converted_data_is_validated_strictly(dag: Any) -> None:
    assert dag.get_task("fhir.import").partial_kwargs["validation_level"] == "strict"
