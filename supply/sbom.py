"""``make sbom``: write what a lock deploys as a CycloneDX bill of materials, checked against CycloneDX's schema.

Names, versions, hashes, markers and dependencies come from the lock, licences from NOTICE. Nothing is downloaded.
"""

from __future__ import annotations

import argparse
import re
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

from cyclonedx.contrib.license.factories import LicenseFactory
from cyclonedx.model import ExternalReference, ExternalReferenceType, HashAlgorithm, HashType, Property, XsUri
from cyclonedx.model.bom import Bom
from cyclonedx.model.component import Component, ComponentScope, ComponentType
from cyclonedx.output.json import JsonV1Dot6
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from packageurl import PackageURL

from supply.lock import read_direct, read_lock
from supply.notice import NOTICE, ROOT, read_notice

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from supply.lock import Pin


class SbomError(ValueError):
    """The bill of materials does not follow CycloneDX's schema."""


def make_bom(pins: Collection[Pin], direct: Collection[str], licences: Mapping[tuple[str, str], str | None]) -> Bom:
    """Return the bill of materials of Airlock with these packages.

    Parameters
    ----------
    pins
        The packages of a lock.
    direct
        The names of those that Airlock itself requires.
    licences
        Licences by name and version; a package without one gets none.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    airlock = Component(
        name=project["name"],
        version=project["version"],
        type=ComponentType.APPLICATION,
        bom_ref="airlock",
        licenses=[LicenseFactory().make_from_string(project["license"])],
    )
    bom = Bom()
    bom.metadata.component = airlock
    made = {pin: _make_component(pin, licences.get((pin.name, pin.version))) for pin in pins}
    bom.components.update(made.values())
    bom.register_dependency(airlock, [made[pin] for pin in pins if pin.name in direct])
    for pin, component in made.items():
        bom.register_dependency(component, [made[other] for other in pins if pin.name in other.required_by])
    return bom


def _make_component(pin: Pin, licence: str | None) -> Component:
    """Return a package; its files' hashes are of one distribution, as CycloneDX has it for packages with several."""
    page = XsUri(f"https://pypi.org/project/{pin.name}/{pin.version}/#files")
    hashes = [HashType(alg=HashAlgorithm.SHA_256, content=digest) for digest in pin.hashes]
    return Component(
        name=pin.name,
        version=pin.version,
        type=ComponentType.LIBRARY,
        bom_ref=f"{pin.name}=={pin.version}",
        purl=PackageURL(type="pypi", name=pin.name, version=pin.version),
        scope=ComponentScope.OPTIONAL if pin.marker else ComponentScope.REQUIRED,
        licenses=[LicenseFactory().make_from_string(licence)] if licence else None,
        properties=[Property(name="airlock:marker", value=pin.marker)] if pin.marker else None,
        external_references=[ExternalReference(type=ExternalReferenceType.DISTRIBUTION, url=page, hashes=hashes)],
    )


def write_bom(bom: Bom) -> str:
    """Return a bill of materials as CycloneDX 1.6 JSON.

    Raises
    ------
    SbomError
        If it does not follow the schema.
    """
    text: str = JsonV1Dot6(bom).output_as_string(indent=1)
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    if fault is not None:
        raise SbomError(f"The bill of materials breaks CycloneDX 1.6: {fault}")
    return text + "\n"


def main() -> None:
    """Write the bill of materials of a lock."""
    parser = argparse.ArgumentParser(prog="python -m supply.sbom", description=main.__doc__)
    parser.add_argument("lock", type=Path, help="requirements.lock, or another lock of a deployment")
    parser.add_argument("output", type=Path)
    arguments = parser.parse_args()
    lock: Path = arguments.lock
    pins = read_lock(lock)
    named = re.findall(r"^-r (\S+)", lock.with_suffix(".txt").read_text(encoding="utf-8"), re.MULTILINE)
    direct = set().union(*(read_direct(lock.with_name(name)) for name in (lock.with_suffix(".txt").name, *named)))
    licences = read_notice(NOTICE.read_text(encoding="utf-8"))
    text = write_bom(make_bom(pins, direct, licences))
    arguments.output.parent.mkdir(parents=True, exist_ok=True)
    arguments.output.write_text(text, encoding="utf-8")
    stated = sum(licences.get((pin.name, pin.version)) is not None for pin in pins)
    sys.stdout.write(f"{arguments.output}: {len(pins)} packages, {stated} with a licence, valid CycloneDX 1.6\n")


if __name__ == "__main__":
    main()
