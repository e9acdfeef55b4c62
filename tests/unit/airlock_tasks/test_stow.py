"""A STOW route's server is made of its Airflow connection, or the task stops before it sends."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException

from airlock.destinations.stow import Stow
from airlock.run import Run
from airlock.storage.s3uri import S3Uri
from airlock_tasks.destinations import connect
from tests.unit.airlock.pipelines.test_pipelines import changed, problem
from tests.unit.airlock.world import STORE, pipeline

if TYPE_CHECKING:
    from pathlib import Path

    from airlock.destinations import Destination


def connected(monkeypatch: pytest.MonkeyPatch, stow: dict[str, Any] | None = None, **fields: Any) -> Destination:
    monkeypatch.setenv("AIRFLOW_CONN_PACS", json.dumps({"conn_type": "http"} | fields))
    line = pipeline(routes=[{"name": "pacs", "stow": {"conn_id": "pacs"} | (stow or {})}])
    nothing: Any = None
    return connect(Run(line, "one", None, S3Uri.parse(line.source.uri), nothing, nothing))["pacs"]


def test_the_connection_names_the_server(monkeypatch: pytest.MonkeyPatch) -> None:
    made = connected(monkeypatch, host="https://pacs.example/dicom-web/", login="airlock", password="word")
    assert isinstance(made, Stow)
    assert made._web._base_url == "https://pacs.example/dicom-web"
    assert made._address == f"stow:pacs|{STORE}"


def test_a_server_without_tls_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException, match=r"Route 'pacs': .*use https"):
        connected(monkeypatch, host="http://pacs.example/dicom-web")


def test_a_ca_bundle_that_is_not_there_is_named_with_the_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(AirflowFailException, match="verify in the extra of the Airflow connection 'pacs'"):
        connected(monkeypatch, host="https://pacs.example", extra=json.dumps({"verify": "/nowhere/ca.pem"}))


def test_certificates_are_checked_unless_the_connection_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    modes = [
        connected(monkeypatch, host="https://pacs.example", extra=json.dumps(extra))._web._client._transport._pool
        for extra in ({}, {"verify": False})
    ]
    assert [pool._ssl_context.check_hostname for pool in modes] == [True, False]


@pytest.mark.parametrize(
    ("stow", "says"),
    [
        ({}, "field 'routes.0.stow.conn_id' is missing: add it"),
        ({"conn_id": "pacs", "requests_in_flight": 0}, "field 'routes.0.stow.requests_in_flight'"),
        ({"conn_id": "pacs", "url": "http://pacs.example"}, "use https"),
    ],
)
def test_a_wrong_section_is_named_with_the_fix(tmp_path: Path, stow: dict[str, Any], says: str) -> None:
    assert says in problem(tmp_path, changed("routes", [{"name": "pacs", "stow": stow}]))


def test_a_clinical_pipeline_has_no_instances_to_send() -> None:
    from tests.chain import clinical_pipeline

    with pytest.raises(ValueError, match="route 'pacs': stow sends instances, but only imaging pipelines have them"):
        clinical_pipeline(routes=[{"name": "pacs", "stow": {"conn_id": "pacs"}}])
