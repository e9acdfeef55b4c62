"""The commands of the runbooks exist: somebody in a hurry copies them."""

from __future__ import annotations

import re
import shlex
import sqlite3
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest
import typer.main
from airflow.cli.cli_parser import get_parser

from airlock.ledger.tables import metadata
from airlock_cli.app import app
from tests.markdown import DOCS, ROOT, blocks
from tests.servers.ledger import new_ledger

if TYPE_CHECKING:
    from pathlib import Path

PAGES = [page for page in DOCS if page.startswith("docs/runbooks/")]


def commands(start: str) -> list[str]:
    """Return the commands of all runbooks that begin so, in blocks and in the text."""
    found = []
    for page in PAGES:
        lines = [line.strip() for block in blocks(page) for line in block.text.splitlines()]
        prose = re.sub(
            r"^ *```.*?^ *```$", "", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL | re.MULTILINE
        )
        spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]
        found += [command for command in (*lines, *spans) if command.startswith(start)]
    assert len(found) > 5
    return sorted(set(found))


@pytest.mark.parametrize("command", commands("airlock "))
def test_airlock_has_the_command_and_its_options(command: str) -> None:
    found: Any = typer.main.get_command(app)
    words = shlex.split(command)[1:]
    while words and words[0] in getattr(found, "commands", ()):
        found = found.commands[words.pop(0)]
    assert not hasattr(found, "commands") or (found.invoke_without_command and not words), (
        f"airlock has no command {words}"
    )
    known = {option for parameter in found.params for option in (*parameter.opts, *parameter.secondary_opts)}
    assert [word for word in words if word.startswith("--") and word not in known] == []


@pytest.mark.parametrize("command", commands("airflow "))
def test_airflow_knows_the_command(command: str) -> None:
    words = shlex.split(command)[1:]
    if words == ["db", "clean"]:  # named, not to be called so
        return
    assert get_parser().parse_args(words).func


def test_every_query_of_the_ledger_runs(tmp_path: Path) -> None:
    found = [
        query
        for page in PAGES
        for query in re.findall(r"\bSELECT [^`;]+", (ROOT / page).read_text(encoding="utf-8"))
        if "pg_" not in query  # of PostgreSQL's own tables
    ]
    assert len(found) > 5
    new_ledger(tmp_path / "ledger.db")
    with closing(sqlite3.connect(tmp_path / "ledger.db")) as ledger:
        for query in found:
            assert ledger.execute(query).fetchall() in ([], [(0,)], [(None,)]), query


def test_every_table_that_a_query_names_is_in_the_ledger() -> None:
    queries = [block.text for page in PAGES for block in blocks(page) if block.language == "sql"]
    named = {name for query in queries for name in re.findall(r"\b(?:FROM|JOIN)\s+(\w+)", query)}
    assert {"runs", "arrival_states", "outbox"} <= named
    assert named - metadata.tables.keys() - {"arrival_states", "pg_class", "pg_stat_activity"} == set()
