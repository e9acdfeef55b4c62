"""Converted documents on the real scheduler wait for a person, whose answer releases them; their run does not wait."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING, Any

import pytest

from airlock.pipelines import load_pipeline
from airlock.run import run_key
from airlock_cli.caller import find_caller
from airlock_local.profiles import sign_profile
from airlock_local.sample.ccda.documents import ccd, problem_section
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]

REASON = "both were read beside their documents"


def report(machine: Machine, run: str) -> dict[str, Any]:
    return machine.report("documents", run_key("documents", run))


@pytest.fixture(scope="module")
def waiting(machine: Machine) -> str:
    """A run that has converted two documents, about which a person is asked; the run's id."""
    machine.put({"1.xml": ccd(1), "2.xml": ccd(2, sections=[problem_section(2, 3)])}, "documents/")
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag("documents"))
        sign_profile(machine.settings, load_pipeline(machine.settings.pipelines / "documents.yaml"))
        api.unpause("documents")
        run = api.trigger("documents", {})
        until("the run ends", lambda: api.run_state("documents", run) == "success")
    return run


def test_nothing_goes_on_before_the_answer(machine: Machine, waiting: str) -> None:
    found = report(machine, waiting)
    assert found["balanced"]
    assert found["dispositions"].keys() == {"held"}
    assert found["reasons"].keys() == {"awaiting_review"}


def test_the_question_names_counts_only(machine: Machine, waiting: str) -> None:
    (asked,) = machine.reviews("documents")
    assert asked["subjects"] == report(machine, waiting)["dispositions"]["held"]
    assert "Family" not in str(asked)


def test_an_approval_with_a_reason_releases_and_is_in_the_ledger(machine: Machine, waiting: str) -> None:
    held = report(machine, waiting)["dispositions"]["held"]
    (asked,) = machine.reviews("documents")
    machine.approve("documents", asked["number"], REASON)
    assert report(machine, waiting)["dispositions"] == {"released": held}
    with sqlite3.connect(machine.settings.ledger_url.removeprefix("sqlite:///")) as ledger:
        who = "SELECT DISTINCT decided_by, why FROM decisions WHERE run_key = ? AND kind = 'override'"
        assert ledger.execute(who, [run_key("documents", waiting)]).fetchall() == [(find_caller(), REASON)]
