"""The audit of dependencies never passes for a package that was not looked up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from supply.audit import CONTROL, Answer, ServiceError, Status, audit, read_answer
from supply.notice import list_packages

from tests.markdown import ROOT

if TYPE_CHECKING:
    from collections.abc import Callable

CONTROL_FOUND = Answer({CONTROL.replace("==", " "): ["CVE-2020-1747"]}, {})
LOCK = Path("requirements.lock")


def answers(lock: Answer, control: Answer = CONTROL_FOUND) -> Callable[[Path], Answer]:
    return lambda file: lock if file == LOCK else control


def audited(ask: Callable[[Path], Answer]) -> tuple[Status, str]:
    said: list[str] = []
    status = audit([LOCK], ask, said.append)
    return status, "\n".join(said)


def test_it_passes_if_every_package_was_looked_up_and_none_is_vulnerable() -> None:
    status, said = audited(answers(Answer({"rich 15.0.0": [], "yarl 1.25.1": []}, {})))
    assert status is Status.NONE_KNOWN
    assert said == "requirements.lock: 2 packages looked up, 0 vulnerable, 0 unknown"


def test_it_names_the_vulnerabilities_of_a_package() -> None:
    status, said = audited(answers(Answer({"jinja2 2.10": ["CVE-2019-10906"]}, {"rich": "not found"})))
    assert status is Status.VULNERABLE
    assert "jinja2 2.10 has CVE-2019-10906" in said


def test_a_package_that_the_service_does_not_know_is_not_a_pass() -> None:
    status, said = audited(answers(Answer({"rich 15.0.0": []}, {"fhirkit-rs": "not found on PyPI"})))
    assert status is Status.NOT_LOOKED_UP
    assert "1 not looked up: not found on PyPI" in said


@pytest.mark.parametrize(
    "control", [Answer({}, {"pyyaml": "not found on PyPI"}), Answer({"pyyaml 5.1": []}, {})], ids=["unknown", "clean"]
)
def test_a_service_that_does_not_know_a_public_vulnerability_is_not_believed(control: Answer) -> None:
    status, said = audited(answers(Answer({"rich 15.0.0": []}, {}), control))
    assert status is Status.NOT_LOOKED_UP
    assert said.startswith(
        f"NOT LOOKED UP: requirements.lock. The service does not know the vulnerabilities of {CONTROL}"
    )


def test_a_service_that_does_not_answer_is_not_a_pass() -> None:
    def fails(file: Path) -> Answer:
        raise ServiceError("ConnectionError: no route")

    assert audited(fails) == (Status.NOT_LOOKED_UP, "NOT LOOKED UP: requirements.lock. ConnectionError: no route")


def test_a_lock_without_packages_is_not_a_pass() -> None:
    assert audited(answers(Answer({}, {})))[0] is Status.NOT_LOOKED_UP


def test_the_answer_of_pip_audit_is_read() -> None:
    """As pip-audit 2.10 prints it."""
    found = {
        "dependencies": [
            {"name": "rich", "version": "15.0.0", "vulns": []},
            {"name": "pyyaml", "version": "5.1", "vulns": [{"id": "PYSEC-2020-96", "fix_versions": ["5.3.1"]}]},
            {"name": "httpx", "skip_reason": "Dependency not found on PyPI"},
        ],
        "fixes": [],
    }
    assert read_answer(found) == Answer(
        {"rich 15.0.0": [], "pyyaml 5.1": ["PYSEC-2020-96"]}, {"httpx": "Dependency not found on PyPI"}
    )


def test_every_lock_that_an_image_installs_is_asked_about() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    (asked,) = re.findall(r"-m supply\.audit --service \$\(SERVICE\) (.+)$", makefile, re.MULTILINE)
    assert asked.split() == list(list_packages())
    assert f"supply.audit {asked}`" in " ".join((ROOT / "SECURITY.md").read_text(encoding="utf-8").split())
