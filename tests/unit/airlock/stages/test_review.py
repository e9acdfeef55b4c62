"""Review: what a person's word counts for, and what it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airlock.imaging.audit import audit
from airlock.stages.review import Review, ReviewError, record_question, record_review
from tests.unit.airlock.imaging.test_audit import NO_WAIT, A, B, contracts, dicom, imported, staged, words
from tests.unit.airlock.job_output import failure, warning

if TYPE_CHECKING:
    from airlock.run import Run
    from tests.unit.airlock.world import World

YES = Review(True, "ada", "seen beside the source", "2026-11-24T02:00:00+00:00")
WARNED = warning("", "PIXEL_DATA_LOST", imageSetId="set-1")
HELD = {"a": ("held", "service_warning"), "b": ("held", "study_held")}


def held(world: World, **lines: Any) -> Run:
    run = staged(world, A, B, audit=NO_WAIT | {"on_hold": "review"}, review={"by": "the archive team"})
    imported(world, run, **({"a": WARNED} | lines))
    audit(run, None)
    return run


def test_a_word_counts_for_what_the_person_saw(world: World) -> None:
    run = held(world)
    assert words(run) == HELD
    assert record_question(run) == {"service_warning": 1}
    assert record_review(run, YES) == 1
    assert audit(run, None).report["studies"] == {"released": 1, "held": 0, "stopped": 0}
    assert words(run) == {"a": ("released", "service_warning"), "b": ("released", None)}
    override = contracts(run)["1.1"].override
    assert override is not None
    assert (override.overridden_by, override.reasons) == ("ada", ("service_warning",))
    assert record_question(run) == {}


def refused_elsewhere(world: World, name: str, number: int) -> None:
    """Let another run fail to bring a file of the same study."""
    other = staged(world, dicom(name, SOPInstanceUID=f"1.1.1.{number}"), run_id=name)
    imported(world, other, **{name: failure("")})
    audit(other, None)


def test_a_word_does_not_count_for_what_is_found_later(world: World) -> None:
    run = held(world)
    record_question(run)
    record_review(run, YES)
    refused_elsewhere(world, "c", 3)
    audit(run, None)
    assert words(run) == HELD
    assert contracts(run) == {}
    assert record_question(run) == {"service_warning": 1, "study_incomplete": 1}
    assert record_review(run, Review(True, "grace", "seen both", "2026-11-24T03:00:00+00:00")) == 1
    audit(run, None)
    assert words(run) == {"a": ("released", "service_warning"), "b": ("released", None)}
    override = contracts(run)["1.1"].override
    assert override is not None
    assert override.overridden_by == "grace"


def test_a_word_about_a_file_of_another_run_does_not_count_for_a_second_one(world: World) -> None:
    """Both make the study incomplete, and the person saw one."""
    run = held(world)
    refused_elsewhere(world, "c", 3)
    audit(run, None)
    record_question(run)
    record_review(run, YES)
    refused_elsewhere(world, "d", 4)
    audit(run, None)
    assert words(run) == HELD


def test_a_release_that_a_person_approved_stands_whatever_another_run_finds_later(world: World) -> None:
    run = held(world)
    record_question(run)
    record_review(run, YES)
    audit(run, None)
    released = words(run)
    assert released["a"] == ("released", "service_warning")
    refused_elsewhere(world, "c", 3)
    audit(run, None)
    assert words(run) == released
    assert record_question(run) == {}


def test_an_answer_given_twice_is_written_once(world: World) -> None:
    run = held(world)
    record_question(run)
    for _ in range(2):
        record_review(run, YES)
    assert run.ledger.overrides_of(run.pipeline.datastore_id, run.key).height == 1


def test_nothing_is_recorded_of_an_answer_to_a_question_that_was_not_asked(world: World) -> None:
    run = held(world)
    with pytest.raises(ReviewError, match="1 holds are new since review asked"):
        record_review(run, YES)
    assert run.ledger.overrides_of(run.pipeline.datastore_id, run.key).is_empty()


@pytest.mark.parametrize(("person", "why"), [("", "seen"), ("ada", ""), ("ada", " "), (" ", "seen")])
def test_an_approval_needs_a_person_and_a_reason(world: World, person: str, why: str) -> None:
    run = held(world)
    record_question(run)
    with pytest.raises(ReviewError, match="needs a person and a reason"):
        record_review(run, Review(True, person, why, YES.answered_at))


def test_a_reason_code_that_no_review_is_about_is_refused(world: World) -> None:
    run = held(world)
    record_question(run)
    with pytest.raises(ReviewError, match="1 of the given reason codes cannot be released"):
        record_review(run, YES, ["run_unbalanced"])


def test_a_study_with_a_file_that_is_not_accounted_for_is_not_asked_about(world: World) -> None:
    run = held(world, b=None)
    assert words(run)["b"] == ("failed", "not_in_manifest")
    assert record_question(run) == {}


def test_what_the_service_refused_makes_the_study_incomplete(world: World) -> None:
    run = held(world, b=failure(""))
    assert record_question(run) == {"service_warning": 1, "study_incomplete": 1}
    record_review(run, YES)
    audit(run, None)
    assert words(run) == {"a": ("released", "service_warning"), "b": ("failed", "rejected")}


def test_a_held_file_of_another_run_needs_a_word_of_its_own(world: World) -> None:
    held(world)
    later = staged(world, dicom("c", SOPInstanceUID="1.1.1.3"), run_id="two")
    imported(world, later)
    audit(later, None)
    assert words(later) == {"c": ("held", "study_held")}
    assert record_question(later) == {}
