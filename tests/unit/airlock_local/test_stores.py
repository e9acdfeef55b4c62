"""What the local servers and Airflow are given for the pipelines of a folder."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import yaml

from airlock.pipelines import load_pipelines
from airlock_local.buckets import buckets_of
from airlock_local.components import plan
from airlock_local.settings import ROOT, read_settings
from airlock_local.stores import pools_of, seeds_of
from localaws.settings import read_settings as localaws_settings
from tests.unit.airlock.clinical.books import CCDA
from tests.unit.airlock.clinical.books import pipeline as ccda_pipeline

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


def test_each_data_store_is_made_once_and_called_after_its_users(pipelines: list[Pipeline]) -> None:
    assert seeds_of(pipelines) == [
        f"--datastore={IMAGING}:b-images",
        f"--healthlake-datastore={CLINICAL}:a-records-b-images",
    ]


def test_an_imaging_pipeline_without_healthlake_has_one_store(pipelines: list[Pipeline]) -> None:
    alone = pipelines[1].model_copy(update={"healthlake": None})
    assert seeds_of([alone]) == [f"--datastore={IMAGING}:b-images"]


def test_a_conversion_profile_is_made_too() -> None:
    documents = ccda_pipeline(name="documents", **CCDA)
    assert f"--transformation-profile={documents.transformation.profile_id}:documents" in seeds_of([documents])


def test_each_pool_has_the_slots_of_its_service(pipelines: list[Pipeline]) -> None:
    slots = {pool.name: pool.slots for pool in pools_of(pipelines, parallelism=16)}
    # HealthLake: an account runs one import; what waits in Airflow does not fill the queue
    assert slots == {"healthlake_import": 1, "scans": 20, "airlock_staging": 4}


@pytest.mark.parametrize(("parallelism", "slots"), [(1, 1), (2, 1), (3, 1), (4, 2), (8, 4), (64, 4)])
def test_fewer_tasks_stage_than_run_at_the_same_time(pipelines: list[Pipeline], parallelism: int, slots: int) -> None:
    """With as many, Airflow stages all batches before it imports the first."""
    (staging,) = (pool for pool in pools_of(pipelines, parallelism) if pool.name == "airlock_staging")
    assert staging.slots == slots


def test_the_emulator_understands_what_it_is_told(pipelines: list[Pipeline], tmp_path: Path) -> None:
    settings = read_settings({"AIRLOCK_VAR": str(tmp_path / "var")})
    parts = plan(settings, {}, seeds_of(pipelines), local=True, account=False)
    (emulator,) = [part for part in parts.services if part.name == "health"]
    read = localaws_settings(emulator.argv[3:], {})  # behind python -m localaws
    assert [seed.name for seed in read.datastore] == ["b-images"]
    assert [seed.name for seed in read.healthlake_datastore] == ["a-records-b-images"]


def test_the_jobs_output_has_its_bucket_too(pipelines: list[Pipeline]) -> None:
    assert "airlock-published" in buckets_of(pipelines)


def test_the_shipped_pipelines_are_all_for_one_machine() -> None:
    found, problems = load_pipelines(SHIPPED)
    assert problems == []
    assert {name: pipeline.kind for name, pipeline in found.items()} == {
        "arrivals": "imaging",
        "ccda": "ccda",
        "clinical": "clinical",
        "edge": "imaging",
        "nightly": "imaging",
        "one-patient": "imaging",
        "sample": "imaging",
    }
    assert all(pipeline.connections() == {"aws_default"} for pipeline in found.values())
