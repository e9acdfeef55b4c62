"""The house: arrows point down only, a stage has one name everywhere, and DAG files stay light."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tests.import_graph import figures

ROOT = Path(__file__).parents[1]
STAGES = ("receive", "buffer", "parse", "validate", "normalize", "import_", "audit", "route")
SHARED_STAGES = {"receive", "buffer", "route"}  # those of which no part is a kind's

# What each room may import of ours; itself is always allowed.
ALLOWED: dict[str, set[str]] = {
    "dags": {"airlock_tasks", "airlock"},
    "plugins/airlock_tasks": {"airlock", "healthaws"},
    "plugins/healthaws": set(),
    "include/airlock": set(),
    "include/localaws": set(),
    "include/airlock_cli": {"airlock"},
    "include/airlock_local": {"airlock", "airlock_cli", "localaws"},
}
OURS = {"airlock", "airlock_cli", "airlock_local", "airlock_tasks", "healthaws", "localaws", "tests", "dags", "imaging"}
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


def _files(room: str) -> list[Path]:
    files = sorted((ROOT / room).rglob("*.py"))
    assert files, room
    return files


@pytest.mark.parametrize("room", ALLOWED)
def test_arrows_point_down_only(room: str) -> None:
    itself = room.rsplit("/", 1)[-1]
    for path in _files(room):
        strangers = (_tops(path) & OURS) - ALLOWED[room] - {itself}
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


@pytest.mark.parametrize("room", ["include/airlock", "include/airlock_cli", "include/localaws"])
def test_the_libraries_do_not_know_airflow(room: str) -> None:
    for path in _files(room):
        assert not _tops(path) & FOREIGN_TO_THE_LIBRARY, path.relative_to(ROOT)


def test_healthaws_knows_airflow_and_aws_only() -> None:
    import sys

    for path in _files("plugins/healthaws"):
        strangers = _tops(path) - HEALTHAWS_KNOWS - {"healthaws"} - set(sys.stdlib_module_names)
        assert not strangers, f"{path.relative_to(ROOT)} imports {sorted(strangers)}"


@pytest.mark.parametrize("stage", STAGES)
def test_a_stage_has_one_name_everywhere(stage: str) -> None:
    folder = "airlock/stages" if stage in SHARED_STAGES else "airlock/imaging"
    for place in (
        f"include/{folder}/{stage}.py",
        f"plugins/airlock_tasks/{stage}.py",
        f"tests/unit/{folder}/test_{stage}.py",
    ):
        assert (ROOT / place).is_file(), place


def test_stages_do_not_import_a_kind() -> None:
    strange = [arrow for arrow in figures().upward if arrow[0].startswith("airlock.stages.")]
    assert not strange


@pytest.mark.parametrize("package", ["include/airlock", "plugins"])
def test_no_module_is_over_500_lines(package: str) -> None:
    lines = {path: len(path.read_text(encoding="utf-8").splitlines()) for path in _files(package)}
    assert not {str(path.relative_to(ROOT)): number for path, number in lines.items() if number > 500}


def test_the_import_graph_of_the_library_gets_no_worse() -> None:
    graph = figures()
    assert not graph.cycle, graph
    assert graph.members <= 14, graph
    assert len(graph.upward) <= 1, graph
    assert len(graph.across) <= 7, graph
    assert sum(map(len, graph.member_cycles)) <= 4, graph


def test_no_module_is_a_drawer_for_leftovers() -> None:
    drawers = {"utils.py", "util.py", "helpers.py", "helper.py", "common.py", "misc.py", "stuff.py"}
    assert not [path for room in ALLOWED for path in _files(room) if path.name in drawers]


def test_the_plugin_loader_leaves_our_packages_alone() -> None:
    ignored = (ROOT / "plugins/.airflowignore").read_text().split()
    packages = {f"{path.name}/" for path in (ROOT / "plugins").iterdir() if (path / "__init__.py").is_file()}
    assert packages
    assert packages <= set(ignored)
