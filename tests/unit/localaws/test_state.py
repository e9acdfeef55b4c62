"""What is on disk after a transaction, and what is not."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from localaws.errors import AwsError
from localaws.state import State, StateError
from localaws.tokens import find_replayed, remember_token

if TYPE_CHECKING:
    from pathlib import Path

TABLE = "CREATE TABLE IF NOT EXISTS thing (name TEXT)"


def names(state: State) -> list[str]:
    with state.read() as connection:
        return [row["name"] for row in connection.execute("SELECT name FROM thing")]


def interrupted_write(state: State) -> None:
    with state.write() as connection:
        connection.execute("INSERT INTO thing VALUES ('half')")
        raise KeyboardInterrupt


def test_a_committed_row_is_there_after_reopening(tmp_path: Path) -> None:
    for name in ("one", "two"):
        with closing(State(tmp_path / "folder" / "state.db", [TABLE])) as state, state.write() as connection:
            connection.execute("INSERT INTO thing VALUES (?)", (name,))
    with closing(State(tmp_path / "folder" / "state.db", [TABLE])) as state:
        assert names(state) == ["one", "two"]


def test_an_exception_takes_everything_back(tmp_path: Path) -> None:
    with closing(State(tmp_path / "state.db", [TABLE])) as state:
        with pytest.raises(KeyboardInterrupt):
            interrupted_write(state)
        assert names(state) == []


def test_a_client_token_stands_for_one_request(tmp_path: Path) -> None:
    request = {"clientToken": "t", "jobName": "a"}
    with closing(State(tmp_path / "state.db", [])) as state, state.write() as connection:
        assert find_replayed(connection, "Start", request) is None
        remember_token(connection, "Start", request, "job-1")
        assert find_replayed(connection, "Start", dict(reversed(request.items()))) == "job-1"
        assert find_replayed(connection, "Create", request) is None
        with pytest.raises(AwsError) as caught:
            find_replayed(connection, "Start", {**request, "jobName": "b"})
        assert caught.value.code == "ConflictException"


def test_a_file_of_another_version_is_refused_with_the_fix(tmp_path: Path) -> None:
    State(tmp_path / "state.db", ["CREATE TABLE IF NOT EXISTS thing (a TEXT)"]).close()
    State(tmp_path / "state.db", ["CREATE TABLE IF NOT EXISTS thing (a TEXT)"]).close()
    with pytest.raises(StateError, match=r"state\.db was made by another version of localaws: remove it"):
        State(tmp_path / "state.db", ["CREATE TABLE IF NOT EXISTS thing (a TEXT, b TEXT)"])
