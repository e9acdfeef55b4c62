"""S3 for edges on loopback, and the log, which never has an identifier."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from tests.dicom_files import ROOT
from tests.servers.edge import BUCKET, Objects
from tests.servers.moto import moto_server, reset_moto

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def endpoint() -> Iterator[str]:
    """Yield the endpoint of S3."""
    with pytest.MonkeyPatch.context() as patch, moto_server() as url:
        patch.setenv("AWS_ACCESS_KEY_ID", "test")
        patch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        yield url


@pytest.fixture
def objects(endpoint) -> Objects:
    """Return the objects of an empty bucket."""
    reset_moto(endpoint)
    found = Objects(endpoint)
    found.client.create_bucket(Bucket=BUCKET)
    return found


@pytest.fixture(autouse=True)
def log(caplog) -> Iterator[Any]:
    """Yield the log; it has no identifier, whatever a test does."""
    caplog.set_level("INFO")
    yield caplog
    assert not [text for text in (ROOT, "Test^Number", "PID-", "ACC-") if text in caplog.text]
