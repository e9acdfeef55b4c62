"""A plan of documents ends with their conversion: what comes out of it is said to be unknown."""

from __future__ import annotations

import gzip
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ccda.parse import parse
from airlock.ccda.plan import write_plan
from airlock.ccda.validate import validate
from airlock.run import Run
from airlock.stages.buffer import buffer, find_shards
from airlock.stages.plan_table import format_plan
from airlock.storage.s3uri import S3Uri
from airlock_local.sample.ccda.documents import ccd
from tests.unit.airlock.ccda.world import normalized, validated
from tests.unit.airlock.clinical.books import CCDA, pipeline

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.pipelines import CcdaPipeline
    from airlock.stages.plan import Plan
    from tests.unit.airlock.world import World

TWO = {"a.xml": ccd(1), "b.xml": ccd(2)}


def made(world: World, files: Mapping[str, bytes], run_id: str = "one", **changes: Any) -> Plan:
    """Deliver documents, and take a run through as a plan."""
    for name, body in files.items():
        world.put(f"s3://archive/in/{run_id}/{name}", body)
    transformation = CCDA["transformation"] | changes.pop("transformation", {})
    chosen = pipeline(**CCDA | {"transformation": transformation} | changes)
    whole: Run[Any] = Run(chosen, run_id, None, S3Uri("archive", f"in/{run_id}/"), world.s3, world.ledger)
    run: Run[CcdaPipeline] = whole.as_plan()
    buffer(run)
    for shard in find_shards(run):
        parse(run, shard)
    validate(run)
    return write_plan(run)[0]


def found(plan: Plan) -> dict[tuple[str, str | None], int]:
    return {(str(item.verdict), item.reason): item.arrivals for item in plan.findings}


def requests(plan: Plan) -> dict[str, int]:
    return {item.what: item.number for item in plan.cost.requests}


class TestWhatItSays:
    def test_documents_jobs_and_bytes_unpacked(self, world: World) -> None:
        files = TWO | {"c.xml.gz": gzip.compress(ccd(3))}
        plan = made(world, files, transformation={"documents_per_job": 2})
        assert plan.kind == "ccda"
        assert (plan.arrivals, plan.batches.jobs, plan.batches.files) == (3, 2, 3)
        assert plan.batches.bytes == sum(len(ccd(number)) for number in (1, 2, 3))
        assert requests(plan)["S3 GET of packed documents, by normalize"] == 1
        assert requests(plan)["HealthLake StartDataTransformationJob"] == 2

    def test_rejects_come_with_their_sentence(self, world: World) -> None:
        plan = made(world, TWO | {"c.xml": ccd(1), "d.xml": ccd(4)[:-200], "e.txt": b"text"})
        assert found(plan) == {
            ("accept", None): 2,
            ("duplicate", "duplicate_same_content"): 1,
            ("quarantine", "truncated"): 1,
            ("ignore", "sidecar"): 1,
        }
        assert all(item.sentence for item in plan.findings if item.reason)

    def test_resources_are_said_to_be_unknown(self, world: World) -> None:
        plan = made(world, TWO)
        assert plan.resources is None
        assert plan.assumptions[0].startswith("Resources are unknown before the conversion")
        assert f"{'resources':42}{'unknown':>14}  before the documents are converted" in format_plan(plan)

    def test_nothing_to_do_is_said(self, world: World) -> None:
        plan = made(world, {})
        assert (plan.arrivals, plan.batches.jobs, plan.hours.total) == (0, 0, 0)


class TestItsFigures:
    def test_one_job_after_the_other_takes_its_documents_in_turn(self, world: World) -> None:
        rates = {"job_seconds": 10, "job_documents_per_second": 0.5, "job_mib_per_second": 1e9, "copy_seconds": 32}
        plan = made(world, TWO, transformation={"documents_per_job": 1}, plan=rates)
        assert plan.hours.jobs * 3600 == pytest.approx(2 * (10 + 2))
        assert plan.hours.copies * 3600 == pytest.approx(1)  # 2 copies of 32 s, 64 at a time
        assert plan.hours.limited_by == "concurrent jobs"

    def test_a_conversion_has_a_price_only_where_one_is_named(self, world: World) -> None:
        unknown = made(world, TWO)
        priced = made(world, TWO, plan={"prices": {"conversion_gib": 1024**3}})
        assert (unknown.cost.imports, priced.cost.imports) == (None, priced.batches.bytes)
        said = [any("plan.prices.conversion_gib" in text for text in each.assumptions) for each in (unknown, priced)]
        assert said == [True, False]


class TestItLeavesNoTrace:
    def test_nothing_is_claimed_and_the_same_run_in_earnest_takes_everything(self, world: World) -> None:
        plan = made(world, TWO)
        assert world.keys(pipeline().staging.uri) == []
        assert len(world.keys(normalized(world, TWO).pipeline.staging.uri)) == plan.batches.files == 2

    def test_documents_that_another_run_has_claimed_are_not_planned(self, world: World) -> None:
        validated(world, {"a.xml": ccd(1)}, "other")
        assert found(made(world, TWO)) == {("accept", None): 1, ("quarantine", "instance_claimed"): 1}
