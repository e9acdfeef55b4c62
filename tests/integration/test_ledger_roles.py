"""The roles of deploy/compose/ledger on a real PostgreSQL: who may change what of the ledger."""

from __future__ import annotations

import os
import subprocess
from typing import TYPE_CHECKING

import psycopg2  # type: ignore[import-untyped]
import psycopg2.errors
import pytest

from airlock.ledger.ledger import Ledger
from airlock.ledger.schema import upgrade
from airlock_local.settings import ROOT
from tests.servers.postgres import Postgres, found_programs, postgres_server, shipped_programs

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["postgres_server"]
pytestmark = pytest.mark.slow
FOLDER = ROOT / "deploy/compose/ledger"
INSERT_ONLY = ("decisions", "notes")


def psql(server: Postgres, file: str, user: str, database: str) -> None:
    programs = found_programs() or shipped_programs()
    assert programs is not None
    passwords = {f"LEDGER_{role}_PASSWORD": f"it's {role}" for role in ("OWNER", "WRITER", "READER")}
    command = [programs / "psql", "-Xq", "-h", server.folder, "-U", user, "-d", database, "-f", FOLDER / file]
    done = subprocess.run(command, check=False, env=os.environ | passwords, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.fixture(scope="module")
def server(postgres_server: Postgres) -> Iterator[Postgres]:
    """The server as Compose prepares it: the roles, then the tables, then the rights; twice, as after an upgrade."""
    psql(postgres_server, "roles.sql", "airlock", "postgres")
    for _ in range(2):
        upgrade(url(postgres_server, "owner"))
        psql(postgres_server, "rights.sql", "airlock_owner", "ledger")
    yield postgres_server
    postgres_server.drop_database("ledger")
    for role in ("owner", "writer", "reader"):
        postgres_server.execute(f"DROP ROLE airlock_{role}")


def url(server: Postgres, role: str) -> str:
    return f"postgresql://airlock_{role}@/ledger?host={server.folder}"


def tables(server: Postgres) -> list[str]:
    with psycopg2.connect(url(server, "reader")) as connection, connection.cursor() as cursor:
        cursor.execute("SELECT tablename FROM pg_tables WHERE schemaname = 'public' ORDER BY 1")
        return [name for (name,) in cursor]


def may(server: Postgres, role: str, statement: str) -> bool:
    """Return whether the role has the right to a statement, which changes no row."""
    with psycopg2.connect(url(server, role)) as connection, connection.cursor() as cursor:
        try:
            cursor.execute(statement)
        except psycopg2.errors.InsufficientPrivilege:
            return False
        finally:
            connection.rollback()
    return True


def test_no_role_is_a_superuser_and_the_tables_are_the_owner_s(server: Postgres) -> None:
    with psycopg2.connect(url(server, "reader")) as connection, connection.cursor() as cursor:
        cursor.execute(
            "SELECT bool_or(rolsuper OR rolcreaterole OR rolcreatedb) FROM pg_roles WHERE rolname ~ '^airlock_'"
        )
        assert cursor.fetchone() == (False,)
        cursor.execute("SELECT DISTINCT tableowner FROM pg_tables WHERE schemaname = 'public'")
        assert cursor.fetchall() == [("airlock_owner",)]


@pytest.mark.parametrize("change", ["UPDATE {} SET {column} = {column}", "DELETE FROM {}"])
def test_a_writer_changes_all_rows_but_those_of_people_s_decisions(server: Postgres, change: str) -> None:
    refused = set()
    for name in tables(server):
        with psycopg2.connect(url(server, "owner")) as connection, connection.cursor() as cursor:
            cursor.execute(f"SELECT * FROM {name} LIMIT 0")
            column = cursor.description[0].name
        never = f"{change.format(name, column=column)} WHERE false"
        if "UPDATE" in change and name in INSERT_ONLY:
            never = never.replace(column, "pipeline")  # the number is generated
        refused |= set() if may(server, "writer", never) else {name}
    assert refused == {*INSERT_ONLY, "airlock_ledger_version"}


def test_a_writer_adds_decisions_and_notes(server: Postgres) -> None:
    assert may(server, "writer", "INSERT INTO decisions SELECT * FROM decisions WHERE false")
    assert may(server, "writer", "INSERT INTO notes SELECT * FROM notes WHERE false")


def test_a_writer_empties_and_changes_no_table_and_makes_only_temporary_ones(server: Postgres) -> None:
    for statement in (
        "TRUNCATE words",
        "DROP TABLE notes",
        "ALTER TABLE runs ADD COLUMN x int",
        "CREATE TABLE x (y int)",
    ):
        assert not may(server, "writer", statement), statement
        assert not may(server, "reader", statement), statement
    assert may(server, "writer", "CREATE TEMPORARY TABLE x (y int)")


def test_a_reader_reads_every_table_and_writes_none(server: Postgres) -> None:
    names = tables(server)
    assert len(names) > 30
    for name in names:
        assert may(server, "reader", f"SELECT * FROM {name} LIMIT 1")
        assert not may(server, "reader", f"DELETE FROM {name} WHERE false")
        assert not may(server, "reader", f"INSERT INTO {name} SELECT * FROM {name} WHERE false")


def test_a_table_that_a_later_upgrade_adds_can_be_used_at_once(server: Postgres) -> None:
    with psycopg2.connect(url(server, "owner")) as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE added (number serial, word text)")
    try:
        assert may(server, "writer", "INSERT INTO added (word) VALUES ('x')")
        assert may(server, "reader", "SELECT * FROM added")
        assert not may(server, "reader", "DELETE FROM added")
    finally:
        with psycopg2.connect(url(server, "owner")) as connection, connection.cursor() as cursor:
            cursor.execute("DROP TABLE added")


@pytest.mark.parametrize("role", ["writer", "reader"])
def test_airlock_opens_the_ledger_as_a_role_that_does_not_own_it(server: Postgres, role: str) -> None:
    with Ledger.open(url(server, role)) as ledger:
        assert ledger.schema
