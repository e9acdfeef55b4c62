from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.unit.localaws.healthlake.rest_plane import Plane

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session")
def open_plane(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Plane]:
    plane = Plane.open(tmp_path_factory.mktemp("fhir"))
    yield plane
    plane.state.close()


@pytest.fixture
def plane(open_plane: Plane) -> Plane:
    """The FHIR REST plane of an empty data store."""
    return open_plane.other_store()
