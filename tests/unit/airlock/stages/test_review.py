"""Review: what people are asked, what an answer counts for, and what it does not."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging.audit import audit
from airlock.ledger import ReviewAnswer
from airlock.ledger.reviews import LEAST_OPENED, MOST_BY_ONE
from airlock.pipelines.review import Review
from airlock.records import HOLDS
from airlock.stages import review
from airlock.stages.review import (
    MOST_AT_ONCE,
    MOST_SAMPLES,
    SITED_HOLDS,
    ReviewError,
    answer,
    find_approvals,
    reopen,
    select_asked,
    write_groups,
)
from tests.unit.airlock.imaging.test_audit import NO_WAIT, A, B, contracts, dicom, imported, staged, words
from tests.unit.airlock.job_output import failure, warning

if TYPE_CHECKING:
    from airlock.ledger import ReviewRecord
    from airlock.run import Run
    from tests.unit.airlock.world import World

YES = ReviewAnswer(True, "ada", "seen beside the source")
NO = ReviewAnswer(False, "grace", "the sender has the rest")
WARNED = warning("", "PIXEL_DATA_LOST", imageSetId="set-1")
HELD = {"a": ("held", "service_warning"), "b": ("held", "study_held")}
RELEASED = {"a": ("released", "service_warning"), "b": ("released", None)}
TEAM: dict[str, Any] = {"by": "the archive team"}


def held(world: World, people: dict[str, Any] = TEAM, **lines: Any) -> Run:
    run = staged(world, A, B, audit=NO_WAIT | {"on_hold": "review"}, review=people)
    imported(world, run, **({"a": WARNED} | lines))
    audit(run, None)
    return run


def waiting(run: Run) -> list[ReviewRecord]:
    return run.ledger.open_reviews({run.pipeline.name})


def codes(run: Run) -> list[tuple[str, ...]]:
    return [one.reasons for one in waiting(run)]


def answered(run: Run, given: ReviewAnswer = YES, **more: Any) -> int:
    return answer(run.s3, run.pipeline, run.ledger, waiting(run), given, **more)


def refused_elsewhere(world: World, name: str, number: int) -> None:
    """Let another run fail to bring a file of the same study."""
    other = staged(world, dicom(name, SOPInstanceUID=f"1.1.1.{number}"), run_id=name)
    imported(world, other, **{name: failure("")})
    audit(other, None)


class TestAsking:
    def test_a_held_study_is_a_row_with_its_findings(self, world: World) -> None:
        run = held(world)
        assert words(run) == HELD
        (asked,) = waiting(run)
        assert (asked.subject, asked.reason, asked.reasons) == ("1.1", "service_warning", ("service_warning",))
        assert (asked.run_key, asked.assignee, asked.site, asked.subjects) == (run.key, "the archive team", "", 1)

    def test_a_pipeline_that_keeps_its_holds_asks_nobody(self, world: World) -> None:
        run = staged(world, A, B)
        imported(world, run, a=WARNED)
        audit(run, None)
        assert words(run) == HELD
        assert waiting(run) == []

    def test_a_repeated_audit_asks_the_same_question(self, world: World) -> None:
        run = held(world)
        before = waiting(run)
        audit(run, None)
        assert waiting(run) == before

    def test_the_assignees_of_the_pipeline_are_named(self, world: World) -> None:
        run = held(world, TEAM | {"assignees": ["ada", "group:radiology"], "deputies": ["grace"]})
        assert [(one.assignee, one.deputy) for one in waiting(run)] == [("ada,group:radiology", "grace")]

    def test_a_study_with_a_file_that_is_not_accounted_for_is_not_asked_about(self, world: World) -> None:
        run = held(world, b=None)
        assert words(run)["b"] == ("failed", "not_in_manifest")
        assert waiting(run) == []

    def test_what_the_service_refused_makes_the_study_incomplete(self, world: World) -> None:
        run = held(world, b=failure(""))
        assert codes(run) == [("service_warning", "study_incomplete")]
        answered(run)
        audit(run, None)
        assert words(run) == {"a": ("released", "service_warning"), "b": ("failed", "rejected")}

    def test_a_held_file_of_another_run_needs_an_answer_of_its_own(self, world: World) -> None:
        held(world)
        later = staged(world, dicom("c", SOPInstanceUID="1.1.1.3"), run_id="two")
        imported(world, later)
        audit(later, None)
        assert words(later) == {"c": ("held", "study_held")}
        assert [one.run_key for one in waiting(later)] != [later.key]


class TestAnAnswer:
    def test_an_approval_counts_for_what_the_person_saw(self, world: World) -> None:
        run = held(world)
        assert answered(run) == 1
        assert audit(run, None).report["studies"] == {"released": 1, "held": 0, "stopped": 0}
        assert words(run) == RELEASED
        override = contracts(run)["1.1"].override
        assert override is not None
        assert (override.overridden_by, override.reasons) == ("ada", ("service_warning",))
        assert (waiting(run), run.ledger.answered_runs(run.pipeline.name)) == ([], [])

    def test_what_is_kept_held_stays_held_and_is_not_asked_again(self, world: World) -> None:
        run = held(world)
        answered(run, NO)
        audit(run, None)
        assert words(run) == HELD
        assert waiting(run) == []

    def test_an_approval_does_not_count_for_what_is_found_later(self, world: World) -> None:
        run = held(world)
        answered(run)
        refused_elsewhere(world, "c", 3)
        audit(run, None)
        assert words(run) == HELD
        assert contracts(run) == {}
        assert codes(run) == [("service_warning", "study_incomplete")]
        answered(run, ReviewAnswer(True, "grace", "seen both"))
        audit(run, None)
        assert words(run) == RELEASED
        override = contracts(run)["1.1"].override
        assert override is not None
        assert override.overridden_by == "grace"

    def test_an_approval_does_not_outlive_a_later_answer_that_the_study_stays(self, world: World) -> None:
        """The file that was missing comes in after all, so that the findings are again those that were approved."""
        run = held(world)
        answered(run)
        refused_elsewhere(world, "c", 3)
        audit(run, None)
        answered(run, NO)
        audit(run, None)
        other = staged(world, dicom("c2", SOPInstanceUID="1.1.1.3"), run_id="again")
        imported(world, other)
        audit(other, None)
        audit(run, None)
        assert (words(run), contracts(run)) == (HELD, {})
        assert codes(run) == [("service_warning",)]

    def test_an_approval_about_a_file_of_another_run_does_not_count_for_a_second_one(self, world: World) -> None:
        """Both make the study incomplete, and the person saw one."""
        run = held(world)
        refused_elsewhere(world, "c", 3)
        audit(run, None)
        answered(run)
        refused_elsewhere(world, "d", 4)
        audit(run, None)
        assert words(run) == HELD

    def test_a_release_that_a_person_approved_stands_whatever_another_run_finds_later(self, world: World) -> None:
        run = held(world)
        answered(run)
        audit(run, None)
        refused_elsewhere(world, "c", 3)
        audit(run, None)
        assert words(run) == RELEASED
        assert waiting(run) == []

    def test_one_about_findings_that_have_changed_is_refused(self, world: World) -> None:
        run = held(world)
        seen = waiting(run)
        refused_elsewhere(world, "c", 3)
        audit(run, None)
        with pytest.raises(ReviewError, match="have changed since it was asked"):
            answer(run.s3, run.pipeline, run.ledger, seen, YES)
        assert run.ledger.overrides_of(run.pipeline.datastore_id, run.key).is_empty()

    def test_the_second_person_is_told_who_answered_and_when(self, world: World) -> None:
        run = held(world)
        seen = waiting(run)
        answered(run)
        with pytest.raises(ReviewError, match=r"was answered by ada at \d{4}-.*Your answer is not recorded"):
            answer(run.s3, run.pipeline, run.ledger, seen, NO)
        now = [run.ledger.review(one.number) for one in seen]
        with pytest.raises(ReviewError, match="was answered by ada at"):
            answer(run.s3, run.pipeline, run.ledger, [one for one in now if one], NO)

    @pytest.mark.parametrize("given", [YES, NO])
    @pytest.mark.parametrize(
        ("person", "why"), [("", "seen"), ("ada", ""), ("ada", " "), (" ", "seen"), ("ada", "\0a")]
    )
    def test_it_needs_a_person_and_a_reason_that_can_be_stored(
        self, world: World, given: ReviewAnswer, person: str, why: str
    ) -> None:
        run = held(world)
        with pytest.raises(ReviewError, match=r"needs a person and a reason|cannot be stored"):
            answered(run, replace(given, decided_by=person, why=why))

    def test_only_assignees_and_deputies_may_answer(self, world: World) -> None:
        run = held(world, TEAM | {"assignees": ["grace", "group:radiology"], "deputies": ["kim"]})
        with pytest.raises(ReviewError, match="Only these may answer reviews of nightly: grace, group:radiology"):
            answered(run, names={"group:archive"})
        assert answered(run, names={"group:radiology"}) == 1

    def test_nobody_may_answer_by_a_user_name_that_is_written_like_a_group(self, world: World) -> None:
        run = held(world, TEAM | {"assignees": ["group:radiology"]})
        with pytest.raises(ReviewError, match="Only these may answer"):
            answered(run, replace(YES, decided_by="group:radiology"))

    def test_who_has_left_the_pipeline_s_file_answers_no_more_and_who_came_does(self, world: World) -> None:
        run = held(world, TEAM | {"assignees": ["ada"]})
        later = replace(run, pipeline=run.pipeline.model_copy(update={"review": review_of(assignees=["grace"])}))
        with pytest.raises(ReviewError, match="Only these may answer reviews of nightly: grace"):
            answered(later)
        assert answered(later, names={"grace"}) == 1


def review_of(**changes: Any) -> Review:
    """Return the section ``review`` of a pipeline file."""
    return Review.model_validate(TEAM | changes)


def asked_many(world: World, number: int) -> Run:
    """Return a run whose pipeline asks about so many studies with the same reason."""
    run = held(world)
    rows = [(f"9.{each}", f"{each:016x}", "service_warning", ["service_warning"], f"{each}") for each in range(number)]
    asked = select_asked(
        pl.DataFrame(rows, schema=HOLDS, orient="row"), pl.DataFrame(schema={"subject": pl.String, "site": pl.String})
    )
    review.ask(run, run.ledger, asked, decided=asked["subject"])
    return run


class TestAnAnswerToSeveral:
    def test_it_needs_some_of_them_opened_by_the_same_person(self, world: World) -> None:
        run = asked_many(world, 4)
        numbers = [one.number for one in waiting(run)]
        for number in numbers[: LEAST_OPENED - 1]:
            run.ledger.open_review(number, "ada")
        run.ledger.open_review(numbers[3], "grace")
        with pytest.raises(ReviewError, match=f"You have opened 2 reviews .* Open at least {LEAST_OPENED}"):
            answered(run)
        run.ledger.open_review(numbers[2], "ada")
        assert answered(run) == len(numbers)

    def test_it_is_about_one_reason_and_site(self, world: World) -> None:
        run = asked_many(world, 2)
        mixed = [waiting(run)[0], replace(waiting(run)[1], site="elsewhere")]
        with pytest.raises(ReviewError, match="same pipeline, reason and site"):
            answer(run.s3, run.pipeline, run.ledger, mixed, YES)

    def test_it_is_about_fifty_at_most(self, world: World) -> None:
        run = asked_many(world, MOST_AT_ONCE)
        with pytest.raises(ReviewError, match="1 to 50 reviews, not about 51"):
            answered(run)


class TestGroups:
    def holds(self, number: int = 4) -> pl.DataFrame:
        rows = [
            (f"Patient/{each}", f"k{each}", "stored_with_issues", ["stored_with_issues"], f"f{each}", "ab"[each % 2])
            for each in range(number)
        ]
        return pl.DataFrame(rows, schema=SITED_HOLDS, orient="row")

    def test_holds_that_are_alike_are_one_question_per_site_however_they_are_cut(self, world: World) -> None:
        run, holds = held(world), self.holds()
        whole = write_groups(run, [holds])
        asked = {site: json.loads(question) for site, question in whole.select("site", "question").iter_rows()}
        assert {site: one["subjects"] for site, one in asked.items()} == {"a": 2, "b": 2}
        assert {site: one["samples"] for site, one in asked.items()} == {
            "a": {"k0": "Patient/0", "k2": "Patient/2"},
            "b": {"k1": "Patient/1", "k3": "Patient/3"},
        }
        again = write_groups(run, [holds[3:], holds[:3]])
        assert again.sort("site").equals(whole.sort("site"))
        other = write_groups(run, [self.holds(5)])
        assert set(other["seen"]) - set(whole["seen"]) == {other.filter(pl.col("site") == "a")["seen"][0]}


class Group:
    """Somebody who answers a review about many holds."""

    def asked(self, world: World, number: int) -> ReviewRecord:
        """Return a review about so many holds of one site."""
        self.run = held(world)
        holds = TestGroups().holds(number * 2).filter(pl.col("site") == "a")
        question = write_groups(self.run, [holds])
        review.ask(self.run, self.run.ledger, question, decided=question["subject"])
        return next(one for one in waiting(self.run) if one.is_group)

    def approve_or_keep(self, asked: ReviewRecord, given: ReviewAnswer) -> None:
        """Open what it takes, and answer."""
        for key in asked.samples:
            self.run.ledger.open_sample(asked.number, key, given.decided_by)
        self.answer(asked, given)

    def approvals(self) -> set[tuple[str, str, str]]:
        return set(find_approvals(self.run).select("subject", "findings", "overridden_by").iter_rows())

    def answer(self, asked: ReviewRecord, given: ReviewAnswer = YES) -> int:
        return answer(self.run.s3, self.run.pipeline, self.run.ledger, [asked], given)


class TestAnAnswerToAGroup(Group):
    @pytest.mark.parametrize("given", [YES, replace(NO, decided_by="ada")])
    def test_it_needs_some_of_its_samples_opened_by_the_same_person(self, world: World, given: ReviewAnswer) -> None:
        asked = self.asked(world, 20)
        assert len(asked.samples) == MOST_SAMPLES
        first, second, third, *_ = asked.samples
        self.run.ledger.open_review(asked.number, "ada")
        for key in (first, first, second, "k1"):
            self.run.ledger.open_sample(asked.number, key, "ada")
        self.run.ledger.open_sample(asked.number, third, "grace")
        with pytest.raises(ReviewError, match="about 20 patients, files or resources, and you have opened 2"):
            self.answer(asked, given)
        self.run.ledger.open_sample(asked.number, third, "ada")
        assert self.answer(asked, given) == 1

    def test_of_few_holds_all_are_opened(self, world: World) -> None:
        asked = self.asked(world, 2)
        self.run.ledger.open_sample(asked.number, next(iter(asked.samples)), "ada")
        with pytest.raises(ReviewError, match="Open at least 2"):
            self.answer(asked)

    def test_an_approval_overrides_each_of_the_holds(self, world: World) -> None:
        self.approve_or_keep(self.asked(world, 2), YES)
        assert self.approvals() == {("Patient/0", "f0", "ada"), ("Patient/2", "f2", "ada")}

    def test_what_a_person_later_keeps_is_approved_no_more(self, world: World) -> None:
        run, holds = held(world), TestGroups().holds(8).filter(pl.col("site") == "a")
        self.run = run

        def ask(holds: pl.DataFrame) -> list[ReviewRecord]:
            question = write_groups(run, [holds])
            review.ask(run, run.ledger, question, decided=question["subject"])
            return [one for one in waiting(run) if one.is_group]

        self.approve_or_keep(ask(holds)[0], YES)
        self.approve_or_keep(ask(holds[1:])[0], NO)
        assert self.approvals() == {("Patient/0", "f0", "ada")}
        assert [one.subjects for one in ask(holds)] == [4]


class TestAnApprovalOfMoreThanOnePersonMayRelease(Group):
    def opened(self, world: World, number: int) -> ReviewRecord:
        """Return a review about so many holds, of which three people have opened the samples."""
        asked = self.asked(world, number)
        for person in ("ada", "Ada", "grace"):
            for key in asked.samples:
                self.run.ledger.open_sample(asked.number, key, person)
        return asked

    def now(self, asked: ReviewRecord) -> ReviewRecord:
        found = self.run.ledger.review(asked.number)
        assert found is not None
        return found

    def test_the_second_person_releases_it(self, world: World) -> None:
        asked = self.opened(world, MOST_BY_ONE + 1)
        self.answer(asked)
        assert (self.now(asked).waits, self.now(asked).first_by) == (True, "ada")
        assert self.run.ledger.overrides_of(self.run.pipeline.datastore_id, self.run.key).is_empty()
        self.answer(asked, replace(YES, decided_by="grace"))
        found = self.run.ledger.overrides_of(self.run.pipeline.datastore_id, self.run.key)
        assert found["overridden_by"].to_list() == ["grace"]

    @pytest.mark.parametrize(("name", "names"), [("ada", ()), ("Ada", ()), ("grace", ("ada",))])
    def test_it_is_not_the_first_one_by_whatever_name(self, world: World, name: str, names: tuple[str, ...]) -> None:
        asked = self.opened(world, MOST_BY_ONE + 1)
        self.answer(asked)
        with pytest.raises(ReviewError, match="about 51 patients, files or resources, so another person has to"):
            answer(
                *(self.run.s3, self.run.pipeline, self.run.ledger),
                [asked],
                replace(YES, decided_by=name),
                names=names,
            )
        assert self.now(asked).waits

    def test_the_second_person_opens_samples_too(self, world: World) -> None:
        asked = self.opened(world, MOST_BY_ONE + 1)
        self.answer(asked)
        with pytest.raises(ReviewError, match="you have opened 0 of its samples"):
            self.answer(asked, replace(YES, decided_by="kim"))

    @pytest.mark.parametrize("person", ["ada", "grace"])
    def test_one_person_is_enough_to_keep_it_held(self, world: World, person: str) -> None:
        asked = self.opened(world, MOST_BY_ONE + 1)
        self.answer(asked)
        self.answer(asked, replace(NO, decided_by=person))
        assert (self.now(asked).waits, self.now(asked).answer) == (False, "keep")

    def test_one_person_is_enough_for_fifty(self, world: World) -> None:
        asked = self.opened(world, MOST_BY_ONE)
        self.answer(asked)
        assert (self.now(asked).waits, self.now(asked).decided_by) == (False, "ada")

    def test_several_at_once_are_together_about_no_more(self, world: World) -> None:
        asked = self.opened(world, MOST_BY_ONE)
        self.run.ledger.open_review(asked.number, "ada")
        both = [asked, replace(asked, number=asked.number + 1, question={"subjects": MOST_BY_ONE})]
        with pytest.raises(ReviewError, match="are about 100 patients, files or resources, and one answer releases"):
            answer(self.run.s3, self.run.pipeline, self.run.ledger, both, YES)


class TestReopening:
    def test_a_run_is_opened_by_its_id_as_its_own_tasks_had_it(self, world: World) -> None:
        run = held(world)
        bare = replace(run, window=None, prefix=run.prefix.join("elsewhere/"))
        assert reopen(bare) == run

    def test_a_run_whose_workspace_was_deleted_is_refused(self, world: World) -> None:
        run = held(world)
        gone = replace(run, pipeline=run.pipeline.model_copy(update={"workspace": "s3://work/elsewhere/"}))
        with pytest.raises(ReviewError, match="workspace was deleted"):
            reopen(gone)
