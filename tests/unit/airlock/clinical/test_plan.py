"""A clinical plan: resources instead of files, what is looked up and what is not asked, hours and money by settings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airlock.clinical.normalize import normalize
from airlock.clinical.parse import parse
from airlock.clinical.plan import foresee_verdicts, write_plan
from airlock.clinical.validate import validate
from airlock.run import Run
from airlock.stages.buffer import buffer, find_shards
from airlock.stages.plan import read_plan
from airlock.stages.plan_table import format_plan
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import ndjson, observation, patient, pipeline
from tests.unit.airlock.clinical.world import Store, validated

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.pipelines import ClinicalPipeline
    from airlock.stages.plan import Plan
    from tests.unit.airlock.world import World

TWO = {"a.ndjson": [patient("p1"), observation("o1", "p1")], "b.ndjson": [patient("p2"), observation("o2", "p2")]}


def made(
    world: World, files: Mapping[str, Any], store: Store | None = None, run_id: str = "one", **changes: Any
) -> Plan:
    """Deliver files, and take a run through as a plan."""
    for name, content in files.items():
        body = content if isinstance(content, bytes) else ndjson(content)
        world.put(f"s3://archive/in/{run_id}/{name}", body)
    whole = Run(pipeline(**changes), run_id, None, S3Uri("archive", f"in/{run_id}/"), world.s3, world.ledger)
    run: Run[ClinicalPipeline] = whole.as_plan()
    buffer(run)
    for shard in find_shards(run):
        parse(run, shard)
    foresee_verdicts(run, store or Store())
    return write_plan(run)[0]


def found(plan: Plan) -> dict[tuple[str, str | None], tuple[int, int | None]]:
    return {(str(item.verdict), item.reason): (item.arrivals, item.units) for item in plan.findings}


def requests(plan: Plan) -> dict[str, tuple[int, float | None]]:
    return {item.what: (item.number, item.cost) for item in plan.cost.requests}


class TestWhatItSays:
    def test_resources_by_type_patients_files_and_jobs(self, world: World) -> None:
        plan = made(world, TWO, healthlake=pipeline().healthlake.model_dump() | {"files_per_job": 1})
        assert (plan.kind, plan.studies, plan.series) == ("clinical", None, None)
        assert plan.resources is not None
        assert plan.resources.by_type == {"Observation": 2, "Patient": 2}
        assert (plan.resources.total, plan.resources.patients, plan.resources.validation_level) == (4, 2, "strict")
        assert (plan.batches.jobs, plan.batches.files, plan.batches.most_files) == (2, 2, 1)
        assert found(plan) == {("accept", None): (2, 4)}

    def test_rejects_are_counted_by_unit_and_by_file_with_their_sentence(self, world: World) -> None:
        bad = [patient("p1"), "no json", "nor this"]
        plan = made(world, {"a.ndjson": bad, "image.dcm": b"DICM", "_SUCCESS": b""})
        assert found(plan) == {
            ("accept", None): (1, 1),
            ("quarantine", "not_fhir"): (1, 1),
            ("quarantine", "not_json"): (1, 2),
            ("ignore", "sidecar"): (1, 1),
        }
        assert all(item.sentence for item in plan.findings if item.reason)
        assert {item.reason: item.bytes for item in plan.findings if item.reason == "not_fhir"} == {"not_fhir": 4}

    def test_nothing_to_do_is_said(self, world: World) -> None:
        plan = made(world, {})
        assert (plan.arrivals, plan.batches.jobs, plan.hours.total, found(plan)) == (0, 0, 0, {})
        assert plan.resources is not None
        assert (plan.resources.total, plan.resources.by_type) == (0, {})

    def test_the_table_has_no_key_and_no_identifier(self, world: World) -> None:
        text = format_plan(made(world, {"CANARY-KEY.ndjson": [patient("CANARY-ID"), observation("o1", "CANARY-2")]}))
        assert "canary" not in text.lower()
        assert f"{'resources to import':42}{1:>14}" in text
        assert "HealthLake validates at strict" in text


class TestWhatItAsks:
    def test_references_are_looked_up_and_counted(self, world: World) -> None:
        files = {"a.ndjson": [observation("o1", "there"), observation("o2", "nobody")]}
        plan = made(world, files, Store(held={"Patient/there"}))
        assert found(plan)["park", "waiting_for_resource"] == (1, 1)
        assert requests(plan)["HealthLake reads, by validate"] == (2, None)

    def test_validate_is_counted_and_not_asked(self, world: World) -> None:
        store = Store(invalid={"p1": "wrong"})
        plan = made(world, TWO, store, validation={"service_check": "all"})
        assert store.validated == []
        assert requests(plan)["HealthLake $validate, by validate"] == (4, None)
        assert any(
            "service_check: all makes a run ask $validate about 4 resources" in text for text in plan.assumptions
        )

    def test_without_a_service_check_nothing_is_said_of_it(self, world: World) -> None:
        plan = made(world, TWO, validation={"service_check": "none"})
        assert not any("$validate" in text for text in plan.assumptions)


class TestItsFigures:
    @pytest.mark.parametrize(
        ("settings", "seconds", "limit"),
        [
            ({}, 2 * (10 + 2), "concurrent jobs"),
            ({"concurrent_jobs": 2, "starts_per_second": 0.01}, 100 + 10 + 2, "job starts"),
        ],
    )
    def test_hours_follow_the_quota_that_binds(
        self, world: World, settings: dict[str, Any], seconds: float, limit: str
    ) -> None:
        rates = {"job_seconds": 10, "job_resources_per_second": 1, "job_mib_per_second": 1e9, "copy_seconds": 3}
        one_file = pipeline().healthlake.model_dump() | {"files_per_job": 1}
        plan = made(world, TWO, healthlake=one_file, plan=rates | settings)
        assert plan.hours.jobs * 3600 == pytest.approx(seconds)
        assert plan.hours.copies * 3600 == pytest.approx(2 * 3)
        assert plan.hours.limited_by == limit

    def test_a_price_that_is_not_named_is_unknown_and_the_setting_is_said(self, world: World) -> None:
        plan = made(world, TWO)
        assert (plan.cost.imports, plan.cost.storage.model_dump()["healthlake"]) == (None, None)
        assert any("set plan.prices.import_gib, plan.prices.query_per_1000" in text for text in plan.assumptions)
        assert "unknown" in format_plan(plan)

    def test_cost_follows_the_price_table(self, world: World) -> None:
        gib = 1024**3
        prices = {"import_gib": gib, "stored_gib_month": 2 * gib, "query_per_1000": 1000}
        prices |= {"put_per_1000": 0, "get_per_1000": 0, "s3_gib_month": 3 * gib}
        plan = made(world, TWO, plan={"stored_fraction": 2, "prices": prices}, validation={"service_check": "all"})
        size = plan.batches.bytes
        assert plan.cost.imports == size
        assert plan.cost.storage.model_dump() == {"billed_bytes": 2 * size, "healthlake": 4 * size, "copies": 3 * size}
        assert plan.cost.all_requests == 4 + 4  # $validate, and what audit reads back
        assert not any("has no default prices" in text for text in plan.assumptions)


class TestItLeavesNoTrace:
    def test_nothing_is_claimed_and_the_same_run_in_earnest_takes_everything(self, world: World) -> None:
        planned = made(world, TWO)
        assert world.keys(pipeline().staging.uri) == []
        real = validated(world, TWO)
        assert validate(real, None) == {"accept": 4}
        assert sum(batch.files for batch in normalize(real, real.pipeline.healthlake)) == planned.batches.files

    def test_what_another_run_is_bringing_is_no_work(self, world: World) -> None:
        validated(world, {"a.ndjson": [patient("p1")]}, "other")
        plan = made(world, TWO)
        assert found(plan)["quarantine", "instance_claimed"] == (1, 1)
        assert validate(validated(world, {"a.ndjson": [patient("p1")]}, "other"), None) == {"accept": 1}

    def test_made_again_it_sees_what_has_come(self, world: World) -> None:
        made(world, {"a.ndjson": [patient("p1"), observation("o1", "p2")]})
        assert found(made(world, TWO)) == {("accept", None): (2, 4)}

    def test_it_is_read_as_it_was_written(self, world: World) -> None:
        plan = made(world, TWO)
        assert read_plan(world.s3, pipeline(), "one") == plan
