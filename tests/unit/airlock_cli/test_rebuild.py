"""``airlock ledger rebuild``."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from airlock.ledger import Ledger
from tests.unit.airlock.ledger.samples import NIGHTLY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result


@pytest.fixture
def empty(url: str, s3: Any, pipelines: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """An empty ledger, an empty workspace and the pipeline's file."""
    monkeypatch.setenv("AIRLOCK_LEDGER_URL", url)
    return s3


@pytest.mark.usefixtures("empty")
def test_a_workspace_without_runs_makes_an_empty_ledger(airlock: Callable[..., Result]) -> None:
    result = airlock("ledger", "rebuild", "--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout)["runs"] == 0
    assert "0 runs and 0 decisions have 0 entries" in result.stderr


def test_a_run_without_a_journal_is_named_by_the_exit_status_too(airlock: Callable[..., Result], empty: Any) -> None:
    where = {"Bucket": "airlock-workspace", "Key": f"runs/{NIGHTLY}/old-12345678/arrivals/index.json"}
    empty.put_object(**where, Body=b"{}")
    result = airlock("ledger", "rebuild")
    empty.delete_object(**where)
    assert result.exit_code == 1
    assert "old-12345678" in result.stdout


@pytest.mark.usefixtures("told", "s3", "pipelines")
def test_a_ledger_that_is_not_empty_is_refused(airlock: Callable[..., Result]) -> None:
    result = airlock("ledger", "rebuild")
    assert result.exit_code == 2
    assert "the ledger is not empty" in result.stderr
    assert "--onto-backup" in result.stderr


def test_a_backup_is_brought_up_to_date(airlock: Callable[..., Result], told: Ledger, s3: Any, pipelines: Path) -> None:
    result = airlock("ledger", "rebuild", "--onto-backup")
    assert result.exit_code == 0
    assert told.find_run(NIGHTLY, "a") is not None


@pytest.mark.usefixtures("empty")
def test_a_pipeline_file_that_is_wrong_is_refused(airlock: Callable[..., Result], pipelines: Path) -> None:
    (pipelines / "wrong.yaml").write_text("name: [")
    result = airlock("ledger", "rebuild")
    assert result.exit_code == 2
    assert "1 pipeline files are wrong and 1 are right" in result.stderr


@pytest.mark.usefixtures("empty")
def test_the_workspace_that_is_missing_is_named_and_its_file_can_be_corrected(
    airlock: Callable[..., Result], pipelines: Path
) -> None:
    content = yaml.safe_load((pipelines / "nightly.yaml").read_text())
    other = pipelines / "other.yaml"
    other.write_text(yaml.safe_dump(content | {"name": "other", "workspace": "s3://no-such-workspace/runs/"}))
    refused = airlock("ledger", "rebuild")
    assert refused.exit_code == 3
    assert "bucket 'no-such-workspace' cannot be listed" in refused.stderr
    other.write_text(yaml.safe_dump(content | {"name": "other"}))
    assert airlock("ledger", "rebuild").exit_code == 0


def test_a_ledger_is_upgraded_whose_rebuild_is_unfinished(airlock: Callable[..., Result], empty: Any, url: str) -> None:
    with Ledger.open(url, rebuilding=True) as ledger:
        ledger.begin_rebuild({"workspaces": [], "onto_backup": True}, "an operator")
    assert airlock("ledger", "upgrade").exit_code == 0
    refused = airlock("ledger", "check")
    assert "Continue it: airlock ledger rebuild --onto-backup" in refused.stderr
