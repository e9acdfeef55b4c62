"""An edge that cannot start names the field, the value and the fix, without a traceback."""

from __future__ import annotations

import socket
import subprocess
from typing import TYPE_CHECKING, Any

import pytest
from typer.testing import CliRunner

from airlock_edge.__main__ import app
from airlock_edge.book import Book
from airlock_edge.settings import load_settings
from airlock_edge.state_folder import hold_state_folder
from tests.servers.certificates import Authority
from tests.servers.edge import write_settings

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def refusal(folder: Path, *command: str, **changes: Any) -> str:
    path = write_settings(folder, "http://127.0.0.1:9", **changes)
    result = CliRunner().invoke(app, [*(command or ("run",)), str(path)])
    assert result.exit_code == 1, result.output
    assert isinstance(result.exception, SystemExit)  # and nothing that Python would print as a traceback
    return result.output.splitlines()[-1]


@pytest.fixture
def taken() -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_a_state_folder_in_use(tmp_path):
    with hold_state_folder(load_settings(write_settings(tmp_path, "http://127.0.0.1:9")).state):
        said = refusal(tmp_path)
    assert said.startswith(f"wrong: state: another edge uses {tmp_path}/state: stop it, or give")


def test_a_state_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    said = refusal(tmp_path, state=f"{tmp_path}/file/state")
    assert said == f"wrong: state: {tmp_path}/file/state cannot be used (Not a directory): give it to the edge's user"


def test_a_book_that_is_none(tmp_path):
    (tmp_path / "state").mkdir()
    (tmp_path / "state/book.sqlite").write_text("not a database" * 100)
    for command in ("run", "uncommitted"):
        assert "book.sqlite cannot be opened (file is not a database): give" in refusal(tmp_path, command)


def test_a_port_in_use(tmp_path, taken):
    said = refusal(tmp_path, listen={"address": "127.0.0.1", "port": taken})
    assert f"listen: 127.0.0.1 port {taken} cannot be opened (Address already in use): stop the program" in said


def test_an_address_of_another_machine(tmp_path):
    said = refusal(tmp_path, listen={"address": "192.0.2.1", "port": 0})
    assert "listen: 192.0.2.1 port 0 cannot be opened" in said
    assert "write an address of this machine" in said


def test_a_port_of_the_metrics_in_use(tmp_path, taken):
    said = refusal(tmp_path, metrics_port=taken)
    assert said.startswith(f"wrong: metrics_port: port {taken} cannot be opened (Address already in use)")


def test_certificates(tmp_path):
    authority = Authority(tmp_path, "hospital")
    own, other = authority.issue("edge"), authority.issue("other")
    tls = {"certificate": own.certificate, "key": own.key, "client_authorities": authority.certificate}

    def refuse(**changes: Path) -> str:
        files = {name: str(path) for name, path in (tls | changes).items()}
        return refusal(tmp_path, listen={"address": "127.0.0.1", "port": 0, "tls": files})

    assert "listen.tls: " in (said := refuse(key=other.key))
    assert "(key values mismatch)" in said
    assert f"listen.tls.client_authorities: {own.key} cannot be used" in refuse(client_authorities=own.key)
    encrypted = tmp_path / "encrypted.key"
    subprocess.run(
        ["openssl", "pkey", "-aes256", "-passout", "pass:secret", "-in", own.key, "-out", encrypted], check=True
    )
    assert "not encrypted" in refuse(key=encrypted)


def test_commitment_requests_that_cannot_be_read_are_named_by_uncommitted(tmp_path):
    (tmp_path / "state").mkdir()
    Book(tmp_path / "state").close()
    (tmp_path / "state/commitment.sqlite").write_text("not a database" * 100)
    assert "state: a database cannot be used (file is not a database): give" in refusal(tmp_path, "uncommitted")


def test_uncommitted_makes_no_book_of_another_user(tmp_path):
    assert "has no book.sqlite: correct the path, or start the edge first" in refusal(tmp_path, "uncommitted")
    assert not (tmp_path / "state").exists()
