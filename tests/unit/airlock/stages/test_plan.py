from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from airlock.stages.plan import PlanMissingError, json_schema, read_plan
from tests.unit.airlock.world import pipeline

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

PAGE = Path(__file__).parents[4] / "docs" / "plan.schema.json"


def test_a_run_without_a_plan_is_named_with_the_fix(world: World) -> None:
    with pytest.raises(PlanMissingError, match=r"'none' of pipeline 'nightly' has not written a plan\. Start"):
        read_plan(world.s3, pipeline(), "none")


def test_its_schema_is_the_one_in_the_docs() -> None:
    """docs/schemas.md has the command that writes it."""
    assert json.loads(PAGE.read_text()) == json_schema()
