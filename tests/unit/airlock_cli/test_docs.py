"""docs/cli.md names every command, every option and every exit status."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import typer.main

from airlock_cli import settings
from airlock_cli.app import app
from airlock_cli.errors import Status

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = (Path(__file__).parents[3] / "docs/cli.md").read_text(encoding="utf-8")


def commands(group: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for each, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from commands(command, f"{name}{each} ")
        else:
            yield f"{name}{each}", command


COMMANDS = dict(commands(typer.main.get_command(app)))


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_is_named_with_all_its_options(name: str) -> None:
    group, _, last = name.rpartition(" ")
    assert f"### airlock {name}" in PAGE or (f"### airlock {group} " in PAGE and f"{group} {last}" in PAGE)
    options = {option for param in COMMANDS[name].params for option in (*param.opts, *param.secondary_opts)}
    assert [option for option in options if option.startswith("--") and f"`{option}" not in PAGE] == []


def test_the_commands_are_those_of_the_design() -> None:
    wanted = {"doctor", "plan", "run", "report", "where", "held", "redrive", "sweep", "reconcile"}
    wanted |= {"ledger upgrade", "ledger check", "ledger release", "ledger requeue", "pipelines check", "pipelines new"}
    wanted |= {"ledger adopt", "ledger copy", "ledger forget", "ledger rebuild", "validate", "sign-off"}
    wanted |= {f"patient {name}" for name in ("questions", "show", "answer", "split")}
    wanted |= {f"review {name}" for name in ("list", "show", "answer")}
    assert wanted == COMMANDS.keys()


@pytest.mark.parametrize("status", Status)
def test_an_exit_status_is_explained(status: Status) -> None:
    assert f"\n| {status.value} | " in PAGE


def test_every_variable_is_named() -> None:
    names = [value for name, value in vars(settings).items() if name.isupper() and str(value).startswith("AIRLOCK_")]
    assert [name for name in names if f"`{name}`" not in PAGE] == []
    assert len(names) == 7
