"""The log settings of the ledger's servers on a real PostgreSQL: a refused statement leaves none of its values."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import psycopg2  # type: ignore[import-untyped]
import psycopg2.errors
import pytest
import yaml

from airlock_local.settings import ROOT
from tests.servers.postgres import found_programs, running, shipped_programs

if TYPE_CHECKING:
    from collections.abc import Mapping

pytestmark = pytest.mark.slow
VALUE = "MUELLER^HANS"


def settings_of_compose() -> Mapping[str, str]:
    services = yaml.safe_load((ROOT / "docker-compose.yaml").read_text())["services"]
    return dict(re.findall(r"^-c(log_\w+)=(.+)$", "\n".join(services["ledger-db"]["command"]), re.MULTILINE))


def settings_of_cloudformation() -> Mapping[str, str]:
    text = (ROOT / "deploy/cloudformation/ledger.yaml").read_text()
    return dict(re.findall(r"^ +(log_\w+): (\w+)", text, re.MULTILINE))


@pytest.mark.parametrize("settings", [settings_of_compose(), settings_of_cloudformation()], ids=["compose", "stack"])
def test_a_refused_statement_leaves_no_value_in_the_log(settings: Mapping[str, str]) -> None:
    programs = found_programs() or shipped_programs()
    assert programs is not None
    with running(programs, **settings) as server:
        server.execute("CREATE TABLE patients (name text PRIMARY KEY)")
        # psycopg2 writes the values into the text of the statement, as it does for the ledger.
        connection = psycopg2.connect(server.url("postgres").replace("+psycopg2", ""))
        with connection.cursor() as cursor:
            cursor.execute("INSERT INTO patients VALUES (%s)", (VALUE,))
            with pytest.raises(psycopg2.errors.UniqueViolation):
                cursor.execute("INSERT INTO patients VALUES (%s)", (VALUE,))
        connection.close()
        log = (server.folder / "log").read_text()
    assert "duplicate key value" in log
    assert VALUE not in log
