"""Across a network the ledger's server proves who it is, if the address does not say otherwise."""

from __future__ import annotations

import shutil
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg2
import pytest

from airlock.ledger import LedgerUnreachableError
from airlock.ledger.examination import is_encrypted, read_address, read_time
from tests.servers.network import certify_loopback
from tests.servers.ports import free_port
from tests.servers.postgres import USER, Postgres, found_programs, running, shipped_programs
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator

HOST = "db.example"


@dataclass(frozen=True)
class Server:
    """A server on loopback that is another host by its name."""

    port: int
    authority: Path

    def url(self, host: str = HOST, **query: str) -> str:
        more = "".join(f"&{name}={value}" for name, value in query.items())
        return f"postgresql://{USER}@{host}:{self.port}/postgres?hostaddr=127.0.0.1{more}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that takes connections with TLS and without."""
    folder = tmp_path_factory.mktemp("tls")
    authority, _ = certify_loopback(folder, HOST)
    programs = found_programs() or shipped_programs()
    assert programs is not None
    with running(programs, listen_addresses="127.0.0.1", port=str(port := free_port())) as postgres:
        pair = Path(shutil.copy(folder / "server.pem", postgres.folder))
        pair.chmod(0o600)
        shutil.chown(pair, postgres.folder.stat().st_uid)
        for setting in (f"ssl_cert_file = '{pair}'", f"ssl_key_file = '{pair}'", "ssl = on"):
            postgres.execute(f"ALTER SYSTEM SET {setting}")
        postgres.execute("SELECT pg_reload_conf()")
        until("it has read its settings", lambda: has_tls(postgres))
        yield Server(port, authority)


def has_tls(postgres: Postgres) -> bool:
    """Return whether a server offers TLS: it reads its settings some time after it was asked to."""
    made = psycopg2.connect(host=str(postgres.folder), port=postgres.port, user=USER, dbname="postgres")
    with closing(made), made.cursor() as cursor:
        cursor.execute("SHOW ssl")
        return bool(cursor.fetchone() == ("on",))


@pytest.fixture(autouse=True)
def _no_other_word(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PGSSLMODE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_server_that_proves_who_it_is_is_taken(server: Server) -> None:
    assert is_encrypted(server.url(sslrootcert=str(server.authority)))


def test_one_of_an_unknown_authority_is_refused_and_the_error_says_what_to_write(
    server: Server, tmp_path: Path
) -> None:
    other, _ = certify_loopback(tmp_path)
    for query in ({"sslrootcert": str(other)}, {}):
        with pytest.raises(LedgerUnreachableError, match="sslmode=verify-full&sslrootcert=FILE"):
            read_time(server.url(**query))


def test_one_of_another_name_is_refused(server: Server) -> None:
    with pytest.raises(LedgerUnreachableError, match="does not match host name"):
        read_time(server.url("other.example", sslrootcert=str(server.authority)))


def test_the_address_may_ask_for_less(server: Server) -> None:
    assert is_encrypted(server.url(sslmode="require"))
    assert not is_encrypted(server.url(sslmode="disable"))


def test_so_may_the_environment(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGSSLMODE", "disable")
    assert not is_encrypted(server.url())
    assert not read_address(server.url()).is_verified


def test_pghost_is_a_network_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGHOST", HOST)
    assert read_address(f"postgresql://{USER}@/ledger").is_verified
