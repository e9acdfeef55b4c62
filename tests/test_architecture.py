"""The layout: dependencies point down only, a stage has one name everywhere, kinds lie side by side."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.import_graph import figures

ROOT = Path(__file__).parents[1]
STAGES = ("receive", "buffer", "parse", "validate", "normalize", "stage", "import_", "audit", "route")
SHARED_STAGES = {"receive", "buffer", "route"}  # no part of them belongs to a kind
KINDS = ("imaging", "clinical", "ccda")
# The modules that every kind has, and those that a kind has only where its data needs them.
OF_EVERY_KIND = {"parse", "validate", "normalize", "import_", "manifests", "outcomes", "audit", "plan", "redrive"}
OF_KINDS_THAT_RELEASE = {"gate", "report", "read_back", "contracts"}  # documents are released as the resources in them
PUBLICATION = "airlock.imaging.publication"  # publishes studies through clinical's stages

# What each package may import of ours; itself is always allowed.
ALLOWED: dict[str, set[str]] = {
    "dags": {"airlock_tasks", "airlock"},
    "plugins/airlock_tasks": {"airlock", "healthaws"},
    "plugins/airlock_console": {"airlock"},
    "plugins/healthaws": set(),
    "include/airlock": set(),
    "include/localaws": set(),
    "include/airlock_cli": {"airlock"},
    "include/airlock_edge": {"airlock"},
    "include/airlock_local": {"airlock", "airlock_cli", "localaws"},
}
OURS = {"airlock", "airlock_cli", "airlock_console", "airlock_edge", "airlock_local", "airlock_tasks"} | {
    *("healthaws", "localaws", "tests", "dags", "imaging"),
}
FOREIGN_TO_THE_LIBRARY = {"airflow"}
HEALTHAWS_KNOWS = {"airflow", "botocore", "asgiref", "typing_extensions"}


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path} has a relative import"
            found.add(node.module or "")
    return found


def _tops(path: Path) -> set[str]:
    return {name.split(".")[0] for name in _imports(path)}


def _files(package: str) -> list[Path]:
    files = sorted((ROOT / package).rglob("*.py"))
    assert files, package
    return files


@pytest.mark.parametrize("package", ALLOWED)
def test_dependencies_point_down_only(package: str) -> None:
    itself = package.rsplit("/", 1)[-1]
    for path in _files(package):
        foreign = (_tops(path) & OURS) - ALLOWED[package] - {itself}
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


@pytest.mark.parametrize(
    "package", ["include/airlock", "include/airlock_cli", "include/airlock_edge", "include/localaws"]
)
def test_the_libraries_do_not_know_airflow(package: str) -> None:
    for path in _files(package):
        assert not _tops(path) & FOREIGN_TO_THE_LIBRARY, path.relative_to(ROOT)


def test_healthaws_knows_airflow_and_aws_only() -> None:
    import sys

    for path in _files("plugins/healthaws"):
        foreign = _tops(path) - HEALTHAWS_KNOWS - {"healthaws"} - set(sys.stdlib_module_names)
        assert not foreign, f"{path.relative_to(ROOT)} imports {sorted(foreign)}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name_everywhere(stage: str) -> None:
    folder = "airlock/stages" if stage in SHARED_STAGES else "airlock/imaging"
    for place in (
        f"include/{folder}/{stage}.py",
        f"plugins/airlock_tasks/{stage}.py",
        f"tests/unit/{folder}/test_{stage}.py",
    ):
        assert (ROOT / place).is_file(), place


@pytest.mark.parametrize("kind", KINDS)
def test_a_kind_has_its_stages_under_their_names(kind: str) -> None:
    there = {path.stem for path in (ROOT / "include/airlock" / kind).glob("*.py")}
    assert OF_EVERY_KIND - there == set()
    assert kind == "ccda" or OF_KINDS_THAT_RELEASE - there == set()


def test_kinds_do_not_import_each_other() -> None:
    assert {importer for importer, _ in figures().across} == {PUBLICATION}
    assert {imported.split(".")[1] for _, imported in figures().across} == {"clinical"}


@pytest.mark.parametrize("package", ["include", "plugins"])
def test_no_module_is_over_500_lines(package: str) -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _files(package)}
    assert not {str(path.relative_to(ROOT)): number for path, number in lines.items() if number > 500}


def test_the_imports_of_the_library_point_down() -> None:
    graph = figures()
    assert not graph.upward, graph  # stages and destinations import no kind
    assert not graph.cycle, graph
    assert not graph.member_cycles, graph
    assert graph.members <= 13, graph


def test_no_module_is_named_for_leftovers() -> None:
    names = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py", "stuff.py"}
    assert not [path for package in ALLOWED for path in _files(package) if path.name in names]


def test_the_plugin_loader_leaves_our_packages_alone() -> None:
    ignored = (ROOT / "plugins/.airflowignore").read_text().split()
    packages = {f"{path.name}/" for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").is_file()}
    assert packages
    assert packages <= set(ignored)
