"""What the doctor asks of a ledger, on SQLite and on a real PostgreSQL."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import make_url

from airlock.ledger import LedgerError, LedgerSchemaError, LedgerUnreachableError
from airlock.ledger.examination import (
    can_others_read,
    is_encrypted,
    read_address,
    read_privileges,
    read_schema,
    read_time,
)
from airlock.ledger.schema import REVISION
from tests.servers.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers.postgres import Postgres


def test_a_ledger_has_a_time_and_a_schema(url: str) -> None:
    assert abs(read_time(url) - datetime.now(UTC)) < timedelta(minutes=1)
    assert read_schema(url) == REVISION


def test_a_database_without_a_ledger_is_told_from_one_that_does_not_answer(empty_url: str) -> None:
    with pytest.raises(LedgerSchemaError, match="ledger"):
        read_schema(empty_url)
    with pytest.raises(LedgerUnreachableError):
        read_time(f"postgresql://airlock@127.0.0.1:{free_port()}/ledger")


@pytest.mark.parametrize(
    ("url", "is_near", "is_verified"),
    [
        ("postgresql://a@localhost/l", True, False),
        ("postgresql://a@/l?host=/run/postgresql", True, False),
        ("postgresql://a@db.example/l", False, True),
        ("postgresql://a@/l?host=db.example", False, True),
        ("postgresql://a@db.example/l?sslmode=require", False, False),
        ("postgresql://a@db.example/l?sslmode=verify-full&sslrootcert=/ca.pem", False, True),
        ("sqlite:////folder/ledger.db", True, False),
    ],
)
def test_an_address_says_whether_a_network_is_between_and_the_server_is_verified(
    url: str, is_near: bool, is_verified: bool
) -> None:
    found = read_address(url)
    assert (found.is_on_this_machine, found.is_verified) == (is_near, is_verified)


def test_a_wrong_address_is_refused() -> None:
    with pytest.raises(LedgerError, match="cannot be kept in 'mysql'"):
        read_address("mysql://a@b/c")


def test_a_connection_by_a_socket_is_not_encrypted(postgres_ledger: str) -> None:
    assert not is_encrypted(postgres_ledger)


class TestPrivilegesOnPostgres:
    @pytest.fixture
    def writer(self, postgres_server: Postgres, postgres_ledger: str) -> Iterator[str]:
        """The address of the ledger for a role that may insert into the decision log and change everything else."""
        name = make_url(postgres_ledger).database
        grants = (
            "CREATE ROLE writer LOGIN; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO writer; "
            "REVOKE UPDATE, DELETE ON decisions FROM writer"
        )
        postgres_server.execute(grants, name)
        yield str(make_url(postgres_ledger).set(username="writer").render_as_string(hide_password=False))
        postgres_server.execute("DROP OWNED BY writer; DROP ROLE writer", name)

    def test_the_role_that_made_the_ledger_lacks_nothing_and_is_a_superuser(self, postgres_ledger: str) -> None:
        found = read_privileges(postgres_ledger)
        assert (found.missing, found.is_superuser, found.can_rewrite_decisions) == ((), True, True)

    def test_a_role_that_only_inserts_decisions_lacks_nothing(self, writer: str) -> None:
        found = read_privileges(writer)
        assert (found.missing, found.is_superuser, found.can_rewrite_decisions) == ((), False, False)

    def test_each_missing_privilege_is_named(
        self, writer: str, postgres_server: Postgres, postgres_ledger: str
    ) -> None:
        revoked = "REVOKE INSERT, DELETE ON jobs FROM writer; REVOKE INSERT ON decisions FROM writer"
        postgres_server.execute(revoked, make_url(postgres_ledger).database)
        assert read_privileges(writer).missing == ("INSERT on decisions", "DELETE on jobs", "INSERT on jobs")


def test_a_file_that_others_can_read_is_told(tmp_path: Path) -> None:
    file = tmp_path / "ledger.db"
    file.touch(mode=0o600)
    assert not can_others_read(file)
    file.chmod(0o640)
    assert can_others_read(file)
