"""The wheel ``airlock``, alone and with each extra, in fresh environments, in its newest and oldest dependencies."""

from __future__ import annotations

from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from tests.markdown import ROOT
from tests.packages.environments import Environment, new_environment
from tests.packages.imports import find_tests_with_airflow
from tests.unit.test_packages import CORE

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

pytestmark = [pytest.mark.proof, pytest.mark.timeout(3600)]

LIBRARY = "tests/unit/airlock"
IMPORT_ALL = """
import importlib, pkgutil, sys
for package in sys.argv[1:]:
    found = importlib.import_module(package)
    for module in pkgutil.walk_packages(found.__path__, package + "."):
        if not module.name.endswith(("__main__", "migrations.env")) and ".versions." not in module.name:
            importlib.import_module(module.name)
print(*sorted({name.partition(".")[0] for name in sys.modules}))
"""
QUIET_HOOKS = "tests/unit/airlock/storage/test_aws.py::test_requests_are_not_logged[healthaws]"
WITH_CELERY = (
    "tests/unit/airlock_tasks/test_preload.py::test_a_celery_worker_loads_it_by_the_setting_of_docker_compose",
    "tests/unit/airlock_tasks/test_worker_heartbeat.py",
)


def install(folder: Path, wheel: Path, extra: str = "", *, lowest: bool = False) -> Environment:
    """Install the wheel; with what it names as direct requirements if ``lowest``, since uv lowers only these."""
    named = CORE if lowest else []
    environment = new_environment(folder)
    environment.install(f"airlock{extra} @ {wheel.as_uri()}", *named, lowest=lowest)
    return environment


def _is_at_its_bound(text: str, found: Mapping[str, str]) -> bool:
    """Return whether the release of a lower bound is installed, such as 0.22.1 for >=0.22."""
    wanted = Requirement(text)
    (bound,) = wanted.specifier
    return SpecifierSet(f"=={bound.version}.*").contains(found[wanted.name])


def loaded(environment: Environment, *packages: str, folder: Path) -> set[str]:
    """Import every module of packages, from a folder that has none of them, and return what was loaded."""
    return set(environment.run("-c", IMPORT_ALL, *packages, root=folder).split())


def test_the_wheel_has_every_file_of_the_library(airlock_wheel: Path) -> None:
    names = set(ZipFile(airlock_wheel).namelist())
    there = [path for path in (ROOT / "include").rglob("*") if path.is_file() and "__pycache__" not in path.parts]
    library = {path.relative_to(ROOT / "include").as_posix() for path in there}
    assert {name for name in library if not name.startswith("pipelines/") and ".egg-info/" not in name} <= names


@pytest.mark.parametrize("lowest", [False, True], ids=["newest", "oldest"])
def test_the_core_imports_without_airflow_and_passes_the_librarys_tests(
    lowest: bool, airlock_wheel: Path, tmp_path: Path
) -> None:
    environment = install(tmp_path / "core", airlock_wheel, lowest=lowest)
    if lowest:
        found = environment.versions()
        assert not [text for text in CORE if not _is_at_its_bound(text, found)]
    assert not [name for name in environment.versions() if name.startswith("apache-airflow")]
    assert "airflow" not in loaded(environment, "airlock", folder=tmp_path)
    assert "upgrade" in environment.run("-m", "airlock.ledger", "--help", root=tmp_path)
    environment.add_test_tools()
    environment.test(LIBRARY, without=[*find_tests_with_airflow(LIBRARY), QUIET_HOOKS])


def test_the_command_line_answers_and_passes_its_tests(airlock_wheel: Path, tmp_path: Path) -> None:
    environment = install(tmp_path / "cli", airlock_wheel, "[cli]")
    assert "airflow" not in loaded(environment, "airlock", "airlock_cli", folder=tmp_path)
    assert "pipelines" in environment.run(str(environment.folder / "bin/airlock"), "--help", root=tmp_path)
    environment.add_test_tools()
    environment.test("tests/unit/airlock_cli")


def test_the_edge_answers_and_passes_its_tests(airlock_wheel: Path, tmp_path: Path) -> None:
    environment = install(tmp_path / "edge", airlock_wheel, "[edge]")
    assert "airflow" not in loaded(environment, "airlock_edge", folder=tmp_path)
    assert "check" in environment.run(str(environment.folder / "bin/airlock-edge"), "--help", root=tmp_path)
    environment.add_test_tools()
    environment.test("tests/unit/airlock_edge")


def test_the_edge_imports_nothing_that_its_lock_lacks(airlock_wheel: Path, tmp_path: Path) -> None:
    """A machine with the edge has neither Airflow nor what the ledger needs."""
    environment = new_environment(tmp_path / "edge-lock")
    environment.install("--require-hashes", "-r", str(ROOT / "requirements-edge.lock"))
    environment.install("--no-deps", airlock_wheel.as_uri())
    assert not {"airflow", "sqlalchemy"} & loaded(environment, "airlock_edge", folder=tmp_path)
    assert "check" in environment.run(str(environment.folder / "bin/airlock-edge"), "--help", root=tmp_path)


def test_dags_and_plugins_find_all_that_they_import(airlock_wheel: Path, tmp_path: Path) -> None:
    environment = install(tmp_path / "airflow", airlock_wheel, "[airflow]")
    environment.add_test_tools()
    paths = ("tests/unit/dags", "tests/unit/airlock_tasks", "tests/unit/healthaws", QUIET_HOOKS)
    environment.test(*paths, *find_tests_with_airflow(LIBRARY), without=WITH_CELERY)


def test_the_emulator_starts_and_passes_its_tests(airlock_wheel: Path, tmp_path: Path) -> None:
    environment = install(tmp_path / "local", airlock_wheel, "[local]")
    assert "usage" in environment.run("-m", "localaws", "--help", root=tmp_path)
    loaded(environment, "airlock", "airlock_cli", "airlock_local", "localaws", folder=tmp_path)
    environment.add_test_tools()
    environment.test("tests/unit/localaws")
    environment.test("tests/contract", marks="not proof", processes=0)
