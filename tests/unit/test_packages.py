"""What each package imports is what its extra installs, and what the locks have is not older than the lower bounds."""

from __future__ import annotations

import ast
import sys
import tomllib
from functools import cache

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from tests.markdown import ROOT
from tests.unit.test_deployment_files import pins

OURS = {"airlock", "airlock_cli", "airlock_console", "airlock_local", "airlock_tasks", "healthaws", "localaws"}
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
CORE: list[str] = PROJECT["dependencies"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
BOUNDS = [text for texts in (CORE, *EXTRAS.values()) for text in texts if not text.startswith("airlock[")]
# The extras that bring what a folder imports.
FOLDERS = {
    "include/airlock": (),
    "include/airlock_cli": ("cli",),
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
    return found - OURS - set(sys.stdlib_module_names) - {"__future__"}


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
    own = {"celery", "apache-airflow-providers-postgres", "setuptools"}  # of the image's executor, database and build
    wanted = _bring(extras) if file == "requirements.txt" else _named(EXTRAS["local"]) - {"airlock"}
    assert listed - own == wanted


@pytest.mark.parametrize(
    "text", [*CORE, *(text for texts in EXTRAS.values() for text in texts if "airlock[" not in text)]
)
def test_no_lower_bound_is_above_the_locks(text: str) -> None:
    wanted = Requirement(text)
    locked = pins("requirements-local.lock")[canonicalize_name(wanted.name)]
    assert wanted.specifier, f"{text} has no lower bound"
    assert wanted.specifier.contains(locked), f"the lock has {wanted.name} {locked}"
