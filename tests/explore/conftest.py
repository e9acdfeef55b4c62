"""One world for all tests of the explorer; it is emptied before each history."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.explore.world import World

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    with World() as made:
        yield made
