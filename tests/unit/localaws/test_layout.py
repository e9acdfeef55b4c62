"""Both services keep equal roles in files of equal names, so that who knows one finds the same in the other."""

from __future__ import annotations

from pathlib import Path

import pytest

import localaws

PACKAGE = Path(localaws.__file__).parent
ROLES = (
    *("announcements", "datastores", "documents", "importer", "jobs", "resources", "results", "search", "service"),
    *("store", "tables", "tags"),
)


@pytest.mark.parametrize("service", ["imaging", "healthlake"])
def test_each_role_has_its_file(service: str) -> None:
    assert [role for role in ROLES if not (PACKAGE / service / f"{role}.py").exists()] == []


def test_neither_service_imports_the_other() -> None:
    for service, other in (("imaging", "healthlake"), ("healthlake", "imaging")):
        sources = (PACKAGE / service).rglob("*.py")
        assert [path.name for path in sources if f"from localaws.{other}" in path.read_text(encoding="utf-8")] == []
