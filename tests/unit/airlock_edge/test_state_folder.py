"""The state folder is one edge's own."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from airlock_edge.node import Node
from airlock_edge.settings import load_settings
from airlock_edge.spool import SpoolFolderError
from airlock_edge.state_folder import hold_state_folder
from tests.servers.edge import write_settings

if TYPE_CHECKING:
    from pathlib import Path


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_a_second_edge_is_refused_before_it_touches_what_the_first_receives(tmp_path):
    path = write_settings(tmp_path, "http://127.0.0.1:9")
    settings = load_settings(path)
    incoming = settings.state / "incoming"
    incoming.mkdir(parents=True)
    with hold_state_folder(settings.state):
        (incoming / "1-1.part").write_bytes(b"half")
        with pytest.raises(SpoolFolderError, match="another edge uses"), Node(settings, path):
            pass
        assert (incoming / "1-1.part").read_bytes() == b"half"


def test_a_folder_is_free_again_when_its_edge_was_killed(tmp_path):
    script = (
        "import os, sys; from pathlib import Path; from airlock_edge.state_folder import hold_state_folder\n"
        "with hold_state_folder(Path(sys.argv[1])): os.kill(os.getpid(), 9)"
    )
    code = subprocess.run([sys.executable, "-c", script, tmp_path], check=False).returncode
    assert code == -9
    with hold_state_folder(tmp_path):
        pass


def test_nobody_else_may_look_into_it(tmp_path):
    old = os.umask(0o022)
    try:
        with hold_state_folder(tmp_path / "new"):
            assert mode_of(tmp_path / "new") == 0o700
            assert mode_of(tmp_path / "new" / "lock") == 0o600
        (tmp_path / "made").mkdir(mode=0o755)
        with hold_state_folder(tmp_path / "made"):
            assert mode_of(tmp_path / "made") == 0o700
    finally:
        os.umask(old)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(SpoolFolderError, match="cannot be used"), hold_state_folder(tmp_path / "file" / "state"):
        pass


def test_a_folder_that_cannot_be_locked_is_refused(tmp_path, monkeypatch):
    def refuse(*_: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("airlock_edge.state_folder.fcntl.flock", refuse)
    with pytest.raises(SpoolFolderError, match="cannot be locked"), hold_state_folder(tmp_path):
        pass
