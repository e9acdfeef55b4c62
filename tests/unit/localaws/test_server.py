"""Starting and stopping: the command line and the context manager."""

from __future__ import annotations

import logging
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from typing import TYPE_CHECKING

import pytest

from localaws.server import bind_listener, is_loopback, serve, uvicorn_config
from localaws.settings import Settings

if TYPE_CHECKING:
    from pathlib import Path


def test_it_answers_inside_the_block_and_not_after_it() -> None:
    with serve() as url, urllib.request.urlopen(f"{url}/_localaws/health", timeout=5) as answer:
        assert answer.status == 200
    with pytest.raises(urllib.error.URLError):
        urllib.request.urlopen(f"{url}/_localaws/health", timeout=5)


def test_several_run_side_by_side() -> None:
    with serve() as first, serve() as second:
        assert first != second


def test_a_taken_port_is_an_error_that_names_it(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(RuntimeError, match=str(port)), serve(Settings(port=port, state=tmp_path / "x.db")):
            pass


def test_a_free_port_is_known_before_the_application_is_built(tmp_path: Path) -> None:
    settings, listener = bind_listener(Settings(port=0, state=tmp_path / "x.db"))
    with listener:
        assert listener.getsockname() == ("127.0.0.1", settings.port)
        assert settings.base_url == f"http://127.0.0.1:{settings.port}"


def test_an_address_of_another_machine_cannot_be_bound(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="assign"):
        bind_listener(Settings(host="192.0.2.1", port=0, state=tmp_path / "x.db"))


def test_an_address_beyond_loopback_is_warned_about(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING, logger="localaws"):
        uvicorn_config(Settings(host="127.0.0.1", state=tmp_path / "x.db"))
        assert caplog.text == ""
        uvicorn_config(Settings(host="0.0.0.0", state=tmp_path / "x.db"))
    assert "checks no credentials" in caplog.text


@pytest.mark.parametrize(
    ("host", "expected"), [("127.0.0.1", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("box", False)]
)
def test_loopback_is_known_when_seen(host: str, expected: bool) -> None:
    assert is_loopback(host) is expected


def test_the_command_names_a_taken_port(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        command = [sys.executable, "-m", "localaws", "--port", port, "--state", str(tmp_path / "x.db")]
        ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 3
    assert f"Port {port} cannot be used" in ended.stderr
    assert "LOCALAWS_PORT" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_command_names_a_wrong_flag() -> None:
    command = [sys.executable, "-m", "localaws", "--datastore", "short:name"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert ended.returncode == 2
    assert "--datastore" in ended.stderr
    assert "Traceback" not in ended.stderr
