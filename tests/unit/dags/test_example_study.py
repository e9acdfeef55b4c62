from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

from airflow.sdk import Asset, PartitionedAssetTimetable

import example_study

if TYPE_CHECKING:
    import pytest


def test_a_run_is_started_by_each_partition_of_the_asset() -> None:
    timetable = example_study.dag.timetable
    assert isinstance(timetable, PartitionedAssetTimetable)
    assert timetable.asset_condition == Asset(example_study.ASSET)


def test_it_comes_paused() -> None:
    assert example_study.dag.is_paused_upon_creation is True


def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(example_study, "dag")
    monkeypatch.setenv("AIRLOCK_EXAMPLE_DAGS", "false")
    importlib.reload(example_study)
    assert not hasattr(example_study, "dag")
    monkeypatch.undo()
    importlib.reload(example_study)
