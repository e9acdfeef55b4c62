"""The durable to-do list."""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from localaws.schedule import InterruptedStepError, Schedule
from localaws.state import State

if TYPE_CHECKING:
    from pathlib import Path


def add(schedule: Schedule, state: State, subject: str, seconds: float = 0) -> None:
    with state.write() as connection:
        schedule.add(connection, "work", subject, seconds)
    schedule.wake()


def left(state: State) -> list[str]:
    with state.read() as connection:
        return [row["subject"] for row in connection.execute("SELECT subject FROM todo")]


def run_until_done(schedule: Schedule, state: State) -> None:
    async def run() -> None:
        running = asyncio.create_task(schedule.run())
        while left(state):
            assert not running.done()
            await asyncio.sleep(0.01)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(asyncio.wait_for(run(), 10))


def test_due_rows_run_in_their_order_and_go(tmp_path: Path) -> None:
    done: list[str] = []
    with closing(State(tmp_path / "state.db", [])) as state, ThreadPoolExecutor(1) as executor:
        schedule = Schedule(state, executor)
        schedule.on("work", done.append)
        add(schedule, state, "later", 0.15)
        add(schedule, state, "now")
        run_until_done(schedule, state)
    assert done == ["now", "later"]


def test_a_step_comes_back_until_it_has_nothing_left_to_do(tmp_path: Path) -> None:
    seconds = iter([0.01, 0.01, None])
    seen: list[str] = []

    def step(subject: str) -> float | None:
        seen.append(subject)
        return next(seconds)

    with closing(State(tmp_path / "state.db", [])) as state, ThreadPoolExecutor(2) as executor:
        schedule = Schedule(state, executor)
        schedule.on("work", step)
        add(schedule, state, "job")
        run_until_done(schedule, state)
    assert seen == ["job"] * 3


def test_a_broken_step_is_tried_again_and_logged_without_its_text(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tries: list[str] = []

    def step(subject: str) -> None:
        tries.append(subject)
        if len(tries) == 1:
            raise ValueError("PATIENT^NAME")

    with closing(State(tmp_path / "state.db", [])) as state, ThreadPoolExecutor(1) as executor:
        schedule = Schedule(state, executor)
        schedule.on("work", step)
        add(schedule, state, "job")
        run_until_done(schedule, state)
    assert tries == ["job", "job"]
    assert "ValueError" in caplog.text
    assert "PATIENT" not in caplog.text


def test_an_interrupted_step_stays_for_the_next_start(tmp_path: Path) -> None:
    with closing(State(tmp_path / "state.db", [])) as state, ThreadPoolExecutor(1) as executor:
        schedule = Schedule(state, executor)

        def step(_: str) -> None:
            schedule.stop()
            schedule.check()

        schedule.on("work", step)
        add(schedule, state, "job")
        schedule._do("work", "job")
        assert left(state) == ["job"]
        with pytest.raises(InterruptedStepError):
            schedule.check()
