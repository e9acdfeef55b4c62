"""Which pipeline comes first, which card a fact makes, and what goes into the morning mail."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from airlock.ledger.columns import MessageState
from airlock.ledger.nights import HeldNow, NightTotal, Owed, ParkedNow
from airlock.ledger.queues import OpenMessages, SweepFinding
from airlock.ledger.reviews import ReviewGroup
from airlock.ledger.runs import RunRecord
from airlock.pipelines import REVIEW_SUFFIX
from airlock.stages.pages.tonight import (
    DEAD_LETTERS,
    MOST_CARDS,
    DagState,
    Facts,
    FailedRuns,
    Grade,
    QueueDepth,
    overview,
)

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)
AN_HOUR, A_DAY = timedelta(hours=1), timedelta(days=1)


def run(
    pipeline: str = "nightly", ended: bool = True, started: datetime = NOW - 4 * AN_HOUR, **report: Any
) -> RunRecord:
    content = {"balanced": True, "arrivals": 100, "dispositions": {"released": 99, "quarantined": 1}} | report
    key = f"{pipeline} {started}"
    end = started + AN_HOUR if ended else None
    return RunRecord(key, pipeline, key, None, started, end, "audited", content if ended else None, started)


def nights(rejected: int, number: int = 14) -> list[NightTotal]:
    facts = [("released", None, 1000 - rejected), ("quarantined", "truncated", rejected)]
    return [
        NightTotal("nightly", str(back), NOW - back * A_DAY, None, "", word, reason, count, 0)
        for back in range(1, number + 1)
        for word, reason, count in facts
    ]


def scheduled(arrivals: int) -> list[NightTotal]:
    days = (NOW - back * A_DAY for back in range(1, 15))
    return [NightTotal("nightly", f"scheduled-{day}", day, None, "", "released", None, arrivals, 0) for day in days]


def message(state: MessageState, late: timedelta) -> OpenMessages:
    return OpenMessages("nightly", "s3://out/", state, "http_503", 3, NOW - late, NOW - late)


def facts(*runs: RunRecord, **more: Any) -> Facts:
    return Facts(**({"pipelines": ["nightly"], "runs": runs, "totals": []} | more))


def letters(waiting: int | None, error: str | None = None) -> QueueDepth:
    return QueueDepth("nightly", DEAD_LETTERS, waiting, waiting, error)


def parked(kind: str, since: timedelta) -> ParkedNow:
    return ParkedNow("nightly", kind, 4, NOW - since)


REVIEWS = f"nightly{REVIEW_SUFFIX}"
STAYS = DagState(next_run=NOW - 3 * A_DAY, last_state="running", last_run_id="r", last_since=NOW - 3 * A_DAY)
FAILED = FailedRuns(2, NOW - 2 * A_DAY, "earlier", NOW - 2 * AN_HOUR)
HARDLY_ANY = replace(run(dispositions={"released": 9}), run_id="scheduled__2026-11-30")
REVIEW = ReviewGroup("nightly", "truncated", "", 1, NOW - 30 * AN_HOUR, None)


@pytest.mark.parametrize(
    ("found", "grade", "page", "words"),
    [
        (facts(run(balanced=False)), Grade.BAD, "run", "do not balance"),
        (facts(run(brake="98 % are access_denied")), Grade.BAD, "run", "98 % are access_denied"),
        (facts(dags={"nightly": DagState(last_state="failed", last_run_id="r")}), Grade.BAD, "airflow", "failed"),
        (facts(dags={"nightly": DagState(is_gone=True)}), Grade.BAD, "airflow", "in no file"),
        (facts(dags={"nightly": STAYS}), Grade.BAD, "airflow", "is running for 3 d"),
        (facts(dags={"nightly": replace(STAYS, last_state="queued")}), Grade.BAD, "airflow", "is queued for 3 d"),
        (
            facts(run(), dags={"nightly": DagState(last_state="success", failed=FAILED)}),
            Grade.BAD,
            "airflow",
            "2 earlier",
        ),
        (facts(dags={REVIEWS: DagState(failed=FAILED)}), Grade.BAD, "reviews_dag", "failed 2 h ago"),
        (facts(run(dispositions={"failed": 500})), Grade.ATTENTION, "run", "100 % of the last run was rejected."),
        (facts(HARDLY_ANY, totals=scheduled(100)), Grade.ATTENTION, "run", "had 9 arrivals; usually there are 100"),
        (facts(held=[HeldNow("nightly", 3, NOW - AN_HOUR)]), Grade.ATTENTION, "triage", "held, the oldest for 1 h"),
        (facts(dags={REVIEWS: STAYS}), Grade.BAD, "reviews_dag", "does not end for 3 d"),
        (facts(dags={REVIEWS: DagState(is_gone=True)}), Grade.BAD, "reviews_dag", "in no file"),
        (facts(run(), dags={"nightly": DagState(is_paused=True)}), Grade.BAD, "airflow", "paused"),
        (facts(dags={"nightly": DagState(next_run=NOW - 2 * AN_HOUR)}), Grade.BAD, "airflow", "was due 2 h ago"),
        (facts(run(ended=False, started=NOW - 2 * A_DAY)), Grade.ATTENTION, "airflow", "not been audited for 2 d"),
        (facts(held=[HeldNow("nightly", 3, NOW - 3 * A_DAY)]), Grade.ATTENTION, "triage", "held, the oldest for 3 d"),
        (facts(reviews=[REVIEW]), Grade.ATTENTION, "reviews", "1 review waits"),
        (facts(run(), totals=nights(2)), Grade.ATTENTION, "run", "1 % of the last run was rejected; usually it is 0.2"),
        (
            facts(messages=[message(MessageState.FAILED, AN_HOUR)]),
            Grade.BAD,
            "destinations",
            "3 messages were given up",
        ),
        (
            facts(messages=[message(MessageState.PENDING, 2 * AN_HOUR)]),
            Grade.ATTENTION,
            "destinations",
            "due since 2 h",
        ),
        (facts(findings=[SweepFinding("nightly", "overdue", 5, NOW)]), Grade.ATTENTION, "migration", "5 objects"),
        (facts(owed=[Owed("nightly", 2, NOW - 2 * A_DAY)]), Grade.ATTENTION, "run", "2 objects could not be read"),
        (facts(dags={REVIEWS: DagState(is_paused=True)}), Grade.BAD, "reviews_dag", "nothing that people approve"),
        (facts(dags={REVIEWS: DagState(last_state="failed")}), Grade.BAD, "reviews_dag", "could not be released"),
        (facts(queues=[letters(2)]), Grade.ATTENTION, "destinations", "2 messages are in the dead-letter queue"),
        (facts(queues=[letters(None, "AccessDenied")]), Grade.ATTENTION, "destinations", "cannot be read (AccessD"),
        (facts(parked=[parked("Condition", 2 * A_DAY)]), Grade.ATTENTION, "parked", "the oldest for 2 d: Condition 4."),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_fact_makes_one_card(found: Facts, grade: Grade, page: str, words: str) -> None:
    shown = overview(found, NOW)
    (card,) = shown.cards
    assert (card.grade, card.page, card.pipeline) == (grade, page, "nightly")
    assert words in card.text
    assert shown.lines[0].grade is grade


@pytest.mark.parametrize(
    "found",
    [
        facts(run(), totals=nights(5)),  # 1 % after nights of 0.5 %
        facts(run(), totals=nights(0, number=4)),  # too few nights to say what is usual
        facts(run(ended=False)),
        facts(HARDLY_ANY, totals=scheduled(90)),
        facts(dags={"nightly": DagState(is_paused=True)}, queues=[letters(None, "NonExistentQueue")]),  # never used
        facts(run(dispositions={}), totals=scheduled(100)),  # a redrive or a wave
        facts(run(dispositions={"released": 96, "quarantined": 4})),  # without nights to compare with
        facts(dags={REVIEWS: DagState(failed=replace(FAILED, last=NOW - 2 * A_DAY))}),
        facts(messages=[message(MessageState.PENDING, timedelta(minutes=20))]),
        facts(dags={"nightly": DagState(next_run=NOW + AN_HOUR, last_state="success")}),
        facts(dags={"nightly": replace(STAYS, last_since=NOW - 2 * AN_HOUR)}),
        facts(owed=[Owed("nightly", 2, NOW - AN_HOUR / 2)]),
        facts(dags={REVIEWS: DagState(last_state="success")}),
        facts(dags={REVIEWS: replace(STAYS, last_since=NOW - AN_HOUR)}),
        facts(queues=[letters(0), replace(letters(9), kind="arrivals")]),
        facts(parked=[parked("Condition", AN_HOUR), parked("Observation", 2 * A_DAY)]),
    ],
    ids=range(16),
)
def test_what_is_usual_or_young_makes_no_card(found: Facts) -> None:
    assert overview(found, NOW).cards == ()


def test_the_gravest_for_patients_comes_first() -> None:
    found = facts(
        run(balanced=False),
        messages=[message(MessageState.FAILED, A_DAY)],
        held=[HeldNow("nightly", 3, NOW - 3 * A_DAY)],
        reviews=[REVIEW],
    )
    assert [card.page for card in overview(found, NOW).cards] == ["run", "triage", "reviews", "destinations"]


def test_the_worst_pipeline_comes_first() -> None:
    names = ["a", "b", "c"]
    found = facts(*(run(name, balanced=name != "b") for name in names), pipelines=names)
    assert [line.pipeline for line in overview(found, NOW).lines] == ["b", "a", "c"]


def test_more_than_seven_cards_are_counted() -> None:
    names = [f"p{number}" for number in range(9)]
    shown = overview(facts(*(run(name, balanced=False) for name in names), pipelines=names), NOW)
    assert (len(shown.cards), shown.more) == (MOST_CARDS, 2)


def test_the_mail_names_the_state_of_each_pipeline_and_what_to_do() -> None:
    found = facts(run(dispositions={"released": 90, "quarantined": 10}), totals=nights(3))
    ended = "2026-11-30 03:00 UTC, 100 arrivals, balanced"
    assert overview(found, NOW).as_text().splitlines() == [
        "Airlock, 2026-11-30 06:00 UTC",
        "",
        f"nightly  ATTENTION  ended {ended} | released 90 | rejected 10 (10 %, usually 0.3 %)",
        "",
        "To do:",
        "- nightly: 10 % of the last run was rejected; usually it is 0.3 %.",
    ]


def test_parked_resources_are_a_number_of_their_pipeline() -> None:
    found = facts(run(), parked=[parked("Condition", AN_HOUR), parked("Observation", AN_HOUR)])
    assert overview(found, NOW).lines[0].parked == "parked 8 resources"
    assert "| parked 8 resources" in overview(found, NOW).as_text()


def test_the_studies_are_those_of_the_last_run_with_a_report_in_the_order_of_the_lines() -> None:
    names = ["a", "b", "clinical", "new"]
    reported = [run("a", declared={"equal": 1}), run("b", balanced=False, declared={"fewer": 2}), run("clinical")]
    found = facts(run("a", ended=False, started=NOW - AN_HOUR), *reported, pipelines=names)
    known = overview(found, NOW).known
    assert [(one.run.pipeline, one.declared) for one in known] == [("b", "fewer 2"), ("a", "equal 1")]


def test_a_pipeline_that_has_not_run_says_so() -> None:
    assert overview(facts(), NOW).lines[0].headline == "has not run yet"
