"""Real servers for the destinations: moto's SQS, SNS and EventBridge, and an HTTP endpoint."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.servers.moto import reset_moto
from tests.servers.webhook import Endpoint, webhook_endpoint
from tests.unit.airlock.destinations.aws import Aws

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture
def aws(s3_server: str) -> Aws:
    reset_moto(s3_server)
    return Aws(s3_server)


@pytest.fixture
def endpoint() -> Iterator[Endpoint]:
    with webhook_endpoint() as found:
        yield found
