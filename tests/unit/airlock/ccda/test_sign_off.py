"""No document is converted by a version of the profile that nobody has signed for."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from airlock.ccda.sign_off import SignOffError, UnsignedProfileError, require_signed, sign_off
from airlock.ledger import SignOff
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.ccda.world import delivery

if TYPE_CHECKING:
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from tests.unit.airlock.world import World

NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
SIGNED = SignOff("a" * 32, 1, "ten documents", 0.9, "ada", "compared with the documents", NOW)


def signed(run: Run[CcdaPipeline], given: SignOff = SIGNED) -> None:
    sign_off(run.s3, run.pipeline, run.ledger, given)


def test_a_run_with_an_unsigned_version_is_told_what_to_do(world: World) -> None:
    run = delivery(world, {})
    with pytest.raises(UnsignedProfileError, match="Nobody has signed for version 1 of profile") as caught:
        require_signed(run)
    assert f"airlock sign-off {run.pipeline.name} --sample" in str(caught.value)
    signed(run)
    assert require_signed(run) == SIGNED


def test_a_sign_off_is_for_the_version_that_was_seen(world: World) -> None:
    signed(delivery(world, {}))
    with pytest.raises(UnsignedProfileError, match="version 2"):
        require_signed(delivery(world, {}, "two", transformation={"profile_version": 2}))


def test_a_pipeline_that_asks_for_more_coverage_needs_another_sign_off(world: World) -> None:
    signed(delivery(world, {}))
    with pytest.raises(UnsignedProfileError, match=r"0\.9 was covered, below transformation\.min_coverage 0\.95"):
        require_signed(delivery(world, {}, "two", transformation={"min_coverage": 0.95}))


def test_its_copy_is_kept_below_the_workspace(world: World) -> None:
    run = delivery(world, {})
    signed(run)
    below = S3Uri.parse(run.pipeline.workspace).join(run.pipeline.name, "decisions", "")
    assert [*run.s3.list_objects(below)]


def test_a_coverage_that_documents_would_not_pass_is_refused(world: World) -> None:
    run = delivery(world, {}, transformation={"min_coverage": 0.95})
    with pytest.raises(SignOffError, match=r"coverage 0\.9 is below transformation\.min_coverage 0\.95"):
        signed(run)
    assert run.ledger.last_sign_off(run.pipeline.name, "a" * 32, 1) is None


@pytest.mark.parametrize(
    ("change", "says"),
    [({"sample": " "}, "The sample is empty"), ({"why": ""}, "The reason is empty"), ({"why": "x" * 3000}, "has 3000")],
)
def test_a_word_without_a_sample_or_a_reason_is_refused(world: World, change: dict[str, str], says: str) -> None:
    with pytest.raises(SignOffError, match=says):
        signed(delivery(world, {}), replace(SIGNED, **change))
