"""``make docs`` builds the site without a warning and without the network.

`make proofs` installs the packages; AIRLOCK_DOCS_PYTHON names the Python of another place that has them.
"""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import pytest

from tests.markdown import DOCS, ROOT

PYTHON = Path(os.environ.get("AIRLOCK_DOCS_PYTHON") or ROOT / ".venv/docs/bin/python")
# What a page would load from elsewhere when it is opened; a link that a person follows is not among these.
LOADED = re.compile(r"<(?:script|img|iframe|source|link)\b[^>]*?(?:src|href)=\"((?:https?:)?//[^\"]+)\"")
# Sockets of a build: it needs none, so an attempt ends it.
NO_NETWORK = """
import socket, sys
def refuse(*arguments, **options):
    raise AssertionError("the build of the site opened a connection")
socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse
sys.argv = ["website", sys.argv[1]]
from website.__main__ import main
raise SystemExit(main())
"""

pytestmark = [pytest.mark.proof, pytest.mark.timeout(600)]


def build(folder: Path, root: Path = ROOT) -> subprocess.CompletedProcess[str]:
    assert PYTHON.is_file(), f"there is no {PYTHON}: run make proofs, or set AIRLOCK_DOCS_PYTHON"
    paths = os.pathsep.join(str(path) for path in (root, root / "include", root / "plugins"))
    environment = os.environ | {"PYTHONPATH": paths, "AIRFLOW_HOME": str(folder / "airflow")}
    command = [PYTHON, "-c", NO_NETWORK, str(folder)]
    return subprocess.run(
        command, check=False, cwd=folder, env=environment, capture_output=True, text=True, timeout=580
    )


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("docs")
    done = build(folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "site"


def test_every_page_of_docs_is_built(site: Path) -> None:
    assert [page for page in DOCS if not (site / page).with_suffix(".html").is_file()] == []


def test_nothing_is_loaded_from_elsewhere(site: Path) -> None:
    pages = list(site.rglob("*.html"))
    assert len(pages) > 100
    assert {found for page in pages for found in LOADED.findall(page.read_text(encoding="utf-8"))} == set()
    styles = [*site.rglob("*.css"), *site.rglob("*.js")]
    assert [style for style in styles if re.search(r"url\(['\"]?https?:|@import", style.read_text("utf-8"))] == []


@pytest.mark.parametrize(
    ("page", "text"),
    [
        ("healthaws-operators", "StartJobOperator"),
        ("healthaws-sensors", "Sensor"),
        ("command-line", "--onto-backup"),
        ("schema-pipeline", "queue_url"),
        ("schema-study-contract", "NumberOfStudyRelatedInstances"),
    ],
)
def test_the_reference_is_made_from_the_code(site: Path, page: str, text: str) -> None:
    assert text in (site / f"docs/reference/{page}.html").read_text(encoding="utf-8")


def test_a_warning_fails_the_build(tmp_path: Path) -> None:
    """A copy of the repository with a page whose anchor does not exist."""
    copy, output = tmp_path / "copy", tmp_path / "output"
    subprocess.run(["git", "clone", "--quiet", "--shared", str(ROOT), str(copy)], check=True)
    output.mkdir()
    page = copy / "docs/stow.md"
    page.write_text(page.read_text(encoding="utf-8") + "\n[nowhere](#no-such-heading)\n", encoding="utf-8")
    done = build(output, copy)
    assert done.returncode != 0
    assert "no-such-heading" in done.stderr + done.stdout
