"""Airlock as Amazon MWAA installs it: its image's packages, then requirements.txt under its essential constraints."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest

from tests.markdown import ROOT
from tests.packages.environments import Environment, new_environment
from tests.servers.ports import free_port
from tests.unit.test_deployment_files import pins

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.proof, pytest.mark.timeout(3600)]

ESSENTIAL = ROOT / "deploy/mwaa/essential-constraints.txt"


@pytest.fixture(scope="module")
def mwaa(tmp_path_factory: pytest.TempPathFactory) -> Environment:
    """The environment after MWAA's entrypoint has installed requirements.txt."""
    environment = new_environment(tmp_path_factory.mktemp("mwaa") / "mwaa")
    environment.install("-r", str(ROOT / "deploy/mwaa/image.txt"), constraints=ESSENTIAL)
    environment.install("-r", str(ROOT / "requirements-mwaa.txt"), constraints=ESSENTIAL)
    return environment


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with what make mwaa builds, unpacked; the emulator and the tests lie beside it, the library does not."""
    folder = tmp_path_factory.mktemp("home")
    built = folder / "built"
    subprocess.run([sys.executable, ROOT / "deploy/mwaa/build.py", built], check=True, capture_output=True, timeout=60)
    ZipFile(built / "plugins.zip").extractall(folder / "plugins")
    shutil.copytree(built / "dags", folder / "dags")
    for name in ("airlock_cli", "airlock_local", "localaws", "pipelines"):
        shutil.copytree(
            ROOT / "include" / name, folder / "include" / name, ignore=shutil.ignore_patterns("__pycache__")
        )
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__", "kept_ledgers"))
    for name in ("docs", "iam", "deploy", "benchmarks"):
        (folder / name).symlink_to(ROOT / name)
    for path in (*ROOT.glob("*.*"), *ROOT.glob("Makefile"), ROOT / ".env.example"):
        if path.is_file():
            shutil.copyfile(path, folder / path.name)
    return folder


def settings(home: Path) -> dict[str, str]:
    paths = [home / "plugins", home / "include"]
    return {"PYTHONPATH": ":".join(map(str, paths)), "AIRLOCK_PIPELINES": str(home / "include/pipelines")}


def test_the_essential_versions_stay(mwaa: Environment) -> None:
    essential, found = pins("deploy/mwaa/essential-constraints.txt"), mwaa.versions()
    assert {name: version for name, version in found.items() if name in essential} == {
        name: version for name, version in essential.items() if name in found
    }
    assert (found["apache-airflow-providers-amazon"], found["polars"]) == ("9.39.0", "2.1.0")


def test_airflow_loads_the_plugins_and_every_dag(mwaa: Environment, home: Path, tmp_path: Path) -> None:
    """With the plugins folder as the only way to the library, as on MWAA."""
    at_home = {
        "AIRFLOW_HOME": str(tmp_path),
        "AIRFLOW__CORE__PLUGINS_FOLDER": str(home / "plugins"),
        "AIRFLOW__CORE__DAGS_FOLDER": str(home / "dags"),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRLOCK_PIPELINES": str(home / "include/pipelines"),
    }
    mwaa.run("-m", "airflow", "db", "migrate", root=tmp_path, variables=at_home)
    told = mwaa.run("-m", "airflow", "plugins", root=tmp_path, variables=at_home)
    assert "airlock_console" in told
    assert "usage:" not in told
    mwaa.run("-m", "airflow", "dags", "reserialize", root=tmp_path, variables=at_home)
    errors = mwaa.run("-m", "airflow", "dags", "list-import-errors", root=tmp_path, variables=at_home)
    assert "No data found" in errors
    listed = mwaa.run("-m", "airflow", "dags", "list", "-o", "plain", root=tmp_path, variables=at_home)
    assert {path.stem for path in (ROOT / "include/pipelines").glob("*.yaml")} <= set(listed.split())


def test_the_unit_tests_of_plugins_and_dags_pass(mwaa: Environment, home: Path) -> None:
    mwaa.add_test_tools()
    paths = ("tests/unit/healthaws", "tests/unit/airlock_tasks", "tests/unit/dags")
    of_this_repository = ("tests/unit/healthaws/test_provider_info.py",)  # it finds deploy/provider by its path
    mwaa.test(*paths, root=home, without=of_this_repository, variables=settings(home))


def test_the_sample_is_imported_by_a_local_executor(mwaa: Environment, home: Path) -> None:
    mwaa.add_test_tools()
    api, s3, health = (free_port() for _ in range(3))
    ports = {"AIRLOCK_API_PORT": str(api), "AIRLOCK_S3_PORT": str(s3), "AIRLOCK_HEALTH_PORT": str(health)}
    variables = settings(home) | ports
    try:
        told = mwaa.run("-m", "airlock_local", "run", root=home, variables=variables)
    finally:
        mwaa.run("-m", "airlock_local", "stop", root=home, variables=variables)
    assert "the books balance" in told
    report = json.loads((home / "var/report.json").read_text())
    print({name: report[name] for name in ("balanced", "dispositions") if name in report})  # noqa: T201
    assert report["balanced"]


@pytest.mark.parametrize(("package", "version"), [("apache-airflow-providers-amazon", "9.34.0"), ("polars", "1.43.2")])
def test_what_mwaa_would_install_by_itself_is_refused_at_import(
    package: str, version: str, mwaa: Environment, home: Path, tmp_path: Path
) -> None:
    """The DAG files say it before a run starts."""
    mwaa.install(f"{package}=={version}", constraints=ESSENTIAL)
    try:
        told = mwaa.run("-c", REFUSED, root=tmp_path, variables=settings(home) | {"AIRFLOW_HOME": str(tmp_path)})
    finally:
        mwaa.install("-r", str(ROOT / "requirements-mwaa.txt"), constraints=ESSENTIAL)
    assert f"{package} {version}" in told


REFUSED = """

for name in ("healthaws", "airlock.ledger"):
    try:
        __import__(name)
    except ImportError as error:
        print(error)
"""
