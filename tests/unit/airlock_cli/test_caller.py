"""Who is at the terminal is the operating system's word, never the environment's."""

from __future__ import annotations

import os
import pwd
from typing import NoReturn

import pytest

from airlock_cli.caller import find_caller, list_groups


@pytest.mark.parametrize("name", ["LOGNAME", "USER", "LNAME", "USERNAME", "SUDO_USER"])
def test_a_name_of_the_environment_is_not_believed(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "somebody-else")
    assert find_caller() == pwd.getpwuid(os.getuid()).pw_name != "somebody-else"


def test_a_user_without_a_name_is_a_number_and_a_group_without_one_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def unknown(number: int) -> NoReturn:
        raise KeyError(number)

    monkeypatch.setattr("pwd.getpwuid", unknown)
    monkeypatch.setattr("grp.getgrgid", unknown)
    assert find_caller() == f"uid:{os.getuid()}"
    assert list_groups() == set()
