"""Both ways to a PostgreSQL server: the machine's own, and the wheel's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import psycopg2  # type: ignore[import-untyped]
import pytest

from tests.servers.postgres import found_programs, running, shipped_programs

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


@pytest.mark.parametrize("programs", [found_programs, shipped_programs])
def test_a_server_starts_without_root_and_leaves_nothing_behind(programs: Callable[[], Path | None]) -> None:
    folder = programs()
    if folder is None:
        pytest.skip("this machine has no such PostgreSQL")
    with running(folder) as server:
        assert (server.folder / "data").stat().st_uid != 0
        server.drop_database(server.create_database())
    assert not server.folder.exists()
    with pytest.raises(psycopg2.OperationalError):
        server.execute("SELECT 1")
