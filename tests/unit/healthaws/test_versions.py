"""Versions with which tasks fail hours later are refused at import."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from healthaws import versions
from healthaws.versions import WANTED, require_versions

PROJECT = Path(__file__).parents[3] / "deploy/provider/pyproject.toml"
CORE, AMAZON = (item.distribution for item in WANTED)


def installed(monkeypatch: pytest.MonkeyPatch, **other: str) -> None:
    found = {CORE: "3.3.1", AMAZON: "9.39.0"} | {name.replace("_", "-"): text for name, text in other.items()}
    monkeypatch.setattr(versions, "version", found.__getitem__)


def test_what_is_installed_here_is_accepted() -> None:
    require_versions()


def test_the_lowest_versions_are_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    installed(monkeypatch)
    require_versions()


@pytest.mark.parametrize(
    ("name", "found"),
    [(CORE, "3.2.1"), (CORE, "3.3.0"), (CORE, "3.4.0"), (AMAZON, "9.34.0"), (AMAZON, "9.38.1"), (AMAZON, "10.0.0rc1")],
)
def test_others_are_refused_with_what_is_there_and_what_to_install(
    name: str, found: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed(monkeypatch, **{name.replace("-", "_"): found})
    with pytest.raises(ImportError, match=rf"{name} {found} is installed\. .* Install '{name}>="):
        require_versions()


def test_a_missing_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(versions, "version", version)
    with pytest.raises(ImportError, match=f"{CORE} none is installed"):
        require_versions()


def test_they_are_those_that_the_distribution_asks_for() -> None:
    asked = [Requirement(text) for text in tomllib.loads(PROJECT.read_text())["project"]["dependencies"]]
    bounds = {item.name: item.specifier for item in asked}
    for item in WANTED:
        lowest, below = (".".join(map(str, numbers)) for numbers in (item.lowest, item.below))
        name = "apache-airflow" if item.distribution == CORE else item.distribution
        assert bounds[name] == SpecifierSet(f">={lowest},<{below}")
