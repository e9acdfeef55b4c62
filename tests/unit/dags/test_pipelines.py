"""A wrong pipeline file shows up as an import error of its own, and stops no other pipeline."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]


def _load(module: str, pipelines: Path) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {
        "PYTHONPATH": f"{ROOT / 'plugins'}{os.pathsep}{ROOT / 'dags'}",
        "AIRLOCK_PIPELINES": str(pipelines),
    }
    code = f"import {module}; print(sorted(getattr({module}, 'pipelines', [])))"
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(ROOT / "include/pipelines", tmp_path / "pipelines"))


def test_good_files_raise_nothing(folder: Path) -> None:
    assert _load("pipelines", folder).returncode == 0


def test_wrong_file_is_named_and_the_others_go_on(folder: Path) -> None:
    text = (folder / "sample.yaml").read_text().replace("name: sample", "name: other\ncolour: blue", 1)
    (folder / "other.yaml").write_text(text)

    shown = _load("pipelines", folder)
    assert shown.returncode != 0
    assert "other.yaml: field 'colour' is unknown" in shown.stderr.splitlines()[-1]
    assert _load("imaging", folder).stdout.strip().endswith("['arrivals', 'edge', 'nightly', 'one-patient', 'sample']")


def test_a_pipeline_may_have_a_name_that_the_dag_file_uses_itself(folder: Path) -> None:
    text = (folder / "sample.yaml").read_text().replace("name: sample", "name: build", 1)
    (folder / "build.yaml").write_text(text)

    assert (
        _load("imaging", folder)
        .stdout.strip()
        .endswith("['arrivals', 'build', 'edge', 'nightly', 'one-patient', 'sample']")
    )


def test_two_files_with_one_name_are_both_left_out(folder: Path) -> None:
    shutil.copy(folder / "sample.yaml", folder / "twin.yaml")

    assert "sample.yaml and twin.yaml name their pipeline 'sample'" in _load("pipelines", folder).stderr
    assert _load("imaging", folder).stdout.strip().endswith("['arrivals', 'edge', 'nightly', 'one-patient']")
