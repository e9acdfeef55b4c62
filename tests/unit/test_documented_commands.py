"""The commands that the README, CONTRIBUTING.md and docs/cli.md name can be given as they stand there."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tomllib

import pytest
from airflow.cli.cli_parser import get_parser

from airlock.ledger.__main__ import main
from tests.documented_commands import FORM_ONLY, HERE, ON_THE_STACK, PAGES
from tests.markdown import ROOT, commands

MAKE = sorted(command for command in FORM_ONLY if command.startswith("make "))
PIPELINES = {path.stem for path in (ROOT / "include/pipelines").glob("*.yaml")}


def make(*arguments: str) -> str:
    """Return what make prints; nothing of a make that runs the tests is handed on."""
    environment = {name: value for name, value in os.environ.items() if "MAKE" not in name and name != "MFLAGS"}
    result = subprocess.run(
        ["make", *arguments], check=False, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_every_command_is_tried() -> None:
    found = {re.sub(r"\b[12](\.\d+){2,}", "UID", command) for page in PAGES for command in commands(page)}
    assert found == ON_THE_STACK | HERE | FORM_ONLY.keys()


@pytest.mark.parametrize("command", MAKE)
def test_make_knows_the_command(command: str) -> None:
    words = shlex.split(command.replace("<name>", "sample"))[1:]
    assert make("--dry-run", *words)
    assert {word.partition("=")[2] for word in words if word.startswith("PIPELINE=")} <= PIPELINES
    assert [word for word in words if "=" in word and not word.startswith(("SOURCE=", "PIPELINE=", "CMD="))] == []


@pytest.mark.parametrize("command", [command for command in MAKE if command.startswith("make airflow ")])
def test_airflow_knows_the_command(command: str) -> None:
    (words,) = (word.removeprefix("CMD=") for word in shlex.split(command) if word.startswith("CMD="))
    assert get_parser().parse_args(shlex.split(words)).func


def test_make_help_names_every_documented_target() -> None:
    told = make("help")
    assert [
        command for command in FORM_ONLY if command.startswith("make ") and " ".join(command.split()[:2]) not in told
    ] == []


def test_the_ledgers_own_command_line_is_there(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="0"):
        main(["--help"])
    assert capsys.readouterr().out.startswith("usage: python -m airlock.ledger")


def test_an_installed_package_brings_the_command_airlock() -> None:
    """``pip install --no-deps .`` makes it."""
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    assert scripts == {"airlock": "airlock_cli.__main__:main", "airlock-edge": "airlock_edge.__main__:main"}
