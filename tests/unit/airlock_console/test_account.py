"""The AWS side of the pages, on a real S3 and SQS: decisions' copies, a run's lists, and the depth of queues."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ledger import Ledger
from airlock.ledger.reveals import SCOPE
from airlock.pipelines import load_pipeline
from airlock.storage.s3 import S3Error
from airlock_console.account import AirflowAccount
from airlock_local.buckets import local_client
from airlock_local.environment import LOCAL_KEY, LOCAL_SECRET
from tests.servers.ledger import new_ledger
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator

pytestmark = pytest.mark.slow

PIPELINE = load_pipeline(Path(__file__).parents[3] / "include/pipelines/arrivals.yaml")
DEAD = "airlock-arrivals-dead"


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with moto_server() as endpoint:
        local_client(endpoint).create_bucket(Bucket="airlock-workspace")
        yield endpoint


@pytest.fixture
def account(server: str, monkeypatch: pytest.MonkeyPatch) -> AirflowAccount:
    extra = f'{{"region_name": "us-east-1", "endpoint_url": "{server}"}}'
    connection = f'{{"conn_type": "aws", "login": "{LOCAL_KEY}", "password": "{LOCAL_SECRET}", "extra": {extra}}}'
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", connection)
    return AirflowAccount()


def test_a_decision_is_recorded_after_its_copy(account: AirflowAccount, server: str, tmp_path: Path) -> None:
    with Ledger.open(new_ledger(tmp_path / "ledger.db")) as ledger:

        def record(inner: Ledger) -> None:
            inner.log_reveal(PIPELINE.name, "key", person="Kim", why="the sender asks")

        account.decide(PIPELINE, ledger, record, SCOPE)
        assert [who for _, who, _ in ledger.reveals_of({PIPELINE.name}, "key")] == ["Kim"]
    folder = f"runs/{PIPELINE.name}/decisions/"
    assert local_client(server).list_objects_v2(Bucket="airlock-workspace", Prefix=folder)["KeyCount"] == 1


def test_a_list_of_a_run_is_streamed_and_one_that_is_not_there_is_said(account: AirflowAccount, server: str) -> None:
    key = f"runs/{PIPELINE.name}/a/audit/dispositions.csv"
    local_client(server).put_object(Bucket="airlock-workspace", Key=key, Body=b"key\nin/a.dcm\n")
    assert b"".join(account.stream_list(PIPELINE, "a", "dispositions.csv")) == b"key\nin/a.dcm\n"
    with pytest.raises(S3Error, match="NoSuchKey"):
        next(account.stream_list(PIPELINE, "b", "dispositions.csv"))


def test_queues_are_counted_and_one_that_is_not_there_is_named_by_its_error(
    account: AirflowAccount, server: str
) -> None:
    sqs: Any = local_client(server, "sqs")
    url = sqs.create_queue(QueueName=DEAD)["QueueUrl"]
    sqs.send_message(QueueUrl=url, MessageBody="hello")
    assert PIPELINE.arrivals is not None
    queues = {"queue_url": f"{server}/123456789012/none", "dead_letter_queue_url": url}
    mine = PIPELINE.model_copy(update={"arrivals": PIPELINE.arrivals.model_copy(update=queues)})
    none, dead = account.count_messages([mine])
    assert (none.kind, none.waiting) == ("arrivals", None)
    assert none.error is not None
    assert "NonExistentQueue" in none.error
    assert (dead.kind, dead.waiting, dead.in_flight, dead.error) == ("dead letters", 1, 0, None)
    sqs.send_message(QueueUrl=url, MessageBody="hello again")
    assert account.count_messages([mine])[1].waiting == 1, "within 15 seconds the queue is not asked again"


def test_an_s3_that_refuses_is_an_error_without_a_key(account: AirflowAccount) -> None:
    elsewhere = PIPELINE.model_copy(update={"workspace": "s3://nobody-s-bucket/runs/"})
    with pytest.raises(S3Error) as error:
        next(account.stream_list(elsewhere, "a", "dispositions.csv"))
    assert error.value.code == "NoSuchBucket"
