"""Both distributions, built once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.markdown import ROOT
from tests.packages.environments import build_distribution

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(scope="session")
def airlock_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_distribution(ROOT, tmp_path_factory.mktemp("airlock"))


@pytest.fixture(scope="session")
def provider_wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_distribution(ROOT / "deploy/provider", tmp_path_factory.mktemp("provider"))
