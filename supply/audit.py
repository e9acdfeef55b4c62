"""``make audit-dependencies``: ask for the known vulnerabilities of locked packages, and say which were not looked up.

pip-audit ends with 0 and "No known vulnerabilities found" if the service knows none of the packages, for example behind
a mirror that hands on files only. So this counts what was looked up, and asks about a package that is known to be
vulnerable first: a service that finds nothing there has not been asked.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections import Counter
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CONTROL = "pyyaml==5.1"  # CVE-2019-20477, CVE-2020-1747 and CVE-2020-14343 are about this version
_LINE = 300  # characters of another program's message


class Status(IntEnum):
    """The exit statuses."""

    NONE_KNOWN = 0  # every package was looked up, and none has a known vulnerability
    VULNERABLE = 1
    NOT_LOOKED_UP = 2  # some or all packages; nothing is known of them


@dataclass(frozen=True)
class Answer:
    """What a vulnerability service says of the packages of a requirements file."""

    known: dict[str, list[str]]  # the ids of vulnerabilities by "name version", of each package that was looked up
    skipped: dict[str, str]  # why a package was not looked up, by name


class ServiceError(RuntimeError):
    """The service did not answer; the message is the last line of what pip-audit said."""


def ask_pip_audit(service: str, file: Path) -> Answer:
    """Return what a service knows of the packages of a requirements file with exact versions; installs nothing.

    Parameters
    ----------
    service
        ``pypi``, ``osv``, or the address of another server with OSV's API, such as a mirror: ``https://host/v1/query``.
    file
        The file.

    Raises
    ------
    ServiceError
        If the service does not answer.
    """
    command = [sys.executable, "-m", "pip_audit", "--requirement", str(file), "--no-deps", "--disable-pip"]
    options = ["--format=json", "--progress-spinner=off", *_name_service(service)]
    done = subprocess.run([*command, *options], check=False, capture_output=True, text=True)  # noqa: S603  # our words
    try:
        found: dict[str, Any] = json.loads(done.stdout)
    except ValueError:
        said = (done.stderr.strip().splitlines() or [f"pip-audit ended with {done.returncode}"])[-1]
        raise ServiceError(said[:_LINE]) from None
    return read_answer(found)


def _name_service(service: str) -> tuple[str, ...]:
    if "://" in service:
        return "--vulnerability-service=osv", f"--osv-url={service}"
    return (f"--vulnerability-service={service}",)


def read_answer(found: dict[str, Any]) -> Answer:
    """Return pip-audit's JSON (``--format=json``) as an answer."""
    packages = found["dependencies"]
    return Answer(
        {f"{one['name']} {one['version']}": [v["id"] for v in one["vulns"]] for one in packages if "vulns" in one},
        {one["name"]: one["skip_reason"] for one in packages if "skip_reason" in one},
    )


def audit(locks: Sequence[Path], ask: Callable[[Path], Answer], say: Callable[[str], object]) -> Status:
    """Say what is known of the packages of each lock; return the gravest status of all.

    Parameters
    ----------
    locks
        Requirements files with exact versions.
    ask
        Looks the packages of a file up.
    say
        Takes a line of the report.
    """
    try:
        _check_control(ask)
        statuses = [_report(lock.name, ask(lock), say) for lock in locks]
    except ServiceError as error:
        say(f"NOT LOOKED UP: {', '.join(lock.name for lock in locks)}. {error}")
        return Status.NOT_LOOKED_UP
    return Status.VULNERABLE if Status.VULNERABLE in statuses else max(statuses)


def _check_control(ask: Callable[[Path], Answer]) -> None:
    with tempfile.TemporaryDirectory(prefix="airlock-audit-") as folder:
        file = Path(folder) / "control.txt"
        file.write_text(CONTROL + "\n", encoding="utf-8")
        answer = ask(file)
    if not any(answer.known.values()):
        why = next(iter(answer.skipped.values()), "it names none")
        raise ServiceError(
            f"The service does not know the vulnerabilities of {CONTROL}, which are public: {why}. "
            "Call this where the service can be reached, or choose another one: SERVICE=osv, SERVICE=pypi, or "
            "SERVICE= the address of a mirror of OSV."
        )


def _report(name: str, answer: Answer, say: Callable[[str], object]) -> Status:
    vulnerable = {package: ids for package, ids in answer.known.items() if ids}
    for package, ids in sorted(vulnerable.items()):
        say(f"{name}: {package} has {', '.join(ids)}")
    for reason, number in Counter(answer.skipped.values()).most_common():
        say(f"{name}: {number} not looked up: {reason}")
    say(f"{name}: {len(answer.known)} packages looked up, {len(vulnerable)} vulnerable, {len(answer.skipped)} unknown")
    if vulnerable:
        return Status.VULNERABLE
    return Status.NOT_LOOKED_UP if answer.skipped or not answer.known else Status.NONE_KNOWN


def main() -> int:
    """Look the packages of locks up. Exit status: 0 none is known to be vulnerable; 1 some are; 2 not all looked up."""
    parser = argparse.ArgumentParser(prog="python -m supply.audit", description=main.__doc__)
    parser.add_argument("--service", default="pypi", help="pypi, osv, or the address of a server with OSV's API")
    parser.add_argument("locks", nargs="+", type=Path)
    arguments = parser.parse_args()
    return audit(
        arguments.locks,
        lambda file: ask_pip_audit(arguments.service, file),
        lambda line: sys.stdout.write(line + "\n"),
    )


if __name__ == "__main__":
    raise SystemExit(main())
