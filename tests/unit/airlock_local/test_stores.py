"""What the local servers and Airflow are given for the pipelines of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from airlock.pipelines import load_pipelines
from airlock_local.buckets import buckets_of
from airlock_local.components import plan
from airlock_local.settings import ROOT, read_settings
from airlock_local.stores import SLOTS, Store, pools_of, stores_of

if TYPE_CHECKING:
    from pathlib import Path

    from airlock.pipelines import Pipeline

SHIPPED = ROOT / "include/pipelines"
IMAGING, CLINICAL = "1" * 31 + "f", "2" * 31 + "e"


def _pipeline(folder: Path, like: str, name: str, **changes: dict[str, str]) -> None:
    content = yaml.safe_load((SHIPPED / f"{like}.yaml").read_text()) | {"name": name}
    for section, values in changes.items():
        content[section] = content[section] | values
    (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))


@pytest.fixture
def pipelines(tmp_path: Path) -> list[Pipeline]:
    """An imaging and a clinical pipeline that share a HealthLake data store."""
    _pipeline(tmp_path, "clinical", "a-records", healthlake={"datastore_id": CLINICAL})
    _pipeline(
        tmp_path,
        "sample",
        "b-images",
        healthimaging={"datastore_id": IMAGING, "pool": "scans"},
        healthlake={"datastore_id": CLINICAL, "output_uri": "s3://airlock-published/out/"},
    )
    found, problems = load_pipelines(tmp_path)
    assert problems == []
    return list(found.values())


def test_each_data_store_is_made_once(pipelines: list[Pipeline]) -> None:
    assert stores_of(pipelines) == [
        Store("healthlake", CLINICAL, "a-records"),
        Store("medical-imaging", IMAGING, "b-images"),
    ]


def test_an_imaging_pipeline_without_healthlake_has_one_store(pipelines: list[Pipeline]) -> None:
    alone = pipelines[1].model_copy(update={"healthlake": None})
    assert [store.service for store in stores_of([alone])] == ["medical-imaging"]


def test_each_pool_has_the_slots_of_its_service(pipelines: list[Pipeline]) -> None:
    assert pools_of(pipelines) == {"healthlake_import": "healthlake", "scans": "medical-imaging"}
    assert SLOTS["healthlake"] == 1  # an account runs one import; what waits in Airflow does not fill the queue


def test_the_emulator_is_told_of_each_store_by_the_flag_of_its_service(
    pipelines: list[Pipeline], tmp_path: Path
) -> None:
    settings = read_settings({"AIRLOCK_VAR": str(tmp_path / "var")})
    parts = plan(settings, {}, stores_of(pipelines), local=True, account=False)
    (emulator,) = [part for part in parts.services if part.name == "health"]
    flags = " ".join(emulator.argv)
    assert f"--healthlake-datastore {CLINICAL}:a-records" in flags
    assert f"--datastore {IMAGING}:b-images" in flags


def test_the_jobs_output_has_its_bucket_too(pipelines: list[Pipeline]) -> None:
    assert "airlock-published" in buckets_of(pipelines)


def test_the_shipped_pipelines_are_all_for_one_machine() -> None:
    found, problems = load_pipelines(SHIPPED)
    assert problems == []
    assert {name: pipeline.kind for name, pipeline in found.items()} == {
        "clinical": "clinical",
        "nightly": "imaging",
        "sample": "imaging",
    }
    assert all(pipeline.connections() == {"aws_default"} for pipeline in found.values())
