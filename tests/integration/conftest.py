"""The servers of the chain: S3 (moto), the emulator of HealthImaging and HealthLake, a ledger."""

from __future__ import annotations

import json
import os
import threading
from collections import OrderedDict
from contextlib import contextmanager
from functools import cache
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import pytest
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook, BaseSessionFactory
from botocore.config import Config
from botocore.loaders import JSONFileLoader, Loader

from airlock.storage.s3uri import S3Uri
from localaws import aws_clients
from localaws.server import serve
from localaws.settings import Seed
from tests.chain import BUCKETS, DATASTORE, PROFILE, RECORDS, Place
from tests.rebuilt_ledger import differences, read_tables, rebuild_into
from tests.servers.in_process import ask_all_in_process
from tests.servers.ledger import new_ledger
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="package", autouse=True)
def quick_clients() -> Iterator[None]:
    """Do once what AWS's libraries do anew for every client: tasks open many, and it took half of the tests' time."""
    load_file, list_services = cache(JSONFileLoader.load_file), Loader.list_available_services
    known: dict[Any, Any] = {}

    def listed(loader: Loader, type_name: str) -> Any:
        place = type_name, *loader.search_paths
        if place not in known:
            known[place] = list_services(loader, type_name)
        return known[place]

    one = JSONFileLoader()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", lambda _, path: load_file(one, path))
        patch.setattr(Loader, "list_available_services", listed)
        patch.setattr(BaseSessionFactory, "_create_basic_session", basic_session)
        patch.setattr(aws_clients, "boto3", SimpleNamespace(session=SimpleNamespace(Session=emulators_session)))
        # It is for the user agent, and found by inspecting the whole stack.
        patch.setattr(AwsBaseHook, "_find_operator_class_name", lambda *_: "test")
        yield


_sessions = threading.local()  # two threads must not make clients of one session at the same time


def session_of_this_thread(arguments: dict[str, Any]) -> boto3.Session:
    """Return the one session of this thread for these credentials and this environment."""
    kept: dict[str, boto3.Session] = vars(_sessions)
    key = json.dumps([arguments, {name: os.environ[name] for name in os.environ if name.startswith("AWS_")}])
    if key not in kept:
        kept[key] = KeptClients(**arguments)
    return kept[key]


def basic_session(_: BaseSessionFactory, session_kwargs: dict[str, Any]) -> boto3.Session:
    """Return the session of a task."""
    return session_of_this_thread(session_kwargs)


def emulators_session(key: str | None = None, secret: str | None = None, *, region_name: str) -> boto3.Session:
    """Return the session of the emulator's own clients."""
    return session_of_this_thread(
        {"aws_access_key_id": key, "aws_secret_access_key": secret, "region_name": region_name}
    )


class KeptClients(boto3.Session):
    """A session that makes one client for each service, endpoint and configuration."""

    def client(self, *args: Any, **kwargs: Any) -> Any:
        kept: OrderedDict[str, Any] = vars(self).setdefault("kept", OrderedDict())
        configured = {name: vars(value) if isinstance(value, Config) else value for name, value in kwargs.items()}
        key = repr((args, sorted(configured.items())))
        if key not in kept:
            kept[key] = super().client(*args, **kwargs)
        kept.move_to_end(key)
        if len(kept) > 20:  # the emulators of earlier tests have stopped
            kept.popitem(last=False)
        return kept[key]


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with moto_server() as endpoint, pytest.MonkeyPatch.context() as patch:
        ask_all_in_process(endpoint, patch)
        yield endpoint


@pytest.fixture
def place(
    request: pytest.FixtureRequest, s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Place]:
    """Give a test servers of its own; an indirect parameter is the emulator's settings."""
    from tests.servers.moto import reset_moto

    reset_moto(s3_endpoint)
    with place_beside(s3_endpoint, tmp_path, monkeypatch, **getattr(request, "param", {})) as made:
        for bucket in BUCKETS:
            made.s3().create_bucket(Bucket=bucket)
        yield made
        if os.environ.get("AIRLOCK_REBUILD"):
            require_same_rebuilt(made, tmp_path)


@contextmanager
def place_beside(s3_endpoint: str, folder: Path, monkeypatch: pytest.MonkeyPatch, **settings: Any) -> Iterator[Place]:
    """Give an emulator beside a running S3, and a ledger in the folder; the settings are the emulator's."""
    ledger_url = new_ledger(folder / "ledger.db")
    seeds = {
        "datastore": (Seed(DATASTORE, "test"),),
        "healthlake_datastore": (Seed(RECORDS, "test"),),
        "transformation_profile": (Seed(PROFILE, "test"),),
    }
    # Most jobs have ended when they are first looked at, a second before the next look.
    settings = {"submitted_seconds": 0.0, "state": folder / "localaws.db", **seeds, **settings}
    with serve(s3_endpoint=s3_endpoint, **settings) as emulator:
        connection = {
            "conn_type": "aws",
            "login": "testing",
            "password": "testing",
            "extra": {
                "region_name": "us-east-1",
                "endpoint_url": s3_endpoint,
                "config_kwargs": {"inject_host_prefix": False},
                "service_config": {
                    "medical-imaging": {"endpoint_url": emulator},
                    "healthlake": {"endpoint_url": emulator},
                },
            },
        }
        monkeypatch.setenv("AIRFLOW_CONN_AWS_DEFAULT", json.dumps(connection))
        monkeypatch.setenv("AIRLOCK_LEDGER_URL", ledger_url)
        yield Place(s3_endpoint, emulator, ledger_url)


def require_same_rebuilt(place: Place, folder: Path) -> None:
    """Rebuild the ledger that a test leaves in a database of its own, and require that it has the same rows."""
    from airlock_tasks.run import connect_s3

    s3 = connect_s3("aws_default")
    workspace = "s3://workspace/runs/"
    lines: Any = [SimpleNamespace(workspace=workspace, name=name) for name in s3.list_folders(S3Uri.parse(workspace))]
    found = rebuild_into(f"sqlite:///{folder}/rebuilt.db", s3, lines)
    assert not found.refused
    assert not differences(read_tables(place.ledger_url), read_tables(f"sqlite:///{folder}/rebuilt.db"))
