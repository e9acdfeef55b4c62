"""The servers of the chain: S3 (moto), the emulator of HealthImaging and HealthLake, a ledger."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any

import pytest
from botocore.loaders import JSONFileLoader

from airlock.ledger import upgrade
from localaws.server import serve
from localaws.settings import Seed
from tests.chain import BUCKETS, DATASTORE, PROFILE, RECORDS, Place
from tests.servers.moto import moto_server

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture(scope="session", autouse=True)
def service_models() -> Iterator[None]:
    """Read each of AWS's service models once: every task opens a session of its own, which would read them anew."""
    loader, read = JSONFileLoader(), cache(JSONFileLoader.load_file)

    def load_file(_: JSONFileLoader, path: str) -> Any:
        return read(loader, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(JSONFileLoader, "load_file", load_file)
        yield


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    with moto_server() as endpoint:
        yield endpoint


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
