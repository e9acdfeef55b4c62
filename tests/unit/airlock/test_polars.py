"""A polars with which the ledger fails is refused when the library is imported."""

from __future__ import annotations

import tomllib
from importlib.metadata import PackageNotFoundError

import pytest
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

import airlock
from airlock import POLARS, require_polars
from tests.markdown import ROOT


def test_what_is_installed_here_is_accepted() -> None:
    require_polars()


@pytest.mark.parametrize("found", ["1.43.2", "2.0.0"])
def test_an_older_one_is_refused(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airlock, "version", lambda _: found)
    with pytest.raises(ImportError, match=rf"polars {found} is installed\. .* Install 'polars>=2\.1'"):
        require_polars()


@pytest.mark.parametrize("found", ["2.1.0", "2.10.0b1", "3.0.0"])
def test_a_newer_one_is_accepted(found: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airlock, "version", lambda _: found)
    require_polars()


def test_a_missing_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    def version(name: str) -> str:
        raise PackageNotFoundError(name)

    monkeypatch.setattr(airlock, "version", version)
    with pytest.raises(ImportError, match="polars none is installed"):
        require_polars()


def test_it_is_the_lower_bound_of_the_wheel() -> None:
    asked = map(Requirement, tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dependencies"])
    (polars,) = (item for item in asked if item.name == "polars")
    assert polars.specifier == SpecifierSet(f">={'.'.join(map(str, POLARS))}")
