"""A run with absurd numbers on the real scheduler: a task waits for a person, without a slot, and then goes on."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock.run import run_key
from airlock_tasks.brake import GO_ON
from tests.dicom_files import ct
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]

DAG = "brakes"


def test_a_run_asks_before_import_and_before_route_and_goes_on(machine: Machine) -> None:
    whole = {f"{study}/1.dcm": ct(study, 1, 1) for study in range(1, 8)}
    parts = {f"9/{number}.dcm": ct(9, 1, number) for number in range(1, 6)}
    machine.put(whole | parts | {"9/6.dcm": ct(9, 1, 6)[:400]}, f"{DAG}/")
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(DAG))
        api.unpause(DAG)
        run = api.trigger(DAG, {})
    key = run_key(DAG, run)

    question = until("validate asks", lambda: machine.question(DAG, run, "validate"))
    assert "1 of 13 (7.69 %) cannot be read; audit.brake.unread allows 5 %." in question["body"]
    assert machine.jobs(key) == []
    machine.answer(DAG, run, "validate", GO_ON, {"reason": "the sender knows of it"})

    question = until("audit asks", lambda: machine.question(DAG, run, "audit"))
    assert "5 of 13 (38.5 %) would be held; audit.brake.held allows 20 %." in question["body"]
    assert machine.decide(DAG, run, "audit", GO_ON, {"reason": "the sender knows of it"}) == "success"
    assert machine.report(DAG, key)["dispositions"] == {"released": 7, "held": 5, "quarantined": 1}
