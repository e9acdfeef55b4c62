from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.contract.localaws.endpoint import ON_AWS, Endpoint, aws_endpoint, local_endpoint

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
