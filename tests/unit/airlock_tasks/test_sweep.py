"""The task of a sweep: alarm at one overdue object, a question about what is not taken in, and no key anywhere."""

from __future__ import annotations

import json
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput

from airlock.ledger import Ledger
from airlock_tasks import sweep as tasks
from airlock_tasks.sweep import AGE, LEAVE, OVERDUE, TAKE_IN, SweepOperator, note_age
from tests.chain import answer, questions_to_people
from tests.servers.ledger import new_ledger
from tests.unit.airlock.clinical.books import pipeline as clinical_pipeline
from tests.unit.airlock.stages.test_sweep import NIGHT, Archive

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CANARY = "Canary^Name"


class Store(dict[str, str]):
    set = dict.__setitem__


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(new_ledger(tmp_path / "ledger.db")) as ledger:
        yield ledger


@pytest.fixture
def archive(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> Archive:
    """An archive of which a run has taken all, and which was swept once."""
    archive = Archive(ledger)
    archive.put("a/1")
    archive.take()
    archive.sweep()

    @contextmanager
    def opened(_: object) -> Iterator[Any]:
        yield archive.s3, archive.ledger

    monkeypatch.setattr(SweepOperator, "_open", opened)
    return archive


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return questions_to_people(monkeypatch)


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    """The events and texts of the notifications."""
    told: list[tuple[str, str]] = []
    monkeypatch.setattr(tasks, "notify_once", lambda _, event, __, what: told.append((event, what)))
    return told


@pytest.fixture
def gauges(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    gauges: dict[str, float] = {}
    monkeypatch.setattr(tasks.Stats, "gauge", lambda name, value, tags: gauges.update({name: value}), raising=False)
    return gauges


def context(**params: Any) -> Any:
    ti = SimpleNamespace(id="sweep", start_date=datetime.now(UTC))
    return {"run_id": "scheduled__1", "params": params, "ti": ti, "task_state_store": Store()}


def run(archive: Archive, **params: Any) -> Any:
    return SweepOperator(task_id="sweep", pipeline=archive.line).execute(context(**params))


def test_without_an_overdue_object_nobody_is_told(
    archive: Archive, told: list[tuple[str, str]], gauges: dict[str, float]
) -> None:
    assert run(archive)["overdue"] == 0
    assert told == []
    assert gauges[OVERDUE] == 0
    assert 0 <= gauges[AGE] < 1


def test_one_overdue_object_is_an_alarm(
    archive: Archive, told: list[tuple[str, str]], gauges: dict[str, float]
) -> None:
    archive.put("a/2")
    assert run(archive)["taken_in"] == 1
    ((event, text),) = told
    assert event == "sweep"
    assert "1 are overdue" in text
    assert gauges[OVERDUE] == 1


def test_what_is_not_taken_in_is_a_question(archive: Archive, asked: list[dict[str, Any]]) -> None:
    archive.put(f"{CANARY}/1", f"{CANARY}/2")
    with pytest.raises(TaskAwaitingInput) as waiting:
        run(archive)
    (question,) = asked
    assert (question["options"], question["defaults"]) == ([TAKE_IN, LEAVE], [LEAVE])
    assert "2 objects below the source are overdue and not taken in" in question["body"]
    operator = SweepOperator(task_id="sweep", pipeline=archive.line)
    result = operator.answer_sweep(context(), answer(TAKE_IN, "seen"), **(waiting.value.kwargs or {}))
    assert result["taken_in"] == 2
    assert len(archive.take("scheduled__2", NIGHT)) == 2


@pytest.mark.parametrize(
    "given", [answer(LEAVE), {"chosen_options": [LEAVE], "params_input": {}}], ids=["left", "nobody"]
)
def test_nothing_is_taken_in_without_a_persons_word(archive: Archive, asked: object, given: dict[str, Any]) -> None:
    archive.put("new/1")
    with pytest.raises(TaskAwaitingInput) as waiting:
        run(archive)
    operator = SweepOperator(task_id="sweep", pipeline=archive.line)
    assert operator.answer_sweep(context(), given, **(waiting.value.kwargs or {}))["taken_in"] == 0
    assert archive.take("scheduled__2", NIGHT) == []


def test_an_answer_without_a_reason_asks_again(archive: Archive, asked: list[dict[str, Any]]) -> None:
    archive.put("new/1")
    with pytest.raises(TaskAwaitingInput) as waiting:
        run(archive)
    operator = SweepOperator(task_id="sweep", pipeline=archive.line)
    with pytest.raises(TaskAwaitingInput) as again:
        operator.answer_sweep(context(), answer(TAKE_IN), **(waiting.value.kwargs or {}))
    assert again.value.kwargs == waiting.value.kwargs
    assert len(asked) == 2


def test_a_dry_sweep_asks_nothing(archive: Archive, told: list[tuple[str, str]]) -> None:
    archive.put("new/1")
    assert run(archive, dry_run=True)["asks"] == 1
    assert "Nothing was taken in, because a person asked for a dry run." in told[0][1]


def test_no_body_of_a_parked_resource_is_deleted_while_the_sweep_is_dry(
    archive: Archive, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The ledger may be one that was restored: it does not know what waits."""
    swept: list[object] = []

    def count_calls(*given: object) -> int:
        swept.append(given)
        return 0

    archive.remove("a/1")
    monkeypatch.setattr("airlock.clinical.parked.sweep_bodies", count_calls)
    operator = SweepOperator(task_id="sweep", pipeline=clinical_pipeline())
    operator.execute(context())  # the pipeline's first
    operator.execute(context(dry_run=True))
    assert swept == []
    operator.execute(context())
    assert len(swept) == 1


def test_no_key_is_in_the_log_a_notification_a_question_or_the_result(
    archive: Archive, asked: list[dict[str, Any]], told: list[tuple[str, str]], capfd: pytest.CaptureFixture[str]
) -> None:
    archive.put(f"{CANARY}/1")
    archive.remove("a/1")
    with pytest.raises(TaskAwaitingInput) as waiting:
        run(archive)
    logged = "".join(capfd.readouterr())
    assert "1 are overdue" in logged
    shown = json.dumps([asked, told, waiting.value.kwargs], default=str) + logged
    assert CANARY not in shown
    assert "a/1" not in shown


def test_a_missing_inventory_fails_the_task_with_a_sentence(archive: Archive) -> None:
    archive.change(source={"listing": "inventory", "inventory_uri": "s3://work/inventories/", "lookback_hours": 72})
    with pytest.raises(AirflowFailException, match="There is no complete inventory"):
        run(archive)


def test_the_age_of_the_last_sweep_is_a_metric_once_there_is_one(
    ledger: Ledger, gauges: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    archive = Archive(ledger)
    note_age(archive.line, ledger)
    assert gauges == {}
    archive.sweep()
    later = datetime.now(UTC) + timedelta(hours=30)
    monkeypatch.setattr(tasks, "datetime", SimpleNamespace(now=lambda _: later))
    note_age(archive.line, ledger)
    assert 29.9 < gauges[AGE] < 30.1
