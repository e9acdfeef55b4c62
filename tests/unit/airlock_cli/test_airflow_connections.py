"""Connections of the environment, in both forms that Airflow reads."""

from __future__ import annotations

import json
from urllib.parse import urlencode

import pytest

from airlock.ledger.examination import read_address
from airlock_cli.airflow_connections import GivenConnection, read_connection
from airlock_cli.doctor import find_ledger_url
from airlock_cli.errors import RequestError

EXTRA = {"region_name": "eu-west-1", "service_config": {"s3": {"endpoint_url": "http://x"}}}


_BASE = {"conn_type": "aws", "login": "key", "password": "se/cret"}


@pytest.mark.parametrize(
    "text",
    [
        json.dumps(_BASE | {"extra": EXTRA}),
        json.dumps(_BASE | {"extra": json.dumps(EXTRA)}),
        f"aws://key:se%2Fcret@/?{urlencode({'__extra__': json.dumps(EXTRA)})}",
    ],
)
def test_a_connection_is_read_as_json_or_as_an_address(text: str) -> None:
    found = read_connection("hospital", {"AIRFLOW_CONN_HOSPITAL": text})
    assert found == GivenConnection("aws", "key", "se/cret", extra=EXTRA)
    assert "cret" not in repr(found)


def test_a_connection_that_the_environment_lacks_is_none() -> None:
    assert read_connection("hospital", {}) is None


@pytest.mark.parametrize("text", ['{"conn_type": "aws", "extra": "CANARY"}', "{CANARY", "aws://a@[CANARY"])
def test_a_text_that_is_no_connection_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(RequestError, match="AIRFLOW_CONN_HOSPITAL is neither") as refused:
        read_connection("hospital", {"AIRFLOW_CONN_HOSPITAL": text})
    assert "CANARY" not in str(refused.value)


class TestLedgerUrl:
    def test_the_connection_wins_over_the_variable(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", "sqlite:////folder/ledger.db")
        assert find_ledger_url() == "sqlite:////folder/ledger.db"
        text = '{"conn_type": "postgres", "login": "a", "password": "p@ss", "host": "db.example", "port": 5433, '
        monkeypatch.setenv(
            "AIRFLOW_CONN_AIRLOCK_LEDGER", f'{text}"schema": "ledger", "extra": {{"sslmode": "verify-full"}}}}'
        )
        found = find_ledger_url()
        assert found == "postgresql://a:p%40ss@db.example:5433/ledger?sslmode=verify-full"
        assert read_address(found).is_verified

    def test_without_either_there_is_none(self) -> None:
        assert find_ledger_url() is None
