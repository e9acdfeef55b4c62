"""The figures of Airflow's own cost, and the execution API that answers the measured tasks."""

from __future__ import annotations

import json
from typing import Any

import boto3
import httpx
import pytest
from benchmarks.execution_api import execution_api
from benchmarks.job_events import job_events
from benchmarks.tasks import EMPTY, EXECUTIONS, summarize

KEYS = {"aws_access_key_id": "testing", "aws_secret_access_key": "testing"}
SECONDS = {EMPTY: [0.1, 0.1], **{kind: [0.3, 0.5] for kind in EXECUTIONS}}


def test_ratios_contain_what_airflows_other_processes_need_on_both_sides() -> None:
    found = summarize(SECONDS, share=0.2)
    assert found["cpu_ms"][EMPTY] == 100
    assert found["ratios"] == dict.fromkeys(EXECUTIONS, 2.0)
    assert (found["ratio"], found["worker_ratio"], found["airflow_ms"]) == (2.0, 4.0, 200.0)


def test_the_ratio_is_weighted_by_the_executions_of_a_wave() -> None:
    found = summarize(SECONDS | {"parse": [4.4]}, share=0.0)
    other = sum(EXECUTIONS.values()) - EXECUTIONS["parse"]
    assert found["ratio"] == pytest.approx((44 * EXECUTIONS["parse"] + 4 * other) / sum(EXECUTIONS.values()), abs=0.001)


def test_the_fewest_turns_count() -> None:
    assert summarize(SECONDS | {"parse": [1.0]}, share=0.0)["turns"] == 1


def ask(server: str, method: str, path: str, content: Any = None) -> tuple[int, Any]:
    answer = httpx.request(method, server + path, json=content, trust_env=False)
    return answer.status_code, json.loads(answer.content) if answer.content else None


def test_the_execution_api_begins_a_task_and_keeps_how_it_ended() -> None:
    with execution_api() as (server, api):
        api.dags["an-id"] = "bench"
        _, context = ask(server, "PATCH", "task-instances/an-id/run", {})
        assert context["dag_run"]["dag_id"] == "bench"
        assert ask(server, "PATCH", "task-instances/an-id/state", {"state": "deferred"})[0] == 204
        assert api.states["an-id"] == {"state": "deferred"}
        api.resumed["an-id"] = {"next_method": "execute_complete"}
        _, context = ask(server, "PATCH", "task-instances/an-id/run", {})
        assert context["next_method"] == "execute_complete"


def test_the_end_of_a_job_is_told_by_its_event() -> None:
    with job_events() as (endpoint, events):
        client = boto3.client("events", endpoint_url=endpoint, region_name="us-east-1", **KEYS)
        for status in ("SUBMITTED", "COMPLETED"):
            with pytest.raises(TimeoutError, match="no event has told"):
                events.wait("j1", within=0)
            detail = json.dumps({"jobId": "j1", "jobStatus": status})
            client.put_events(Entries=[{"Source": "aws.medical-imaging", "DetailType": "Import Job", "Detail": detail}])
        events.wait("j1", within=5)


def test_the_execution_api_gives_what_was_returned_and_names_what_it_does_not_know() -> None:
    with execution_api() as (server, api):
        api.xcom["normalize"] = ["a batch"]
        assert ask(server, "GET", "xcoms/bench/run/normalize/return_value")[1]["value"] == ["a batch"]
        assert ask(server, "GET", "xcoms/bench/run/other/return_value")[0] == 404
        assert ask(server, "GET", "connections/airlock_ledger")[0] == 404
        assert api.unanswered == []
        assert ask(server, "GET", "variables/a")[0] == 404
        assert api.unanswered == ["GET variables/a"]
