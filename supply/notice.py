"""``make notice``: write NOTICE, the licences of all packages of requirements.lock.

It runs where the packages of the lock are installed, and reads their own metadata.
"""

from __future__ import annotations

import re
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
_ROW = re.compile(r"^  (?P<name>\S+) +(?P<version>\S+)  +(?P<licence>.+)$", re.MULTILINE)
_NOT_READ = "not read, since it is installed only where "


def write_notice(pins: Iterable[Pin], licences: Mapping[Pin, str | None]) -> str:
    """Return the text of NOTICE.

    Parameters
    ----------
    pins
        The packages of the lock.
    licences
        The licence of each; None where the package is not installed.

    Raises
    ------
    ValueError
        If a package without a marker is not installed.
    """
    return _PREFACE + "".join(_write_row(pin, licences[pin]) for pin in pins)


def read_notice(text: str) -> dict[tuple[str, str], str | None]:
    """Return the licences in a NOTICE by name and version; None where it has not been read."""
    rows = _ROW.findall(text.partition("requirements.lock")[2])
    return {(name, version): None if licence.startswith(_NOT_READ) else licence for name, version, licence in rows}


def _write_row(pin: Pin, licence: str | None) -> str:
    if licence is None and not pin.marker:
        raise ValueError(f"{pin.name} {pin.version} is not installed. Install requirements-dev.lock, then: make notice")
    return f"  {pin.name:<45} {pin.version:<14} {licence or _NOT_READ + pin.marker}\n"


def main() -> None:
    """Write NOTICE."""
    pins = read_lock(ROOT / "requirements.lock")
    licences = {pin: find_licence(pin) for pin in pins}
    NOTICE.write_text(write_notice(pins, licences), encoding="utf-8")
    read = sum(licence is not None for licence in licences.values())
    sys.stdout.write(f"NOTICE: {len(pins)} packages, the licences of {read} read from their metadata\n")


if __name__ == "__main__":
    main()
