"""The DAG of a pipeline's reviews exists where people are asked, and holds up no run of the pipeline."""

from __future__ import annotations

import json
from typing import Any

import pytest

import ccda
import clinical
import imaging
from tests.chain import HEALTHLAKE, MINIMAL, ccda_pipeline, clinical_pipeline, pipeline

ASKING: dict[str, Any] = {"audit": {"on_hold": "review"}, "review": {"by": "the archive team"}}
KINDS: dict[str, tuple[Any, Any]] = {
    "imaging": (imaging, pipeline(**ASKING)),
    "publishing": (imaging, pipeline(**ASKING, healthlake=HEALTHLAKE)),
    "clinical": (clinical, clinical_pipeline(**MINIMAL)),
    "ccda": (ccda, ccda_pipeline()),
}


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_in_a_run_waits_for_a_review(kind: str) -> None:
    module, asking = KINDS[kind]
    assert not {"review", "release"} & set(module.build(asking).task_ids)


@pytest.mark.parametrize("kind", KINDS)
def test_it_is_one_chain_an_hour_that_is_not_paused(kind: str) -> None:
    module, asking = KINDS[kind]
    dag = module.build_review(asking)
    assert dag.dag_id == f"{asking.name}__review"
    assert not dag.is_paused_upon_creation
    assert (dag.catchup, dag.max_active_runs) == (False, 1)
    names = [task.task_id for task in dag.topological_sort()]
    publishing = ["fhir.normalize", "fhir.import", "fhir.audit"] if kind == "publishing" else []
    assert names == ["remind", "release", *publishing, "route", "next_review", "end"]
    assert dag.get_task("next_review").trigger_rule == "none_skipped"


@pytest.mark.parametrize("kind", KINDS)
def test_a_failure_fails_the_dag_run_although_the_next_review_begins(kind: str) -> None:
    """Airflow judges a run by its leaves."""
    module, asking = KINDS[kind]
    dag = module.build_review(asking)
    end = dag.get_task("end")
    assert end in dag.leaves
    assert (end.trigger_rule, end.upstream_task_ids) == ("all_success", {"route"})


def test_of_the_shipped_pipelines_only_documents_have_one() -> None:
    assert set(ccda.reviews) == {"ccda"}
    assert imaging.reviews == clinical.reviews == {}


def test_it_can_be_serialized_and_holds_no_settings_of_the_pipeline() -> None:
    from airflow.serialization.serialized_objects import DagSerialization

    text = json.dumps(DagSerialization.to_dict(imaging.build_review(pipeline(**ASKING))))
    assert pipeline().staging.uri not in text
