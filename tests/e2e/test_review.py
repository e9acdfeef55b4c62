"""A held study on the real scheduler waits for a person, whose word releases it: by the REST API, and in a browser."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
import httpx
import pytest
from airflow.api_fastapi.auth.tokens import JWTGenerator

from airlock.run import run_key
from airlock_local.environment import USER, read_secrets
from airlock_tasks.review import APPROVE, KEEP_HELD, NEEDS
from tests.browser import open_browser
from tests.dicom_files import ct
from tests.e2e.conftest import CANARY, until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600), pytest.mark.usefixtures("first_run")]

DAG = "asks"
WHY = "the lost file is a copy of the first, as the site says"
DOCS = Path(__file__).parents[2] / "docs"
_BUTTONS = """Object.fromEntries([...document.querySelectorAll('[data-testid^="hitl-option-"]')].map(
  button => [button.textContent.trim(), button.disabled]))"""


def deliver(machine: Machine, study: int) -> None:
    """Deliver a study of which one file is lost."""
    files = {f"{study}/1.dcm": ct(study, 1, 1, **CANARY), f"{study}/2.dcm": ct(study, 1, 2, **CANARY)[:-100]}
    machine.put(files, f"{DAG}/")


def started(machine: Machine, conf: dict[str, Any] | None = None) -> str:
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(DAG))
        api.unpause(DAG)
        return api.trigger(DAG, conf or {})


def waiting(machine: Machine, study: int) -> str:
    """Return a run that asks a person about a study."""
    deliver(machine, study)
    run = started(machine)
    until("the run waits for a person", lambda: machine.question(DAG, run, "review"))
    return run


def unanswered(machine: Machine, run: str) -> dict[str, Any] | None:
    """Return the run's question, None once it has an answer."""
    question = machine.question(DAG, run, "review")
    return question if question and not question["response_received"] else None


def ended(machine: Machine, run: str) -> str:
    with machine.api() as api:
        state = until("the run ends", lambda: (s := api.run_state(DAG, run)) in {"success", "failed"} and s)
    return str(state)


def check_override(machine: Machine, run: str) -> None:
    """The override is in the report, the contract and the ledger, and says the same in each."""
    key = run_key(DAG, run)
    report = machine.report(DAG, key)
    assert report["dispositions"] == {"released": 1, "quarantined": 1}
    (word,) = report["overrides"]
    assert (word["overridden_by"], word["override_reason"], word["reasons"]) == (USER, WHY, ["study_incomplete"])
    assert contract_of(machine, word["study_key"])["override"] == {n: v for n, v in word.items() if n != "study_key"}
    with sqlite3.connect(machine.settings.ledger_url.removeprefix("sqlite:///")) as ledger:
        who = "SELECT decided_by, why, reasons FROM decisions WHERE run_key = ?"
        assert ledger.execute(who, [key]).fetchall() == [(USER, WHY, "study_incomplete")]


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


def answer_as_another_administrator(machine: Machine, run: str) -> httpx.Response:
    signer = JWTGenerator(
        private_key=None, secret_key=read_secrets(machine.settings).jwt_secret, audience="apache-airflow", valid_for=60
    )
    token = signer.generate({"sub": "eve", "role": "admin", "teams": None})
    instance = f"/api/v2/dags/{DAG}/dagRuns/{quote(run, safe='')}/taskInstances/review/-1"
    return httpx.patch(
        f"{machine.settings.api_url}{instance}/hitlDetails",
        headers={"Authorization": f"Bearer {token}"},
        json={"chosen_options": [APPROVE], "params_input": {"reason": WHY}},
        timeout=30,
    )


def test_an_answer_without_a_reason_is_asked_again_and_one_with_it_releases(machine: Machine, news: Any) -> None:
    run = waiting(machine, 11)
    (text,) = news()
    assert text.startswith(f"Airlock {DAG}: hold\nRun: {run}\nHeld: 1.")
    assert "CANARY" not in text.upper()
    refused = answer_as_another_administrator(machine, run)
    assert (refused.status_code, "is not a respondent" in refused.text) == (403, True)
    machine.answer(DAG, run, "review", APPROVE, {"reason": None, "reasons": None})
    question = until("review asks again", lambda: unanswered(machine, run))
    assert NEEDS in question["body"]
    assert machine.try_number(DAG, run, "review") == 1
    assert "CANARY" not in json.dumps(question).upper()
    assert machine.decide(DAG, run, "review", APPROVE, {"reason": WHY, "reasons": None}) == "success"
    check_override(machine, run)


def test_a_failed_run_is_told(machine: Machine, news: Any) -> None:
    """Airflow calls it in its DAG processor."""
    run = started(machine, {"prefix": "elsewhere/"})
    assert ended(machine, run) == "failed"
    (text,) = until("the failure is told", news)
    assert text.startswith(f"Airlock {DAG}: failure\nRun: {run}")
    assert f"/dags/{DAG}/runs/" in text


@pytest.mark.proof
def test_a_person_releases_a_study_in_the_browser(machine: Machine, tmp_path: Path) -> None:
    run = waiting(machine, 12)
    base = machine.settings.api_url
    with open_browser(tmp_path) as page:
        page.log_in(base, USER, read_secrets(machine.settings).password)
        page.open(f"{base}/dags/{DAG}/runs/{quote(run, safe='')}/tasks/review/required_actions")
        page.shows("study_incomplete: 1")
        assert "CANARY" not in page.text().upper()
        assert page.evaluate(_BUTTONS) == {APPROVE: True, KEEP_HELD: True}
        page.write("#element_reason", WHY)
        page.screenshot(DOCS / "review.png")
        machine.wait_for_reader(DAG, run, "review")
        page.click("button", APPROVE)
        assert ended(machine, run) == "success"
    check_override(machine, run)
