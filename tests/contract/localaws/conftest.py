from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.localaws.endpoint import ON_AWS, Endpoint, aws_endpoint, local_endpoint
from tests.contract.localaws.healthlake import HealthLakeEndpoint, healthlake_of

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="package")
def endpoint() -> Iterator[Endpoint]:
    """The service under test."""
    with aws_endpoint() if ON_AWS else local_endpoint() as found:
        yield found


@pytest.fixture
def faulty(endpoint: Endpoint) -> Iterator[Endpoint]:
    """The service under test with fault switches, all off before and after."""
    if ON_AWS:
        pytest.skip("AWS has no fault switches")
    endpoint.faults()
    yield endpoint
    endpoint.faults()


@pytest.fixture(scope="package")
def healthlake(endpoint: Endpoint) -> HealthLakeEndpoint:
    """HealthLake of the service under test, with a data store."""
    return healthlake_of(endpoint)


@pytest.fixture
def ill(healthlake: HealthLakeEndpoint, faulty: Endpoint) -> HealthLakeEndpoint:
    """HealthLake with fault switches, all off before and after."""
    return healthlake
