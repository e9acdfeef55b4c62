"""The servers of the chain: S3 (moto), the emulator of HealthImaging and HealthLake, a ledger."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.providers.amazon.aws.hooks.base_aws import AwsBaseHook
from botocore.loaders import JSONFileLoader, Loader

from airlock.ledger import upgrade
from localaws.server import serve
from localaws.settings import Seed
from tests.chain import BUCKETS, DATASTORE, PROFILE, RECORDS, Place
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def quick_clients() -> Iterator[None]:
    """Do once what AWS's libraries do for every new client: tasks open many, and it took half of the tests' time."""
    known: dict[Any, Any] = {}

    def once(owner: type, name: str, key: Callable[..., Any]) -> None:
        method = getattr(owner, name)

        def recalled(self: Any, argument: str) -> Any:
            place = name, argument, key(self)
            if place not in known:
                known[place] = method(self, argument)
            return known[place]

        patch.setattr(owner, name, recalled)

    with pytest.MonkeyPatch.context() as patch:
        once(JSONFileLoader, "load_file", lambda _: None)
        once(Loader, "list_available_services", lambda loader: tuple(loader.search_paths))
        # Only for the user agent, and found by inspecting the whole stack.
        patch.setattr(AwsBaseHook, "_find_operator_class_name", staticmethod(lambda _: "test"))
        yield


ield endpoint


@pytest.fixture
def place(s3_endpoint: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    from tests.servers.moto import reset_moto

    reset_moto(s3_endpoint)
    ledger_url = f"sqlite:///{tmp_path}/ledger.db"
    upgrade(ledger_url)
    seeds = {
        "datastore": (Seed(DATASTORE, "test"),),
        "healthlake_datastore": (Seed(RECORDS, "test"),),
        "transformation_profile": (Seed(PROFILE, "test"),),
    }
    with serve(s3_endpoint=s3_endpoint, **seeds) as emulator:
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
        made = Place(s3_endpoint, emulator, ledger_url)
        for bucket in BUCKETS:
            made.s3().create_bucket(Bucket=bucket)
        yield made
