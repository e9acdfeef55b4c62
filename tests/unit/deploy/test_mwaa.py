"""What ``make mwaa`` builds: Airflow's plugin loader runs three files of it, and its versions are the tested ones."""

from __future__ import annotations

import re
import subprocess
import sys
from typing import TYPE_CHECKING
from zipfile import ZipFile

import pytest
from airflow._shared.module_loading import find_path_from_directory
from packaging.requirements import Requirement

from tests.markdown import ROOT
from tests.unit.test_deployment_files import pins

if TYPE_CHECKING:
    from pathlib import Path

PLUGINS = {path.name for path in (ROOT / "plugins").glob("*.py")}
OF_MWAA = {"apache-airflow": "3.3.1"}  # MWAA chooses it; the locks have the next one


def build(folder: Path) -> Path:
    subprocess.run([sys.executable, ROOT / "deploy/mwaa/build.py", folder], check=True, capture_output=True, timeout=60)
    return folder


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(tmp_path_factory.mktemp("built") / "mwaa")


@pytest.fixture(scope="module")
def unpacked(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("plugins")
    ZipFile(built / "plugins.zip").extractall(folder)
    return folder


def test_the_plugin_loader_runs_the_plugins_and_no_module_of_a_package(unpacked: Path) -> None:
    assert (unpacked / "airlock/ledger/__main__.py").is_file()
    found = find_path_from_directory(unpacked, ".airflowignore")
    assert {path for path in found if path.endswith(".py")} == {str(unpacked / name) for name in PLUGINS}


def test_every_package_is_named_even_if_it_is_not_there(unpacked: Path) -> None:
    """Somebody may add the command line or the emulator to the zip file."""
    packages = {path.name for path in (ROOT / "include").iterdir() if (path / "__init__.py").is_file()}
    named = set((unpacked / ".airflowignore").read_text().split())
    assert {f"{name}/" for name in packages} <= named


def test_the_zip_file_has_every_file_of_plugins_and_library_and_no_other(unpacked: Path) -> None:
    def files(folder: Path) -> set[str]:
        found = (path for path in folder.rglob("*") if path.is_file() and "__pycache__" not in path.parts)
        return {path.relative_to(folder).as_posix() for path in found}

    library = {f"airlock/{name}" for name in files(ROOT / "include/airlock")}
    assert files(unpacked) == files(ROOT / "plugins") | library


def test_the_same_sources_make_the_same_zip_file(built: Path, tmp_path: Path) -> None:
    assert (build(tmp_path / "again") / "plugins.zip").read_bytes() == (built / "plugins.zip").read_bytes()


def test_the_other_files_are_there(built: Path) -> None:
    assert {path.name for path in built.iterdir()} == {"dags", "plugins.zip", "requirements.txt", "startup.sh"}
    assert {path.name for path in (built / "dags").iterdir()} == {path.name for path in (ROOT / "dags").glob("*.py")}


def requirements() -> dict[str, Requirement]:
    lines = [line for line in (ROOT / "requirements-mwaa.txt").read_text().splitlines() if line and line[0] != "#"]
    return {found.name: found for found in map(Requirement, lines)}


def test_mwaa_takes_its_own_constraints_for_replaced() -> None:
    """It looks for the option in every line, comments included, and would force its amazon provider otherwise."""
    assert re.search(r"-c |--constraint ", (ROOT / "requirements-mwaa.txt").read_text())


def test_its_versions_are_those_that_are_tested() -> None:
    locked = pins("requirements.lock") | OF_MWAA
    assert {name: str(found.specifier) for name, found in requirements().items()} == {
        name: f"=={locked[name]}" for name in requirements()
    }


def test_what_mwaa_has_or_requirements_mwaa_brings_is_all_that_is_deployed() -> None:
    """So every direct dependency is installed, and none of them in a version that MWAA forbids."""
    essential = pins("deploy/mwaa/essential-constraints.txt")
    image = {
        name.partition("[")[0]
        for name in re.findall(r"^([a-z0-9-]+)", (ROOT / "deploy/mwaa/image.txt").read_text(), re.MULTILINE)
    }
    wanted = {found.name for found in map(Requirement, _lines(ROOT / "requirements.txt"))}
    of_the_command_line = {"rich", "typer"}
    assert wanted - of_the_command_line - image - set(requirements()) == set()
    for name, found in requirements().items():
        assert name not in essential or found.specifier.contains(essential[name])


def _lines(path: Path) -> list[str]:
    return [line.split("#")[0].strip() for line in path.read_text().splitlines() if line.split("#")[0].strip()]
