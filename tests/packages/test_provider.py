"""``airflow-provider-healthaws`` in fresh environments that have nothing of Airlock."""

from __future__ import annotations

import json
import shutil
from contextlib import contextmanager
from typing import TYPE_CHECKING
from zipfile import ZipFile

import boto3
import pytest
from pydicom.data import get_testdata_file

from localaws.server import serve
from localaws.settings import Seed
from tests.markdown import ROOT, Block, blocks
from tests.packages.environments import Environment, new_environment
from tests.servers.moto import moto_server
from tests.unit.healthaws.service import DATASTORE, ROLE

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.proof, pytest.mark.timeout(3600)]

GUIDES = ("healthimaging.md", "healthlake.md")
# They need the emulator or samples of Airlock, or compare the package with this repository.
OF_THIS_REPOSITORY = (
    "test_emulator.py",
    "test_healthlake_emulator.py",
    "test_provider_contract.py",
    "test_provider_info.py",
    "test_versions.py",
)
AWS = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
REFUSED = """
import importlib
try:
    importlib.import_module("healthaws")
except ImportError as error:
    print(error)
"""


@pytest.fixture(scope="module")
def alone(provider_wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Environment:
    environment = new_environment(tmp_path_factory.mktemp("provider") / "provider")
    environment.install(provider_wheel.as_uri())
    return environment


def unpack_tests(folder: Path) -> Path:
    """Copy the provider's tests without tests/conftest.py, which imports Airlock."""
    shutil.copytree(
        ROOT / "tests/unit/healthaws", folder / "tests/unit/healthaws", ignore=shutil.ignore_patterns("__pycache__")
    )
    for path in ("tests", "tests/unit", "tests/servers"):
        (folder / path).mkdir(exist_ok=True)
        shutil.copyfile(ROOT / path / "__init__.py", folder / path / "__init__.py")
    for name in ("network.py", "serving.py"):
        shutil.copyfile(ROOT / "tests/servers" / name, folder / "tests/servers" / name)
    (folder / "pyproject.toml").write_text(
        '[tool.pytest.ini_options]\npythonpath = ["."]\nmarkers = ["slow", "proof"]\n'
    )
    return folder


def test_the_wheel_has_every_file_of_the_package(provider_wheel: Path) -> None:
    package = ROOT / "plugins/healthaws"
    there = [path for path in package.rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    names = set(ZipFile(provider_wheel).namelist())
    assert {f"healthaws/{path.relative_to(package).as_posix()}" for path in there} <= names
    assert not [name for name in names if name.endswith(".pyc")]


def test_airflow_finds_it(alone: Environment, tmp_path: Path) -> None:
    assert not [name for name in alone.versions() if name == "airlock"]
    at_home = {"AIRFLOW_HOME": str(tmp_path)}
    listed = alone.run("-m", "airflow", "providers", "list", "-o", "json", root=tmp_path, variables=at_home)
    (found,) = (item for item in _json_in(listed) if item["package_name"] == "airflow-provider-healthaws")
    assert found["version"] == "0.1.0"


def test_its_tests_pass_without_airlock(alone: Environment, tmp_path: Path) -> None:
    alone.add_test_tools()
    root = unpack_tests(tmp_path)
    without = [f"tests/unit/healthaws/{name}" for name in OF_THIS_REPOSITORY]
    alone.test(
        "tests/unit/healthaws", root=root, without=without, variables=AWS | {"AIRFLOW_HOME": str(tmp_path / "home")}
    )


@contextmanager
def services(bucket: str) -> Iterator[dict[str, str]]:
    """Give a HealthImaging whose S3 holds one image, as the environment of whoever calls it."""
    with moto_server() as s3_endpoint:
        s3 = boto3.client("s3", endpoint_url=s3_endpoint, region_name="us-east-1")
        s3.create_bucket(Bucket=bucket)
        s3.upload_file(get_testdata_file("CT_small.dcm"), bucket, "in/ct.dcm")
        with serve(s3_endpoint=s3_endpoint, datastore=(Seed(DATASTORE, "test"),)) as url:
            yield AWS | {"AWS_ENDPOINT_URL_MEDICAL_IMAGING": url}


IMPORT = f"""
from airflow.sdk import DAG
from healthaws.operators.healthimaging_import_jobs import HealthImagingStartDicomImportJobOperator

with DAG("once", schedule=None) as dag:
    HealthImagingStartDicomImportJobOperator(
        task_id="start", datastore_id="{DATASTORE}", data_access_role_arn="{ROLE}", input_s3_uri="s3://imaging/in/",
        output_s3_uri="s3://imaging/out/", waiter_delay=1, aws_conn_id=None, deferrable=True,
    )
if __name__ == "__main__":
    print("ended as", dag.test().state)
"""


def test_a_dag_imports_images_without_airlock(alone: Environment, tmp_path: Path) -> None:
    (tmp_path / "dags").mkdir()
    (tmp_path / "dags/once.py").write_text(IMPORT)
    at_home = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__DAGS_FOLDER": str(tmp_path / "dags"),
    }
    alone.run("-m", "airflow", "db", "migrate", root=tmp_path, variables=at_home)
    alone.run("-m", "airflow", "dags", "reserialize", root=tmp_path, variables=at_home)
    with services("imaging") as addresses:
        told = alone.run("dags/once.py", root=tmp_path, variables=at_home | addresses)
    assert "ended as success" in told


@pytest.mark.parametrize("guide", GUIDES)
def test_the_dags_of_the_guides_can_be_imported(guide: str, alone: Environment, tmp_path: Path) -> None:
    shown = [block for block in blocks(f"deploy/provider/guides/{guide}") if block.language == "python"]
    assert shown
    (tmp_path / "guide.py").write_text(_one_file(shown))
    alone.run("guide.py", root=tmp_path, variables={"AIRFLOW_HOME": str(tmp_path / "home")})


@pytest.mark.parametrize(
    ("package", "version"), [("apache-airflow-providers-amazon", "9.34.0"), ("apache-airflow-core", "3.2.1")]
)
def test_an_old_version_is_refused_at_import(package: str, version: str, tmp_path: Path) -> None:
    """The folder of the package is used as a deployment uses it, where no installer has compared versions."""
    environment = new_environment(tmp_path / "old")
    environment.install(f"{package}=={version}", "apache-airflow-providers-amazon")
    told = environment.run(
        "-c", REFUSED, variables={"PYTHONPATH": str(ROOT / "plugins"), "AIRFLOW_HOME": str(tmp_path)}
    )
    assert version in told
    assert "Install" in told


def _one_file(shown: list[Block]) -> str:
    return "\n\n".join(block.text for block in shown)


def _json_in(printed: str) -> list[dict[str, str]]:
    """Return the list in what a command of Airflow prints, warnings before it."""
    found: list[dict[str, str]] = json.loads(printed[printed.index("[{") : printed.rindex("]") + 1])
    return found
