"""Search parameters made of FHIR's definitions: expressions become element names and types."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from localaws.healthlake import reduce_search
from localaws.healthlake.reduce_search import Definitions, list_paths, reduce_parameters

if TYPE_CHECKING:
    from pathlib import Path


def element(path: str, *types: str, least: int = 0, summary: bool = False, **more: Any) -> dict[str, Any]:
    return {"path": path, "type": [{"code": code} for code in types], "min": least, "isSummary": summary, **more}


def definition(name: str, kind: str, *elements: dict[str, Any]) -> dict[str, Any]:
    snapshot = {"element": [{"path": name, "min": 0}, *elements]}
    return {
        "resourceType": "StructureDefinition",
        "type": name,
        "kind": kind,
        "abstract": False,
        "snapshot": snapshot,
    }


def parameter(code: str, kind: str, expression: str, base: str = "Ship") -> dict[str, Any]:
    return {
        "id": f"{base}-{code}",
        "code": code,
        "type": kind,
        "expression": expression,
        "base": [base],
        "version": "4.0.1",
    }


@pytest.fixture
def package(tmp_path: Path) -> Path:
    folder = tmp_path / "dist/fhir/r4"
    folder.mkdir(parents=True)
    ship = definition(
        "Ship",
        "resource",
        element("Ship.id", "http://hl7.org/fhirpath/System.String"),
        element("Ship.name", "string", least=1),
        element("Ship.value[x]", "Quantity", "string", summary=True),
        element("Ship.captain", "Reference"),
        element("Ship.radio", "ContactPoint"),
        element("Ship.deck", "BackboneElement"),
        element("Ship.deck.gun", "Coding"),
        {"path": "Ship.deck.deck", "min": 0, "contentReference": "#Ship.deck"},
    )
    contact = definition("ContactPoint", "complex-type", element("ContactPoint.value", "string"))
    parameters = [
        parameter("value", "quantity", "(Ship.value as Quantity) | (Boat.value as Quantity)"),
        parameter("text", "string", "Ship.value.as(string)"),
        parameter("any", "string", "Ship.value"),
        parameter("name", "string", "name | Ship.deck.gun"),
        parameter("captain", "reference", "Ship.captain.where(resolve() is Person)"),
        parameter("mail", "token", "Ship.radio.where(system='email')"),
        parameter("call", "token", "Ship.radio.value"),
        parameter("gun", "token", "Ship.deck.deck.gun"),
        parameter("both", "composite", "Ship"),
        parameter("first", "reference", "Ship.captain[0]"),
        parameter("near", "special", "Location.position", "Location"),
        parameter("_id", "token", "Resource.id", "Resource"),
    ]
    files = {
        "profiles-types.json": [contact],
        "profiles-resources.json": [definition("Resource", "logical", element("Resource.id", "id")), ship],
        "search-parameters.json": parameters,
    }
    for name, resources in files.items():
        (folder / name).write_text(json.dumps({"entry": [{"resource": item} for item in resources]}))
    (tmp_path / "package.json").write_text(json.dumps({"name": "definitions", "version": "1.2.3"}))
    return tmp_path


def test_expressions_become_paths_with_types(package: Path) -> None:
    content = reduce_parameters(package)
    paths = {code: item["paths"] for code, item in content["types"]["Ship"]["parameters"].items()}
    assert paths == {
        "value": ["valueQuantity:Quantity"],
        "text": ["valueString:string"],
        "any": ["valueQuantity:Quantity", "valueString:string"],
        "name": ["deck.gun:Coding", "name:string"],
        "captain": ["captain:Reference(Person)"],
        "mail": ["radio[system=email]:ContactPoint"],
        "call": ["radio.value:string"],
        "gun": ["deck.deck.gun:Coding"],
        "both": [],
        "first": [],
    }
    assert content["common"]["_id"]["paths"] == ["id:id"]


def test_the_top_of_a_resource_is_described(package: Path) -> None:
    ship = reduce_parameters(package)["types"]["Ship"]
    assert ship["required"] == ["name"]
    assert ship["summary"] == ["valueQuantity", "valueString"]
    assert ship["choices"] == {"valueQuantity": "value", "valueString": "value"}


def test_a_filter_that_is_not_known_is_an_error(package: Path) -> None:
    definitions = Definitions.read(package / "dist/fhir/r4")
    with pytest.raises(ValueError, match="add it"):
        list(list_paths(definitions, "Ship.radio.where(rank > 1)"))


def test_the_same_definitions_make_the_same_bytes(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = []
    for number in range(2):
        target = tmp_path / f"{number}.json.gz"
        monkeypatch.setattr(reduce_search, "REDUCED", target)
        monkeypatch.setattr("sys.argv", ["reduce_search", str(package)])
        reduce_search.main()
        written.append(target.read_bytes())
    assert written[0] == written[1]
    assert json.loads(gzip.decompress(written[0]))["source"]["package"] == "definitions 1.2.3"
