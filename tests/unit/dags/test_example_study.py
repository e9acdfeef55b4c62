from __future__ import annotations

import importlib

import pytest
from airflow.sdk import PartitionedAssetTimetable

import example_study


def test_a_run_is_started_by_each_partition_of_the_asset() -> None:
    timetable = example_study.dag.timetable
    assert isinstance(timetable, PartitionedAssetTimetable)
    assert [asset.name for _, asset in timetable.asset_condition.iter_assets()] == [example_study.ASSET]


def test_it_comes_paused() -> None:
    assert example_study.dag.is_paused_upon_creation is True


def test_it_can_be_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(example_study, "dag")
    monkeypatch.setenv("AIRLOCK_EXAMPLE_DAGS", "false")
    importlib.reload(example_study)
    assert not hasattr(example_study, "dag")
    monkeypatch.undo()
    importlib.reload(example_study)
