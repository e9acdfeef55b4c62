"""``make notice``: write NOTICE, the licences of all packages of the images.

It reads the metadata of the packages that are installed where it runs, and downloads the packages that are not: those
of FAB and of Kubernetes.
"""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from supply.licences import find_licence
from supply.lock import read_lock

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from supply.lock import Pin

ROOT = Path(__file__).parents[1]
NOTICE = ROOT / "NOTICE"
_PREFACE = """\
Airlock
Licensed under the Apache License, Version 2.0; see LICENSE.

The package localaws contains reduced definitions of FHIR R4 (4.0.1) and profiles of US Core, by HL7 International:
CC0-1.0. docs/fhir-validation.md says where they come from.

An image that is built from the Dockerfile contains these packages, at the versions of requirements.lock. Each keeps its
licence and its notices in its own folder *.dist-info. The licences are those that the packages state; where a package
names several with OR, the deployment may choose. "make notice" writes this file.

"""
_BASE = "requirements.lock"
_BESIDES = {  # by lock: a heading, and the locks of the images that the image is built on
    "requirements-fab.lock": ("The image airlock-fab contains these besides", (_BASE,)),
    "requirements-kubernetes.lock": (
        "The image airlock-kubernetes contains these besides those of airlock-fab",
        (_BASE, "requirements-fab.lock"),
    ),
    "requirements-local.lock": ("The image local-aws contains these besides", (_BASE,)),
    "requirements-edge.lock": ("The image of deploy/edge/Containerfile contains these and no others", ()),
}
_HEADING = re.compile(r"at the\s+versions\s+of\s+(requirements[a-z-]*\.lock)")
_DOWNLOADED = ROOT / "build" / "notice"
_ROW = re.compile(r"^  (?P<name>\S+) +(?P<version>\S+)  +(?P<licence>.+)$", re.MULTILINE)
_NOT_READ = "not read, since it is installed only where "


def list_packages() -> dict[str, list[Pin]]:
    """Return the packages of each part of NOTICE, by lock, without those of the images that its image is built on."""
    locks = {name: read_lock(ROOT / name) for name in (_BASE, *_BESIDES)}
    lists = {_BASE: locks[_BASE]}
    for name, (_, below) in _BESIDES.items():
        there = {(pin.name, pin.version) for lock in below for pin in locks[lock]}
        lists[name] = [pin for pin in locks[name] if (pin.name, pin.version) not in there]
    return lists


def write_notice(lists: Mapping[str, Iterable[Pin]], licences: Mapping[Pin, str | None]) -> str:
    """Return the text of NOTICE.

    Parameters
    ----------
    lists
        The packages of each part, from `list_packages`.
    licences
        The licence of each; None where the package is not installed.

    Raises
    ------
    ValueError
        If a package without a marker is not installed.
    """
    parts = []
    for lock, pins in lists.items():
        heading = f"\n{_BESIDES[lock][0]}, at the versions of {lock}:\n\n" if lock in _BESIDES else _PREFACE
        parts += [heading, *(_write_row(pin, licences[pin]) for pin in pins)]
    return "".join(parts)


def read_parts(text: str) -> dict[str, dict[tuple[str, str], str | None]]:
    """Return the licences in each part of a NOTICE, by lock, then by name and version; None where one is not read."""
    _, *parts = _HEADING.split(text)
    return {
        lock: {
            (name, version): None if licence.startswith(_NOT_READ) else licence
            for name, version, licence in _ROW.findall(part)
        }
        for lock, part in zip(parts[::2], parts[1::2], strict=True)
    }


def read_notice(text: str) -> dict[tuple[str, str], str | None]:
    """Return the licences in all parts of a NOTICE by name and version; None where it has not been read."""
    return {key: licence for part in read_parts(text).values() for key, licence in part.items()}


def _write_row(pin: Pin, licence: str | None) -> str:
    if licence is None and not pin.marker:
        raise ValueError(f"{pin.name} {pin.version} is not installed. Install requirements-dev.lock, then: make notice")
    return f"  {pin.name:<45} {pin.version:<14} {licence or _NOT_READ + pin.marker}\n"


def _download(pins: Iterable[Pin]) -> None:
    """Install packages into a folder of their own, by the hashes of their lock."""
    _DOWNLOADED.mkdir(parents=True, exist_ok=True)
    listed = _DOWNLOADED / "requirements.txt"
    lines = [" ".join([f"{pin.name}=={pin.version}", *(f"--hash=sha256:{one}" for one in pin.hashes)]) for pin in pins]
    listed.write_text("\n".join(lines) + "\n", encoding="utf-8")
    install = [Path(sys.executable).with_name("uv"), "pip", "install", "--quiet", "--no-deps", "--require-hashes"]
    where = ["--python", sys.executable, "--target", _DOWNLOADED / "packages", "--requirements", listed]
    subprocess.run([*install, *where], check=True)  # noqa: S603  # uv says what it could not download


def main() -> None:
    """Write NOTICE."""
    lists = list_packages()
    pins = list(dict.fromkeys(pin for part in lists.values() for pin in part))
    if missing := [pin for pin in pins if not pin.marker and find_licence(pin) is None]:
        _download(missing)
    licences = {pin: find_licence(pin, _DOWNLOADED / "packages") for pin in pins}
    NOTICE.write_text(write_notice(lists, licences), encoding="utf-8")
    listed = {(pin.name, pin.version): licences[pin] for pin in pins}
    read = sum(licence is not None for licence in listed.values())
    sys.stdout.write(f"NOTICE: {len(listed)} packages, the licences of {read} read from their metadata\n")


if __name__ == "__main__":
    main()
