"""The provider tells Airflow what the package has: every public module, in the form that Airflow checks."""

from __future__ import annotations

import importlib
import json
import pkgutil
import tomllib
from pathlib import Path

import airflow
import jsonschema
import pytest

import healthaws
from healthaws.provider_info import get_provider_info

PROJECT = Path(__file__).parents[3] / "deploy/provider/pyproject.toml"
# Modules of bases: "not to be used in DAGs directly".
BASES = {
    "hooks": {"aws", "jobs", "service", "healthlake_jobs"},
    "operators": {"jobs", "starts", "healthlake_jobs"},
    "sensors": {"jobs"},
    "triggers": {"jobs", "pause"},
}


def test_it_has_the_form_that_airflow_checks() -> None:
    schema = Path(airflow.__path__[0], "provider_info.schema.json")
    jsonschema.validate(get_provider_info(), json.loads(schema.read_text()))


@pytest.mark.parametrize("kind", BASES)
def test_it_names_every_module_that_a_dag_may_import(kind: str) -> None:
    package = importlib.import_module(f"healthaws.{kind}")
    there = {name for _, name, _ in pkgutil.iter_modules(package.__path__)} - BASES[kind]
    listed = [module for item in get_provider_info()[kind] for module in item["python-modules"]]
    assert sorted(listed) == sorted(f"healthaws.{kind}.{name}" for name in there)


def test_its_links_are_there() -> None:
    for name in get_provider_info()["extra-links"]:
        module, _, link = name.rpartition(".")
        assert hasattr(importlib.import_module(module), link)


def test_the_distribution_is_made_of_this_package() -> None:
    project = tomllib.loads(PROJECT.read_text())
    assert project["project"]["name"] == get_provider_info()["package-name"]
    entry = project["project"]["entry-points"]["apache_airflow_provider"]["provider_info"]
    module, _, function = entry.partition(":")
    assert getattr(importlib.import_module(module), function) is get_provider_info
    assert (PROJECT.parent / "healthaws").resolve() == Path(healthaws.__path__[0]).resolve()
