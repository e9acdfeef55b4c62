"""``make sbom`` and ``make audit-dependencies`` with the packages of requirements-supply.lock.

`make proofs` installs them; AIRLOCK_SUPPLY_PYTHON names the Python of another place that has them.
"""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from supply.lock import read_lock

from tests.markdown import ROOT
from tests.servers.osv import osv_server

PYTHON = Path(os.environ.get("AIRLOCK_SUPPLY_PYTHON") or ROOT / ".venv/supply/bin/python")
CONTROL = {("pyyaml", "5.1"): "PYSEC-2020-96"}

pytestmark = pytest.mark.proof


def run(*words: str) -> subprocess.CompletedProcess[str]:
    assert PYTHON.is_file(), f"there is no {PYTHON}: run make proofs, or set AIRLOCK_SUPPLY_PYTHON"
    return subprocess.run([PYTHON, "-m", *words], check=False, cwd=ROOT, capture_output=True, text=True, timeout=240)


@pytest.fixture(scope="module")
def sbom(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The bill of materials of the deployment; the program checks it against CycloneDX's schema."""
    output = tmp_path_factory.mktemp("sbom") / "requirements.cdx.json"
    done = run("supply.sbom", "requirements.lock", str(output))
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(output.read_text(encoding="utf-8"))
    return found


def test_the_bill_has_every_package_of_the_lock_with_all_its_hashes(sbom: dict[str, Any]) -> None:
    made = {
        (one["name"], one["version"]): {digest["content"] for digest in one["externalReferences"][0]["hashes"]}
        for one in sbom["components"]
    }
    assert made == {(pin.name, pin.version): set(pin.hashes) for pin in read_lock(ROOT / "requirements.lock")}


def test_the_bill_has_the_licences_of_the_notice(sbom: dict[str, Any]) -> None:
    (polars,) = (one for one in sbom["components"] if one["name"] == "polars")
    assert [one["license"]["id"] for one in polars["licenses"]] == ["MIT"]
    assert sum("licenses" in one for one in sbom["components"]) > len(sbom["components"]) - 12


def test_every_package_of_the_bill_is_reached_from_airlock(sbom: dict[str, Any]) -> None:
    requires = {one["ref"]: set(one.get("dependsOn", ())) for one in sbom["dependencies"]}
    reached: set[str] = set()
    waiting = ["airlock"]
    while waiting:
        if (ref := waiting.pop()) not in reached:
            reached.add(ref)
            waiting += requires[ref]
    assert {one["bom-ref"] for one in sbom["components"]} - reached == set()


def test_the_audit_passes_where_the_service_knows_its_control_and_nothing_else() -> None:
    with osv_server(CONTROL) as address:
        done = run("supply.audit", "--service", address, "requirements-supply.lock")
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{_installed_here()} packages looked up, 0 vulnerable, 0 unknown" in done.stdout


def test_the_audit_names_what_the_service_knows() -> None:
    pip = next(pin for pin in read_lock(ROOT / "requirements-supply.lock") if pin.name == "pip")
    with osv_server(CONTROL | {("pip", pip.version): "PYSEC-0000-1"}) as address:
        done = run("supply.audit", "--service", address, "requirements-supply.lock")
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"pip {pip.version} has PYSEC-0000-1" in done.stdout


def test_the_audit_does_not_pass_where_nothing_can_be_reached() -> None:
    done = run("supply.audit", "--service", "http://127.0.0.1:9/v1/query", "requirements-supply.lock")
    assert done.returncode == 2, done.stdout + done.stderr
    assert done.stdout.startswith("NOT LOOKED UP: requirements-supply.lock.")


def _installed_here() -> int:
    """Return how many packages of the lock this Python takes: pip-audit leaves out those whose marker is false."""
    from packaging.markers import Marker

    pins = read_lock(ROOT / "requirements-supply.lock")
    return sum(not pin.marker or Marker(pin.marker).evaluate() for pin in pins)
