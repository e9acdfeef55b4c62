"""Runs go on one at a time, from point to point, and die where they are told to."""

from __future__ import annotations

import pytest

from tests.explore.scheduler import Actor, Killed, Site

STAGES = ("buffer", "audit")


class Steps:
    """A run of two stages with three points each, and what it has done."""

    def __init__(self) -> None:
        self.done: list[str] = []
        self.actor = Actor("A", lambda *_: None)

    def work(self) -> None:
        for stage in STAGES:
            for number in range(3):
                self.actor.point(Site(stage, "ledger.claim", f"stages/{stage}.py:{number}"))
                self.done.append(f"{stage}-{number}")


@pytest.fixture
def steps() -> Steps:
    made = Steps()
    made.actor.begin(made.work)
    return made


def test_a_run_waits_before_its_call(steps: Steps) -> None:
    steps.actor.go(2)
    assert steps.done == ["buffer-0"]
    assert steps.actor.alive
    assert str(steps.actor.at) == "buffer ledger.claim stages/buffer.py:1"
    steps.actor.go(None)
    assert len(steps.done) == 6
    assert not steps.actor.alive


def test_a_run_goes_on_up_to_a_stage(steps: Steps) -> None:
    steps.actor.go(None, until="audit")
    assert steps.done == ["buffer-0", "buffer-1", "buffer-2"]
    steps.actor.kill()


def test_a_killed_run_does_nothing_more(steps: Steps) -> None:
    steps.actor.go(2, fatal=True)
    assert steps.done == ["buffer-0"]
    assert not steps.actor.alive
    assert isinstance(steps.actor.error, Killed)


def test_a_run_within_a_transaction_waits_for_nobody(steps: Steps) -> None:
    steps.actor.locks = 1
    steps.actor.go(2)
    assert len(steps.done) == 6
