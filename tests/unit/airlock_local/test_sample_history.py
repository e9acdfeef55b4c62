"""The invented history agrees with itself: reports, totals and rows say the same."""

from __future__ import annotations

import json
from collections import Counter
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import create_engine, func, select

from airlock.ledger import Ledger
from airlock.ledger.arrival_states import arrival_states as states
from airlock.ledger.tables import run_totals, runs
from airlock_local.sample.history import ARCHIVE, NIGHTLY, main, write_history
from tests.servers.ledger import new_ledger

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

NOW = datetime(2026, 11, 30, 6, tzinfo=UTC)


def test_reports_totals_and_rows_agree(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/ledger.db"
    write_history(url, NOW, nights=26)
    engine = create_engine(url)
    with engine.connect() as connection:
        sums = select(run_totals.c.run_key, run_totals.c.disposition, func.sum(run_totals.c.arrivals))
        totals: dict[str, Counter[str]] = {}
        for key, word, number in connection.execute(sums.group_by(run_totals.c.run_key, run_totals.c.disposition)):
            totals.setdefault(key, Counter())[word] = number
        reports = [
            json.loads(text) for text in connection.scalars(select(runs.c.report).where(runs.c.report.is_not(None)))
        ]
        found = connection.execute(select(states.c.disposition, func.count()).group_by(states.c.disposition))
        rows = {word: number for word, number in found}  # noqa: C416  # rows, not tuples
    engine.dispose()
    stopped = [report for report in reports if "brake" in report]
    assert (len(reports), len(stopped)) == (52, 1)
    for report in reports:
        assert sum(report["verdicts"].values()) == report["arrivals"] == sum(report["dispositions"].values())
        assert sum(report["completeness"].values()) == sum(report["patient_match"].values())
        assert sum(report["completeness"].values()) == report["studies"]["released"]
        assert sum(report["unattributed"]["sites"].values()) == report["unattributed"]["files"]
        assert report in stopped or totals[report["run_key"]] == Counter(report["dispositions"])
    for word in ("held", "quarantined"):
        assert rows[word] == sum(one[word] for one in totals.values())


def test_the_same_seed_makes_the_same_history(tmp_path: Path) -> None:
    texts = []
    for name in ("a", "b"):
        write_history(f"sqlite:///{tmp_path}/{name}.db", NOW, nights=2)
        engine = create_engine(f"sqlite:///{tmp_path}/{name}.db")
        with engine.connect() as connection:
            texts.append(list(connection.scalars(select(runs.c.report).order_by(runs.c.run_key))))
        engine.dispose()
    assert texts[0] == texts[1]


def test_the_command_says_what_it_wrote(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"sqlite:///{tmp_path}/ledger.db", "--nights", "2"]) == 0
    assert capsys.readouterr().out == f"2 nights of {NIGHTLY} and {ARCHIVE} are written.\n"


def test_a_ledger_that_has_runs_is_refused_and_left_as_it_is(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    url = new_ledger(tmp_path / "ledger.db")
    with Ledger.open(url) as ledger:
        ledger.open_run("a", NIGHTLY, "scheduled__a", None)
        assert main([url, "--nights", "2"]) == 1
        assert capsys.readouterr().err == "The ledger is not empty: it has runs. Name a new one.\n"
        assert ledger.pipelines() == {NIGHTLY}
        assert ledger.latest_census({NIGHTLY, ARCHIVE}) == []
