"""The tables of a plan, whatever travels."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from airlock.records import Verdict
from airlock.stages.plan import (
    Batches,
    Cost,
    Finding,
    Hours,
    Plan,
    ProjectedLimit,
    Projection,
    Requests,
    Resources,
    ResourceStorage,
    Storage,
)
from airlock_cli.plan import tables

BATCHES = Batches(jobs=2, files=5, bytes=10, most_files=3, most_bytes=6, in_place=0, too_many=False)
HOURS = Hours(copies=0.5, jobs=1, total=1.5, limited_by="concurrent jobs", nights=None)
UNPRICED = Requests(what="HealthLake reads", number=7, cost=None, made=True)
IMAGES = Storage(image_sets=3, billed_bytes=10, frequent=1, archive=0.5, copies=0.25)
RECORDS = ResourceStorage(billed_bytes=10, healthlake=None, copies=0.25)
RESOURCES = Resources(total=4, by_type={"Patient": 4}, patients=4, validation_level="strict")


def shown(storage: Storage | ResourceStorage, units: int | None = None, **fields: Any) -> dict[str, dict[Any, Any]]:
    """Return each table's rows by their first cell, under the first word of its title."""
    found = Finding(verdict=Verdict.ACCEPT, reason=None, sentence=None, arrivals=5, units=units, bytes=10)
    cost = Cost(
        currency="USD",
        region="us-east-1",
        as_of=date(2026, 10, 7),
        requests=(UNPRICED,),
        all_requests=0.5,
        imports=None,
        storage=storage,
    )
    plan = Plan(
        schema="airlock.plan/1",
        pipeline="nightly",
        run_id="one",
        made_at=datetime(2026, 11, 24, tzinfo=UTC),
        window=None,
        prefix="s3://archive/in/",
        **dict.fromkeys(("listed", "settled", "claimed_elsewhere", "undated", "arrivals", "bytes"), 5),
        findings=(found,),
        hours=HOURS,
        cost=cost,
        assumptions=(),
        **({"batches": BATCHES} | fields),
    )
    made = tables(plan.model_dump(mode="json", by_alias=True))
    return {table.title.partition(" ")[0]: {row[0]: row[1:] for row in table.rows} for table in made}


@pytest.mark.parametrize(
    ("fields", "storage", "there", "not_there"),
    [
        ({"studies": 2, "series": 3}, IMAGES, {"studies": (2,), "series": (3,)}, {"patients", "resources"}),
        (
            {"kind": "clinical", "resources": RESOURCES},
            RECORDS,
            {"resources": (4,), "Patient": (4,), "patients": (4,)},
            {"studies", "series"},
        ),
        ({"kind": "ccda"}, RECORDS, {"resources": ("unknown before the documents are converted",)}, {"studies"}),
    ],
    ids=["imaging", "clinical", "ccda"],
)
def test_each_kind_shows_what_it_counts(
    fields: dict[str, Any], storage: Any, there: dict[str, Any], not_there: set[str]
) -> None:
    rows = shown(storage, **fields)["plan"]
    assert there.items() <= rows.items()
    assert not not_there & rows.keys()


def test_findings_of_a_clinical_plan_are_counted_in_units() -> None:
    assert shown(RECORDS, 9, kind="clinical", resources=RESOURCES)["findings"].keys() == {9}
    assert shown(IMAGES, studies=1, series=1)["findings"].keys() == {5}


def test_what_has_no_price_is_unknown() -> None:
    cost = shown(RECORDS, kind="ccda")["cost"]
    assert cost["7 HealthLake reads"] == cost["imports"] == cost["storage per month, healthlake"] == ("unknown",)
    assert cost["requests in all"] == ("0.5000",)


def test_what_no_window_will_take_and_what_makes_jobs_wait_is_shown() -> None:
    rows = shown(IMAGES, studies=1, series=1)
    assert rows["plan"]["undated"] == (5,)
    assert rows["plan"]["hours"] == ("1.50, including 0.50 for copies; limited by concurrent jobs",)
    assert not rows["problems"]


def test_a_plan_that_no_run_can_carry_out_says_so() -> None:
    rows = shown(IMAGES, batches=BATCHES.model_copy(update={"too_many": True}), studies=1, series=1)
    (problem,) = rows["problems"]
    assert problem.startswith("One run cannot start this many import jobs.")


def test_a_projection_names_the_limit_that_binds_and_its_assumptions() -> None:
    limit = ProjectedLimit(limit="S3 COPY", objects_per_second=3_500, hours=7.94)
    hours = {"head_hours": 0.5, "binding_hours": 7.94, "tail_hours": 0.06, "hours": 8.5}
    facts = {"objects": 100_000_000, "waves": 100, "jobs": 20_000, "limited_by": "S3 COPY", "limits": (limit,)}
    projection = Projection(**facts, **hours, assumptions=("A copy takes 0.1 s.",))
    rows = shown(IMAGES, studies=1, series=1, projection=projection)
    assert rows["projected"]["all objects"] == ("7.94; limited by S3 COPY",)
    assert rows["projected"]["S3 COPY alone"] == ("7.94; 3500 objects/s",)
    assert rows["projection:"] == {"A copy takes 0.1 s.": ()}
    assert "projected" not in shown(IMAGES, studies=1, series=1)
