"""What each package imports is what its extra installs, and what the locks have is not older than the lower bounds."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from functools import cache

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from airlock.stages.doctor.airflow_settings import OLDEST_AND_UNTRIED
from tests.markdown import ROOT
from tests.unit.test_deployment_files import pins

OURS = {"airlock", "airlock_cli", "airlock_console", "airlock_edge", "airlock_local", "airlock_tasks"} | {
    *("healthaws", "localaws"),
}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE: list[str] = PROJECT["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
BOUNDS = [text for texts in (CORE, *EXTRAS.values()) for text in texts if not text.startswith("airlock[")]
# The extras that bring what a folder imports.
FOLDERS = {
    "include/airlock": (),
    "include/airlock_cli": ("cli",),
    "include/airlock_edge": ("edge",),
    "include/airlock_local": ("airflow", "cli", "local"),
    "include/localaws": ("airflow", "cli", "local"),
    "plugins": ("airflow",),
    "dags": ("airflow",),
}
# The distribution of a module that has another name, or that a direct dependency cannot lack.
OF_MODULE = {
    "airflow": "apache-airflow",
    "asgiref": "apache-airflow",
    "botocore": "boto3",
    "dateutil": "boto3",
    "fhirkit": "fhirkit-rs",
    "markupsafe": "jinja2",
    "psycopg2": "psycopg2-binary",
    "pydantic_core": "pydantic",
    "typing_extensions": "pydantic",
    "urllib3": "boto3",
    "werkzeug": "flask",
    "yaml": "pyyaml",
}


# Only a Celery worker loads the module that imports it, and a worker has it.
OF_THE_EXECUTOR = {"celery"}


def _named(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(text).name) for text in requirements}


def _bring(extras: tuple[str, ...]) -> set[str]:
    return _named([*CORE, *(text for extra in extras for text in EXTRAS[extra])])


@cache
def _imported_modules(folder: str) -> set[str]:
    found: set[str] = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            names = [item.name for item in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            found |= {name.split(".")[0] for name in names}
    return found - OURS - OF_THE_EXECUTOR - set(sys.stdlib_module_names) - {"__future__"}


def _distribution(module: str, extras: tuple[str, ...] = ()) -> str:
    if module == "starlette" and "airflow" in extras:
        return "fastapi"
    return OF_MODULE.get(module) or canonicalize_name(module)


@pytest.mark.parametrize("folder", FOLDERS)
def test_an_extra_brings_what_its_folder_imports(folder: str) -> None:
    extras = FOLDERS[folder]
    wanted = {module: _distribution(module, extras) for module in _imported_modules(folder)}
    brought = _bring(extras)
    lacking = {module: package for module, package in wanted.items() if package not in brought}
    assert not lacking, f"{folder} imports these, and {sorted(extras) or 'the core'} does not bring them"


def test_the_core_brings_no_airflow() -> None:
    assert not {name for name in _named(CORE) if name.startswith("apache-airflow")}


def test_the_core_names_nothing_that_the_library_does_not_import() -> None:
    used = {_distribution(module) for module in _imported_modules("include/airlock")}
    drivers = {"psycopg2-binary", "jinja2"}  # SQLAlchemy and the library load them by name
    assert _named(CORE) - used - drivers == set()


@pytest.mark.parametrize(
    ("file", "extras"), [("requirements.txt", ("airflow", "cli")), ("requirements-local.txt", ("local",))]
)
def test_what_is_locked_for_the_image_and_for_make_run_is_what_the_extras_name(
    file: str, extras: tuple[str, ...]
) -> None:
    lines = [line.split("#")[0].strip() for line in (ROOT / file).read_text().splitlines()]
    listed = _named([line for line in lines if line and not line.startswith("-r ")])
    # Of the image's executor, metadata database, metrics and build.
    own = {"celery", "apache-airflow-providers-postgres", "statsd", "setuptools"}
    wanted = _bring(extras) if file == "requirements.txt" else _named(EXTRAS["local"]) - {"airlock"}
    assert listed - own == wanted


def test_each_direct_dependency_of_a_deployment_has_a_row_of_who_keeps_it() -> None:
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    table = (ROOT / "docs/dependencies.md").read_text().partition("\n## The table\n")[2].partition("\nOf what only ")[0]
    rows = re.findall(r"^\| (`[^|]+) \|", table, re.MULTILINE)
    named = _named([text for row in rows for text in re.findall(r"`([^`]+)`", row)])
    assert named == _named([line.split("#")[0] for line in lines if line.split("#")[0].strip()])


def test_the_doctor_fails_the_versions_that_the_wheel_refuses() -> None:
    oldest = {name: ".".join(map(str, numbers)) for name, numbers, _ in OLDEST_AND_UNTRIED}
    bounds = {found.name: str(found.specifier) for found in map(Requirement, [*CORE, *EXTRAS["airflow"]])}
    both = oldest.keys() & bounds.keys()
    assert both == {"apache-airflow", "apache-airflow-providers-amazon", "polars"}
    assert {name: f">={oldest[name]}" in bounds[name].split(",") for name in both} == dict.fromkeys(both, True)


@pytest.mark.parametrize(
    "text", [*CORE, *(text for texts in EXTRAS.values() for text in texts if "airlock[" not in text)]
)
def test_no_lower_bound_is_above_the_locks(text: str) -> None:
    wanted = Requirement(text)
    locked = (pins("requirements-local.lock") | pins("requirements-edge.lock"))[canonicalize_name(wanted.name)]
    assert wanted.specifier, f"{text} has no lower bound"
    assert wanted.specifier.contains(locked), f"the lock has {wanted.name} {locked}"
