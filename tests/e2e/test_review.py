"""A held study on the real scheduler is a review that no run waits for; its answer releases it, by command and page."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
import pytest

from airlock.run import run_key
from airlock_cli.caller import find_caller
from airlock_local.environment import USER, read_secrets
from tests.browser import open_browser
from tests.dicom_files import ct
from tests.e2e.conftest import CANARY, until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]

DAG = "asks"
WHY = "the lost file is a copy of the first, as the site says"
DOCS = Path(__file__).parents[2] / "docs"


def started(machine: Machine, conf: dict[str, Any] | None = None) -> str:
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(DAG))
        api.unpause(DAG)
        return api.trigger(DAG, conf or {})


def ended(machine: Machine, run: str) -> str:
    with machine.api() as api:
        state = until("the run ends", lambda: (s := api.run_state(DAG, run)) in {"success", "failed"} and s)
    return str(state)


def held(machine: Machine, study: int) -> tuple[str, int]:
    """Deliver a study of which one file is lost, to the end of its run; return the run and the review's number."""
    files = {f"{study}/1.dcm": ct(study, 1, 1, **CANARY), f"{study}/2.dcm": ct(study, 1, 2, **CANARY)[:-100]}
    machine.put(files, f"{DAG}/")
    run = started(machine)
    assert ended(machine, run) == "success", "no run waits for a person"
    (asked,) = machine.reviews(DAG)
    assert (asked["run_key"], asked["reasons"]) == (run_key(DAG, run), ["study_incomplete"])
    assert "CANARY" not in json.dumps(asked).upper()
    return run, asked["number"]


def check_override(machine: Machine, run: str, person: str) -> None:
    """The override is in the report, the contract and the ledger, and says the same in each."""
    key = run_key(DAG, run)
    report = machine.report(DAG, key)
    assert report["dispositions"] == {"released": 1, "quarantined": 1}
    (word,) = report["overrides"]
    assert (word["overridden_by"], word["override_reason"], word["reasons"]) == (person, WHY, ["study_incomplete"])
    assert contract_of(machine, word["study_key"])["override"] == {n: v for n, v in word.items() if n != "study_key"}
    with sqlite3.connect(machine.settings.ledger_url.removeprefix("sqlite:///")) as ledger:
        who = "SELECT decided_by, why, reasons FROM decisions WHERE run_key = ? AND kind = 'override'"
        assert ledger.execute(who, [key]).fetchall() == [(person, WHY, "study_incomplete")]


def openers(machine: Machine, run: str) -> list[str]:
    """Return who has opened reviews of a run, by the decision log."""
    with sqlite3.connect(machine.settings.ledger_url.removeprefix("sqlite:///")) as ledger:
        who = "SELECT decided_by FROM decisions WHERE run_key = ? AND kind = 'open'"
        return [name for (name,) in ledger.execute(who, [run_key(DAG, run)])]


def contract_of(machine: Machine, study_key: str) -> dict[str, Any]:
    """Return the latest routed contract of a study."""
    s3 = machine.s3()
    found = s3.list_objects_v2(Bucket="airlock-contracts").get("Contents", [])
    key = max(item["Key"] for item in found if f"/{study_key}/" in item["Key"])
    return dict(json.loads(s3.get_object(Bucket="airlock-contracts", Key=key)["Body"].read()))


@pytest.fixture(scope="module")
def news(machine: Machine) -> Any:
    """The queue that the pipeline tells its news to."""
    client = boto3.client("sqs", endpoint_url=machine.settings.s3_url, region_name="us-east-1")
    url = client.create_queue(QueueName="news")["QueueUrl"]

    def take() -> list[str]:
        reply = client.receive_message(QueueUrl=url, MaxNumberOfMessages=10)
        for message in reply.get("Messages", []):
            client.delete_message(QueueUrl=url, ReceiptHandle=message["ReceiptHandle"])
        return [message["Body"] for message in reply.get("Messages", [])]

    return take


def test_an_answer_on_the_command_line_releases_the_study(machine: Machine, news: Any) -> None:
    run, number = held(machine, 11)
    with machine.api() as api:
        note = api._call("GET", f"/api/v2/dags/{DAG}/dagRuns/{quote(run, safe='')}")["note"]
    assert note == "Airlock: balanced, 0 of 2 released, 1 held, 1 rejected"
    (text,) = news()
    assert text.startswith(f"Airlock {DAG}: hold\nRun: {run}\nHeld: 1.")
    assert "CANARY" not in text.upper()
    shown = machine.cli("review", "show", str(number), LOGNAME="eve")
    assert shown.returncode == 0, shown.stderr
    assert openers(machine, run) == [find_caller()], "a name of the environment proves nothing"
    machine.approve(DAG, number, WHY)
    check_override(machine, run, find_caller())
    second = machine.cli("review", "answer", str(number), "--keep-held", "--why", "too late")
    assert (second.returncode, f"was answered by {find_caller()} at" in second.stderr) == (1, True)


def test_a_failed_run_is_told(machine: Machine, news: Any) -> None:
    """Airflow calls it in its DAG processor."""
    run = started(machine, {"prefix": "elsewhere/"})
    assert ended(machine, run) == "failed"
    (text,) = until("the failure is told", news)
    assert text.startswith(f"Airlock {DAG}: failure\nRun: {run}")
    assert f"/dags/{DAG}/runs/" in text


@pytest.mark.proof
def test_a_person_releases_a_study_in_the_browser(machine: Machine, tmp_path: Path) -> None:
    run, number = held(machine, 12)
    base = machine.settings.api_url
    with open_browser(tmp_path) as page:
        page.log_in(base, USER, read_secrets(machine.settings).password)
        page.open(f"{base}/airlock/reviews/{DAG}/{number}")
        page.shows("study_incomplete")
        assert "CANARY" not in page.text().upper()
        page.write("input[name=why]", WHY)
        page.evaluate("scrollTo(0, 0)")
        page.screenshot(DOCS / "review.png")
        page.click("button", "Approve")
        page.shows("Started.")
        released = {"released": 1, "quarantined": 1}
        key = run_key(DAG, run)
        until("it is released", lambda: machine.report(DAG, key)["dispositions"] == released)
    until("the override is routed", lambda: _is_routed(machine, run))
    check_override(machine, run, USER)


def _is_routed(machine: Machine, run: str) -> bool:
    (word,) = machine.report(DAG, run_key(DAG, run))["overrides"]
    try:
        return "override" in contract_of(machine, word["study_key"])
    except ValueError:  # no contract yet
        return False
