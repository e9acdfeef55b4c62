"""The brake: which numbers stop a run, what it says of them, and how long an answer stands."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from sqlalchemy import update

from airlock.ledger.tables import runs
from airlock.records import ARRIVALS, DISPOSITIONS, VERDICTS
from airlock.run import RedriveRequest
from airlock.stages.auditing import Audited, leave_open
from airlock.stages.brake import Finding, check_held, check_verdicts, count_held, describe, read_held, record_answer
from airlock.stages.review import Review
from tests.unit.airlock.world import dicom, frame, pipeline

if TYPE_CHECKING:
    from airlock.run import Run
    from tests.unit.airlock.world import World

SMALL = {"least_arrivals": 10}
BY_SITE = {"source": {"uri": "s3://archive/in/", "site_pattern": "^in/(?P<site>[^/]+)/"}}
WHEN = datetime(2026, 11, 24, 3, tzinfo=UTC).isoformat()
YES = Review(True, "ada", "an old scanner", WHEN)
NO = Review(False, "ada", "a lost key", WHEN)


def made(*counted: tuple[int, str, str | None], site: str = "a") -> list[dict[str, Any]]:
    """Return so many files with each verdict and reason."""
    files = [one for number, verdict, reason in counted for one in [(verdict, reason)] * number]
    return [dicom(f"{site}/{number}", verdict=verdict, reason=reason) for number, (verdict, reason) in enumerate(files)]


def begun(world: World, *files: dict[str, Any], run_id: str = "one", brake: Any = SMALL, **changes: Any) -> Run:
    """Return a run whose validate has given these verdicts."""
    run = world.run(run_id, pipeline(**({"audit": {"brake": brake}} | changes)))
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    run.workspace.write("verdicts", VERDICTS, frame(list(files), VERDICTS))
    return run


def check(run: Run, *apart: pl.Series) -> Finding | None:
    counts = run.workspace.read("verdicts", VERDICTS)["verdict"].value_counts()
    return check_verdicts(run, VERDICTS, dict(counts.iter_rows()), *apart)


def stopped(world: World, *counted: tuple[int, str, str | None], **changes: Any) -> Finding | None:
    return check(begun(world, *made(*counted), **changes))


DENIED = (2, "quarantine", "access_denied")


class TestBeforeImport:
    def test_a_run_with_two_percent_unread_goes_on_and_one_with_more_stops(self, world: World) -> None:
        brake = SMALL | {"least_arrivals": 50}
        assert stopped(world, (98, "accept", None), DENIED, brake=brake) is None
        found = stopped(world, (97, "accept", None), DENIED, brake=brake)
        assert found is not None
        assert (found.gate, found.measure, found.affected, found.total) == ("import", "unread", 2, 99)

    def test_one_reason_of_validate_stops_it_too(self, world: World) -> None:
        conflict = "study_date_conflict"
        assert stopped(world, (18, "accept", None), (2, "quarantine", conflict)) is None
        found = stopped(world, (17, "accept", None), (2, "quarantine", conflict), (1, "quarantine", "invalid_uid"))
        assert found is None
        found = stopped(world, (17, "accept", None), (3, "quarantine", conflict))
        assert found is not None
        assert (found.measure, found.reason, found.affected) == ("one_reason", conflict, 3)

    def test_so_do_resources_that_would_wait_for_one_type(self, world: World) -> None:
        def waiting(number: int, detail: str, reason: str = "waiting_for_resource") -> list[dict[str, Any]]:
            return [row | {"detail": detail} for row in made((number, "park", reason), site=detail)]

        good = made((95, "accept", None))
        assert check(begun(world, *good, *waiting(3, "Patient"), *waiting(2, "Encounter"), run_id="one")) is None
        assert check(begun(world, *good, *waiting(6, "Patient", "waiting_for_turn"), run_id="two")) is None
        found = check(begun(world, *good, *waiting(4, "Patient"), *waiting(2, "Encounter, Patient"), run_id="three"))
        assert found is not None
        assert (found.gate, found.measure, found.reason, found.affected) == ("import", "waiting", "Patient", 6)
        said = "6 of 101 (5.94 %) would wait for a resource of type Patient; audit.brake.waiting allows 5 %."
        assert found.describe() == f"{said} By reason code: none."

    @pytest.mark.parametrize(("verdict", "reason"), [("accept", None), ("park", "waiting_for_resource")])
    def test_what_is_not_of_the_delivery_is_not_measured(self, world: World, verdict: str, reason: str | None) -> None:
        waits = [row | {"detail": "Patient"} for row in made((6, "park", "waiting_for_resource"), site="waits")]
        others = [row | {"detail": "Patient"} for row in made((200, verdict, reason), site="taken")]
        run = begun(world, *made((94, "accept", None)), *waits, *others)
        found = check(run, pl.Series([row["arrival_id"] for row in others]))
        assert found is not None
        assert (found.reason, found.affected, found.total) == ("Patient", 6, 100)
        assert check(run, pl.Series([row["arrival_id"] for row in (*waits, *others)])) is None

    def test_there_is_one_finding_and_it_is_the_gravest(self, world: World) -> None:
        found = stopped(world, (2, "accept", None), (8, "quarantine", "access_denied"))
        assert found is not None
        assert (found.measure, found.reasons) == ("unread", {"access_denied": 8})

    @pytest.mark.parametrize("verdict", ["ignore", "duplicate"])
    def test_sidecars_and_duplicates_stop_nothing(self, world: World, verdict: str) -> None:
        assert stopped(world, (1, "accept", None), (50, verdict, "sidecar")) is None

    def test_a_small_run_never_stops(self, world: World) -> None:
        assert stopped(world, (9, "quarantine", "access_denied")) is None
        assert stopped(world, (10, "quarantine", "access_denied"), brake={}) is None
        assert stopped(world) is None

    def test_a_pipeline_may_have_no_brake(self, world: World) -> None:
        assert stopped(world, (20, "quarantine", "access_denied"), brake="off") is None

    def test_neither_a_plan_nor_a_redrive_stops(self, world: World) -> None:
        run = begun(world, *made((20, "quarantine", "access_denied")))
        assert check(run) is not None
        assert check(replace(run, redrive=RedriveRequest("ada", "why"))) is None
        plan = run.as_plan()
        plan.workspace.write("verdicts", VERDICTS, run.workspace.read("verdicts", VERDICTS))
        assert check(plan) is None


class TestAnswers:
    def bad(self, world: World, number: int) -> Run:
        return begun(world, *made((100 - number, "accept", None), (number, "quarantine", "access_denied")))

    def test_go_on_stands_for_this_share_and_lower_ones(self, world: World) -> None:
        found = check(self.bad(world, 20))
        assert found is not None
        record_answer(self.bad(world, 20), found, YES, timed_out=False)
        assert check(self.bad(world, 20)) is None
        assert check(self.bad(world, 10)) is None
        assert check(self.bad(world, 21)) is not None

    def test_the_last_answer_counts(self, world: World) -> None:
        run = self.bad(world, 20)
        found = check(run)
        assert found is not None
        for answer, stops in ((YES, False), (NO, True), (YES, False)):
            record_answer(run, found, answer, timed_out=False)
            assert (check(run) is not None) is stops

    def test_an_answer_is_for_its_own_run_and_reason(self, world: World) -> None:
        found = check(self.bad(world, 20))
        assert found is not None
        record_answer(self.bad(world, 20), found, YES, timed_out=False)
        other = begun(world, *made((80, "accept", None), (20, "quarantine", "access_denied")), run_id="two")
        assert check(other) is not None
        conflict = made((85, "accept", None), (15, "quarantine", "study_id_conflict"))
        assert check(begun(world, *conflict)) is not None

    def test_what_a_person_let_go_on_does_not_hide_what_comes_up_later(self, world: World) -> None:
        found = check(self.bad(world, 30))
        assert found is not None
        record_answer(self.bad(world, 30), found, YES, timed_out=False)
        bad = (30, "quarantine", "access_denied"), (12, "quarantine", "study_id_conflict")
        again = check(begun(world, *made((58, "accept", None), *bad)))
        assert again is not None
        assert (again.measure, again.reason, again.affected, again.others) == (
            "one_reason",
            "study_id_conflict",
            12,
            (),
        )
        run = begun(world, *made((58, "accept", None), *bad))
        assert would_hold(run, dispositions((100, "released", None))) == again
        record_answer(run, again, YES, timed_out=False)
        assert check(run) is None
        assert would_hold(run, dispositions((100, "released", None))) is None

    def test_an_answer_is_about_everything_that_its_question_names(self, world: World) -> None:
        bad = (30, "quarantine", "access_denied"), (20, "quarantine", "study_id_conflict")
        run = begun(world, *made((50, "accept", None), *bad))
        found = check(run)
        assert found is not None
        assert [(one.measure, one.reason) for one in found.list_all()] == [
            ("unread", None),
            ("one_reason", "access_denied"),
            ("one_reason", "study_id_conflict"),
        ]
        assert "20 of 100 (20 %) are quarantined as study_id_conflict; audit.brake.one_reason" in found.describe()
        record_answer(run, found, YES, timed_out=False)
        assert check(run) is None
        answer = run.ledger.last_brake_answer(run.key, "import", "one_reason:study_id_conflict")
        assert answer is not None
        assert (answer.share, answer.details["affected"]) == (0.2, 20)

    def test_another_question_has_the_next_number_and_the_same_keeps_its_own(self, world: World) -> None:
        first, same, fewer = (check(self.bad(world, number)) for number in (20, 20, 15))
        assert [one and one.number for one in (first, same, fewer)] == [1, 1, 1]
        more = check(self.bad(world, 16))
        assert more is not None
        assert more.number == 2
        record_answer(self.bad(world, 16), more, YES, timed_out=False)
        assert check(self.bad(world, 10)) is None  # no question is open
        again = check(self.bad(world, 30))
        assert again is not None
        assert again.number == 3

    def test_who_answered_and_why_is_in_the_ledger(self, world: World) -> None:
        run = self.bad(world, 20)
        found = check(run)
        assert found is not None
        record_answer(run, found, YES, timed_out=False)
        answer = run.ledger.last_brake_answer(run.key, "import", "unread")
        assert answer is not None
        assert (answer.go_on, answer.decided_by, answer.why, answer.share) == (True, "ada", "an old scanner", 0.2)
        assert answer.details["affected"] == 20
        record_answer(run, found, Review(False, "", "", ""), timed_out=True)
        answer = run.ledger.last_brake_answer(run.key, "import", "unread")
        assert answer is not None
        assert (answer.go_on, answer.decided_by) == (False, "nobody, in time")


def dispositions(*counted: tuple[int, str, str | None], site: str = "a") -> pl.DataFrame:
    words = [one for number, word, reason in counted for one in [(word, reason)] * number]
    rows = [
        {"key": f"in/{site}/{number}", "disposition": word, "reason": reason}
        for number, (word, reason) in enumerate(words)
    ]
    return frame(rows, DISPOSITIONS)


def would_hold(run: Run, *frames: pl.DataFrame) -> Finding | None:
    held = [rows.with_columns(reason=pl.when(disposition="held").then("reason")) for rows in frames]
    return check_held(run, sum(rows.height for rows in frames), lambda: count_held(run, held))


class TestBeforeRoute:
    def test_a_run_that_would_hold_more_than_a_fifth_stops(self, world: World) -> None:
        run = begun(world)
        assert would_hold(run, dispositions((8, "released", None), (2, "held", "study_incomplete"))) is None
        found = would_hold(run, dispositions((7, "released", None), (3, "held", "study_incomplete")))
        assert found is not None
        assert (found.gate, found.measure, found.affected, found.total) == ("route", "held", 3, 10)
        assert found.reasons == {"study_incomplete": 3}

    @pytest.mark.parametrize("reason", ["not_published", "awaiting_review"])
    def test_what_waits_for_a_later_task_is_not_held(self, world: World, reason: str) -> None:
        run = begun(world)
        assert would_hold(run, dispositions((20, "held", reason))) is None
        found = would_hold(run, dispositions((10, "held", reason), (10, "held", "study_held")))
        assert found is not None
        assert found.affected == 10

    def test_counts_without_their_rows_are_enough(self, world: World) -> None:
        counts = {"held": 7, "released": 5}, {"file_held": 5, "awaiting_review": 2}
        found = check_held(begun(world), 12, lambda: read_held(*counts))
        assert found is not None
        assert (found.affected, found.total, found.reasons) == (5, 12, {"file_held": 5})

    def test_a_run_that_nobody_let_go_on_before_import_settles_nothing(self, world: World) -> None:
        run = begun(world, *made((5, "accept", None), (5, "quarantine", "access_denied")))
        found = check(run)
        assert found is not None
        none_held = dispositions((10, "released", None))
        assert would_hold(run, none_held) == found
        record_answer(run, found, NO, timed_out=False)
        assert would_hold(run, none_held) == found
        record_answer(run, found, YES, timed_out=False)
        assert would_hold(run, none_held) is None

    def test_a_validate_that_is_cleared_and_finds_nothing_more_takes_its_question_back(self, world: World) -> None:
        assert check(begun(world, *made((5, "accept", None), (5, "quarantine", "access_denied")))) is not None
        run = begun(world, *made((10, "accept", None)))
        assert check(run) is None
        assert would_hold(run, dispositions((10, "released", None))) is None

    def test_the_second_chain_of_a_run_knows_the_question_of_the_first(self, world: World) -> None:
        run = begun(world, *made((5, "accept", None), (5, "quarantine", "access_denied")))
        found = check(run)
        assert found is not None
        assert would_hold(run.within("fhir"), dispositions((10, "released", None))) == found
        record_answer(run, found, YES, timed_out=False)
        assert would_hold(run.within("fhir"), dispositions((10, "released", None))) is None

    def test_the_report_of_a_stopped_run_says_so_here_and_in_the_ledger(self, world: World) -> None:
        run = begun(world)
        found = would_hold(run, dispositions((5, "released", None), (5, "held", "study_held")))
        assert found is not None
        audited = leave_open(run, Audited({"balanced": True}, "s3://r", "s3://d", 0), found)
        assert audited.stopped_by == found
        known = run.ledger.run(run.key)
        assert known is not None
        assert (known.state, known.report) == ("open", audited.report)
        assert audited.report["brake"].startswith("5 of 10 (50 %) would be held")


class TestMedians:
    """A site's share is also compared with the median of its last nights."""

    def nights(self, world: World, number: int, *counted: tuple[int, str, str | None], site: str = "a") -> None:
        for night in range(number):
            run = world.run(f"night-{night}", pipeline())
            rows = [
                row | {"version_id": str(night)}
                for row in made(*((n, "accept", None) for n, _, _ in counted), site="a")
            ]
            arrivals = frame(rows, ARRIVALS).with_columns(
                arrival_id=pl.format("{}-{}", "arrival_id", pl.lit(night)), site=pl.lit(site)
            )
            run.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
            run.ledger.claim(run.pipeline.name, run.key, arrivals)
            words = [one for n, word, reason in counted for one in [(word, reason)] * n]
            settled = [
                {"arrival_id": key, "disposition": word, "reason": reason, "size": 1}
                for key, (word, reason) in zip(arrivals["arrival_id"], words, strict=True)
            ]
            run.ledger.settle(run.pipeline.name, run.key, frame(settled, DISPOSITIONS))
            with run.ledger._writing("test") as connection:
                earlier = datetime.now(UTC) - timedelta(days=night + 1)
                connection.execute(update(runs).where(runs.c.run_key == run.key).values(started_at=earlier))

    LIMITS = SMALL | {"unread": 0.5, "one_reason": 1.0}
    TONIGHT = (14, "accept", None), (6, "quarantine", "truncated")  # 30 %

    def test_five_times_the_median_stops_the_run_from_half_of_the_limit_on(self, world: World) -> None:
        self.nights(world, 5, (19, "released", None), (1, "quarantined", "truncated"))  # 5 %
        tonight = self.TONIGHT
        found = stopped(world, *tonight, brake=self.LIMITS, **BY_SITE)
        assert found is not None
        assert (found.measure, found.site, found.median, found.total) == ("unread", "a", 0.05, 20)
        assert stopped(world, *tonight, brake=self.LIMITS | {"times_median": 7}, **BY_SITE) is None
        assert stopped(world, *tonight, brake=self.LIMITS | {"times_median": None}, **BY_SITE) is None
        assert stopped(world, *tonight, brake=self.LIMITS | {"unread": 0.7}, **BY_SITE) is None  # less than half of it

    def test_a_few_nights_have_no_median(self, world: World) -> None:
        self.nights(world, 4, (20, "released", None))
        assert stopped(world, *self.TONIGHT, brake=self.LIMITS, **BY_SITE) is None

    def test_a_site_without_a_bad_night_stops_the_run_at_half_of_the_limit(self, world: World) -> None:
        self.nights(world, 5, (20, "released", None))
        assert stopped(world, *self.TONIGHT, brake=self.LIMITS, **BY_SITE) is not None
        better = (16, "accept", None), (4, "quarantine", "truncated")
        assert stopped(world, *better, brake=self.LIMITS, **BY_SITE) is None

    def test_other_sites_have_other_nights(self, world: World) -> None:
        self.nights(world, 5, (20, "released", None))
        assert check(begun(world, *made(*self.TONIGHT, site="b"), brake=self.LIMITS, **BY_SITE)) is None

    def test_without_a_pattern_the_nights_of_the_source_count(self, world: World) -> None:
        self.nights(world, 5, (19, "released", None), (1, "quarantined", "truncated"), site="")
        found = stopped(world, *self.TONIGHT, brake=self.LIMITS)
        assert found is not None
        assert (found.site, found.median) == ("", 0.05)

    def test_held_files_have_a_median_too(self, world: World) -> None:
        self.nights(world, 5, (19, "released", None), (1, "held", "study_held"))
        run = begun(world, brake=SMALL | {"held": 0.5}, **BY_SITE)
        tonight = dispositions((14, "released", None), (6, "held", "study_held"))
        found = would_hold(run, tonight)
        assert found is not None
        assert (found.measure, found.site, found.median) == ("held", "a", 0.05)


class TestWords:
    def test_a_finding_is_told_with_counts_and_codes(self) -> None:
        found = Finding("import", "unread", 40180, 41000, 0.02, reasons={"access_denied": 40180})
        assert found.describe() == (
            "40180 of 41000 (98 %) cannot be read; audit.brake.unread allows 2 %. By reason code: access_denied 40180."
        )
        one = replace(found, measure="one_reason", reason="truncated", limit=0.1)
        assert " are quarantined as truncated; audit.brake.one_reason allows 10 %." in one.describe()

    def test_a_site_is_named_only_where_the_pipeline_says_what_one_is(self, world: World) -> None:
        found = Finding("route", "held", 5, 10, 0.1, site="", median=0.01)
        told = describe(begun(world), found)
        assert told.startswith("5 of 10 (50 %) would be held; in its last 14 nights the median was 1 %.")
        by_site = begun(world, **BY_SITE)
        assert "5 of 10 of site (none)" in describe(by_site, found)
        assert "of site NORTH" in describe(by_site, replace(found, site="NORTH"))
