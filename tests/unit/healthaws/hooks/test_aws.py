"""What a client costs, and what the hooks of one process share."""

from __future__ import annotations

import inspect
import json
import threading
from typing import Any

import pytest
from botocore.loaders import JSONFileLoader

from healthaws.hooks.aws import AwsHook, load_models, model_loader
from healthaws.hooks.healthimaging import HealthImagingHook


@pytest.fixture(autouse=True)
def connection(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = {"region_name": "eu-west-1", "endpoint_url": "http://127.0.0.1:9"}
    login = {"conn_type": "aws", "login": "an access key", "password": "a secret key", "extra": extra}
    monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(login))


@pytest.fixture
def files(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the model files that are read, in a process that has read none."""
    model_loader.cache_clear()
    found: list[str] = []
    load_file = JSONFileLoader.load_file

    def note(loader: JSONFileLoader, path: str) -> Any:
        content = load_file(loader, path)
        found.extend([path] if content is not None else [])
        return content

    monkeypatch.setattr(JSONFileLoader, "load_file", note)
    return found


def test_a_client_names_its_hook_without_a_search_of_the_stack(monkeypatch: pytest.MonkeyPatch) -> None:
    def search(*_: Any, **__: Any) -> Any:
        raise AssertionError("the stack was searched")

    monkeypatch.setattr(inspect, "stack", search)
    assert "Caller/HealthImagingHook" in HealthImagingHook().conn.meta.config.user_agent


def test_a_second_hook_reads_no_model(files: list[str]) -> None:
    assert AwsHook(client_type="s3").conn
    read = len(files)
    assert read
    assert AwsHook(client_type="s3").conn
    assert files[read:] == []


def test_load_models_reads_all_that_a_client_needs(files: list[str]) -> None:
    load_models(["s3", "medical-imaging"])
    read = len(files)
    assert AwsHook(client_type="s3").conn.meta.region_name == "eu-west-1"
    assert HealthImagingHook().conn
    assert files[read:] == []


def test_load_models_starts_nothing() -> None:
    threads = threading.active_count()
    load_models(["healthlake"])
    assert threading.active_count() == threads


def test_a_hook_has_one_session_per_region() -> None:
    hook = AwsHook(client_type="s3")
    assert hook.get_session() is hook.get_session("eu-west-1")
    assert hook.get_session("us-west-2").region_name == "us-west-2"


def test_hooks_share_no_session() -> None:
    assert AwsHook(client_type="s3").get_session() is not AwsHook(client_type="s3").get_session()
