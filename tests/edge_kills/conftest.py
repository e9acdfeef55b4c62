"""One S3 for all: a SeaweedFS, which outlives every kill and keeps what it has confirmed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from benchmarks.seaweed import seaweed

from tests.edge_kills.process import S3Objects

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with seaweed(tmp_path_factory.mktemp("s3"), patience=1) as server:
        S3Objects(server.endpoint, "").make_bucket()
        yield server.endpoint
