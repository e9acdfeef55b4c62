"""Converted documents on the real scheduler wait for a person, whose answer is given as Airflow's form gives it."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from airlock.pipelines import load_pipeline
from airlock.run import run_key
from airlock_local.profiles import sign_profile
from airlock_local.sample.ccda.documents import ccd, problem_section
from airlock_tasks.review import APPROVE
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]

REASON = "both were read beside their documents"


def report(machine: Machine, run: str) -> dict[str, Any]:
    return machine.report("documents", run_key("documents", run))


@pytest.fixture(scope="module")
def waiting(machine: Machine) -> str:
    """A run that has converted two documents and asks for a review; the run's id."""
    machine.put({"1.xml": ccd(1), "2.xml": ccd(2, sections=[problem_section(2, 3)])}, "documents/")
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag("documents"))
        sign_profile(machine.settings, load_pipeline(machine.settings.pipelines / "documents.yaml"))
        api.unpause("documents")
        run = api.trigger("documents", {})
        until("the run waits for a person", lambda: machine.question("documents", run, "review"))
    return run


def test_nothing_goes_on_before_the_answer(machine: Machine, waiting: str) -> None:
    found = report(machine, waiting)
    assert found["balanced"]
    assert found["dispositions"].keys() == {"held"}
    assert found["reasons"].keys() == {"awaiting_review"}
    with machine.api() as api:
        assert api.run_state("documents", waiting) == "running"


def test_the_question_names_counts_only(machine: Machine, waiting: str) -> None:
    question = machine.question("documents", waiting, "review")
    resources = report(machine, waiting)["dispositions"]["held"]
    assert f"{resources} resources wait for you." in question["body"]
    assert "Family" not in question["body"]


def test_an_approval_with_a_reason_releases_and_is_in_the_ledger(machine: Machine, waiting: str) -> None:
    held = report(machine, waiting)["dispositions"]["held"]
    assert machine.decide("documents", waiting, "review", APPROVE, {"reason": REASON}) == "success"
    assert report(machine, waiting)["dispositions"] == {"released": held}
    with sqlite3.connect(machine.settings.ledger_url.removeprefix("sqlite:///")) as ledger:
        who = "SELECT DISTINCT decided_by, why FROM decisions WHERE run_key = ?"
        assert ledger.execute(who, [run_key("documents", waiting)]).fetchall() == [("admin", REASON)]
