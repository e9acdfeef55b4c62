"""The DAG of reviews: whom it reminds of what, which run it takes next, and that it starts itself for further ones."""

from __future__ import annotations

from datetime import timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from airflow.sdk.exceptions import (
    AirflowRuntimeError,
    AirflowSkipException,
    DagRunTriggerException,
    DownstreamTasksSkipped,
)
from sqlalchemy import update

import imaging
from airlock.ledger import Ledger, ReviewAnswer
from airlock.ledger.decision_tables import reviews
from airlock.ledger.reviews import ASKED, CHOSEN
from airlock_tasks.review import NEXT, describe_waiting
from airlock_tasks.run import REMIND
from tests.chain import DATASTORE, HEALTHLAKE, ccda_pipeline, pipeline
from tests.servers.ledger import new_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airflow.sdk import DAG

TEAM = {"by": "the archive team"}
AN_HOUR = timedelta(hours=1)
CANARY = "1.2.826.0.1.CANARY"


@pytest.fixture
def ledger(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Ledger]:
    url = new_ledger(tmp_path / "ledger.db")
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", url)
    with Ledger.open(url) as opened:
        yield opened


@pytest.fixture
def news(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    sent: list[str] = []

    def send(_: Any, event: str, __: str, what: str, dag_id: str) -> bool:
        sent.append(f"{event} {dag_id}: {what}")
        return True

    monkeypatch.setattr("airlock_tasks.review.send_notifications", send)
    return sent


def dag(**changes: Any) -> DAG:
    return imaging.build_review(pipeline(audit={"on_hold": "review"}, review=TEAM, **changes))


def ask(ledger: Ledger, *runs: str, reason: str = "truncated") -> None:
    for run in runs:
        ledger.open_run(run, "nightly", f"manual__{run}", None)
        row = (f"{CANARY}.{run}", run, "", reason, "study_incomplete", "x", "{}")
        asked, none = pl.DataFrame([row], schema=ASKED, orient="row"), pl.Series([], dtype=pl.String)
        people = {"assignee": None, "deputy": None}
        ledger.ask_reviews("nightly", DATASTORE, run, asked, decided=None, released=none, **people)


def approve(ledger: Ledger, *runs: str) -> None:
    chosen = pl.DataFrame([(run, f"{CANARY}.{run}", "x") for run in runs], schema=CHOSEN, orient="row")
    ledger.answer_reviews("nightly", DATASTORE, chosen, ReviewAnswer(True, "ada", "seen"))


def older(ledger: Ledger, hours: float) -> None:
    """Let all reviews have been asked earlier."""
    with ledger._writing("reviews") as connection:
        moved = reviews.c.asked_at
        for number, at in connection.execute(reviews.select().with_only_columns(reviews.c.id, moved)).all():
            values = {"asked_at": at - hours * AN_HOUR}
            connection.execute(update(reviews).where(reviews.c.id == number).values(values))


def context(chosen: Any = None, state: Any = "success", run_id: str = "scheduled__1", without: Any = ()) -> Any:
    def find_state(dag_id: str, run: str) -> str:
        found = state.get(run, "success") if isinstance(state, dict) else state
        if isinstance(found, Exception):
            raise found
        return str(found)

    instance = SimpleNamespace(dag_id="nightly__review", get_dagrun_state=find_state, xcom_pull=lambda **_: chosen)
    return {"ti": instance, "params": {"without": list(without)}, "run_id": run_id}


def lost(status: int) -> AirflowRuntimeError:
    detail = SimpleNamespace(value="API_SERVER_ERROR")
    return AirflowRuntimeError(SimpleNamespace(error=detail, detail={"status_code": status}))  # type: ignore[arg-type]


class TestRemind:
    def test_without_answers_it_skips_everything_behind_it(self, ledger: Ledger) -> None:
        ask(ledger, "a")
        built = dag(healthlake=HEALTHLAKE)
        with pytest.raises(DownstreamTasksSkipped) as skipped:
            built.get_task(REMIND).execute(context())
        assert {*skipped.value.tasks, REMIND} == set(built.task_ids)

    def test_it_takes_the_oldest_run_that_has_ended(self, ledger: Ledger) -> None:
        ask(ledger, "a", "b", "c")
        approve(ledger, "a", "b", "c")
        remind: Any = dag().get_task(REMIND)
        assert remind.execute(context()) == {"run_key": "a", "run_id": "manual__a"}
        assert remind.execute(context(state={"manual__a": "running"}))["run_key"] == "b"
        assert remind.execute(context(state={"manual__a": "queued"}, without=["b"]))["run_key"] == "c"

    def test_a_run_that_airflow_has_forgotten_has_ended(self, ledger: Ledger) -> None:
        ask(ledger, "a")
        approve(ledger, "a")
        remind: Any = dag().get_task(REMIND)
        assert remind.execute(context(state=lost(404)))["run_key"] == "a"
        with pytest.raises(AirflowRuntimeError):
            remind.execute(context(state=lost(500)))

    def test_people_are_reminded_once_and_deputies_later(self, ledger: Ledger, news: list[str]) -> None:
        ask(ledger, "a", "b")
        team = TEAM | {"deputies": ["kim"]}
        remind: Any = imaging.build_review(pipeline(audit={"on_hold": "review"}, review=team)).get_task(REMIND)
        for hours in (23, 2, 0, 48, 100):
            older(ledger, hours)
            with pytest.raises(DownstreamTasksSkipped):
                remind.execute(context())
        head = "review nightly__review: 2 reviews have waited for an answer for more than"
        assert [text.partition(" Answer in")[0] for text in news] == [
            f"{head} 24 hours: truncated 2. For: the archive team.",
            f"{head} 72 hours: truncated 2. Escalated to: kim.",
        ]
        assert CANARY not in "".join(news)

    def test_a_reminder_that_no_notifier_took_is_sent_again(
        self, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        taken: list[str] = []
        works = iter([False, False, True, True])

        def make(target: Any, subject: str, text: str) -> Any:
            def notify(_: Any) -> None:
                if not next(works):
                    raise ConnectionError
                taken.append(text)

            return SimpleNamespace(notify=notify)

        monkeypatch.setattr("airlock_tasks.notify.make_notifier", make)
        ask(ledger, "a")
        older(ledger, 25)
        notify = [
            {"sns": f"arn:aws:sns:us-east-1:123456789012:{name}", "events": ["review"]} for name in ("one", "two")
        ]
        for tries in range(3):
            with pytest.raises(DownstreamTasksSkipped):
                dag(notify=notify).get_task(REMIND).execute(context())
            assert len(taken) == (0, 2, 2)[tries]

    def test_one_review_is_told_in_the_singular(self) -> None:
        group: Any = SimpleNamespace(reason="truncated", reviews=1)
        assert describe_waiting([group], 1.5, "For: x").startswith(
            "1 review has waited for an answer for more than 1.5 "
        )


class TestNext:
    def test_the_dag_is_started_for_the_next_run_with_answers(self, ledger: Ledger) -> None:
        ask(ledger, "a", "b")
        approve(ledger, "a", "b")
        following: Any = dag().get_task(NEXT)
        with pytest.raises(DagRunTriggerException) as started:
            following.execute(context({"run_key": "a"}))
        first = started.value
        assert (first.trigger_dag_id, first.dag_run_id) == ("nightly__review", "answers__1__scheduled__1")
        assert first.conf == {"without": ["a"]}
        with pytest.raises(AirflowSkipException):
            following.execute(context({"run_key": "b"}, run_id=first.dag_run_id, without=["a"]))

    def test_ids_of_a_chain_do_not_grow(self, ledger: Ledger) -> None:
        ask(ledger, "a", "b", "c")
        approve(ledger, "a", "b", "c")
        following: Any = dag().get_task(NEXT)
        with pytest.raises(DagRunTriggerException) as started:
            following.execute(context({"run_key": "b"}, run_id="answers__1__scheduled__1", without=["a"]))
        assert started.value.dag_run_id == "answers__2__scheduled__1"


def test_documents_are_asked_about_without_on_hold() -> None:
    assert ccda_pipeline().asks_people
    assert not pipeline().asks_people
