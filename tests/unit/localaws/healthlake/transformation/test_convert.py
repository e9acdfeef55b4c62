"""One document: what comes out, under which names, and what is said about its faults."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from airlock_local.sample.ccda.documents import (
    allergies,
    ccd,
    entity_bomb,
    external_entity,
    unmapped_section,
    vital_signs,
    without_namespace,
)
from localaws.healthlake.transformation.ccda import UnconvertibleError
from localaws.healthlake.transformation.convert import TAG, Conversion, Origin, convert, find_issues, rename_resources

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = ccd(sections=[vital_signs(), unmapped_section("1.2.3")])
ORIGIN = Origin("s3://documents/in/a.xml", "2026-01-02T03:04:05.000+00:00")


@pytest.fixture(scope="module")
def conversion() -> Conversion:
    return convert(DOCUMENT, "seed", ORIGIN)


def names(conversion: Conversion) -> list[str]:
    return [f"{resource['resourceType']}/{resource['id']}" for resource in conversion.resources]


def references(value: Any) -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from references(item)
    elif isinstance(value, dict):
        yield from (item for name, item in value.items() if name == "reference")
        for item in value.values():
            yield from references(item)


def test_the_bundle_comes_apart_into_lines(conversion: Conversion) -> None:
    lines = [json.loads(line) for line in conversion.ndjson.splitlines()]
    assert lines == conversion.resources
    kinds = [line["resourceType"] for line in lines]
    assert {"Composition", "Patient", "Condition", "Observation", "Practitioner", "Organization"} <= set(kinds)
    assert "Bundle" not in kinds


def test_references_lead_to_resources_of_the_same_document(conversion: Conversion) -> None:
    found = set(references(conversion.resources))
    assert found
    assert found <= set(names(conversion))
    assert len(set(names(conversion))) == len(conversion.resources)


def test_the_same_document_and_seed_give_the_same_lines(conversion: Conversion) -> None:
    assert convert(DOCUMENT, "seed", ORIGIN).ndjson == conversion.ndjson


def test_another_seed_gives_other_names_throughout(conversion: Conversion) -> None:
    assert not set(names(convert(DOCUMENT, "other", ORIGIN))) & set(names(conversion))


def test_every_resource_says_that_aws_did_not_make_it(conversion: Conversion) -> None:
    assert all(TAG in resource["meta"]["tag"] for resource in conversion.resources)
    assert "not by AWS HealthLake" in TAG["display"]


def test_a_provenance_leads_from_every_resource_to_the_input(conversion: Conversion) -> None:
    (provenance,) = [item for item in conversion.resources if item["resourceType"] == "Provenance"]
    assert {item["reference"] for item in provenance["target"]} == set(names(conversion)[:-1])
    assert provenance["recorded"] == ORIGIN.recorded
    assert provenance["entity"][0]["what"]["identifier"]["value"] == ORIGIN.uri


def test_without_an_origin_there_is_no_provenance(conversion: Conversion) -> None:
    bare = convert(DOCUMENT, "seed", None)
    assert bare.resources == conversion.resources[:-1]


def test_what_has_no_mapping_is_counted(conversion: Conversion) -> None:
    assert conversion.skipped == {"1.2.3.1": 1}
    assert conversion.processed == 2
    assert conversion.failed == {}


def test_a_sound_document_gives_resources_without_issues(conversion: Conversion) -> None:
    assert conversion.issues == []


def test_what_is_no_fhir_r4_is_said_without_its_value() -> None:
    found = convert(DOCUMENT.replace(b'value="170"', b'value="tall"'), "seed", None)
    ((resource, path, message),) = [(item["resource"], item["path"], item["message"]) for item in found.issues]
    assert resource in names(found)
    assert path == "Observation.valueQuantity.value"
    assert "tall" not in message
    assert found.resources_with_issues == 1


def test_the_packages_own_provenance_is_held_to_r4_and_left_out_with_the_rest() -> None:
    document = ccd(sections=[allergies(recorded="20260102")])
    found = convert(document, "seed", ORIGIN)
    assert [issue["path"] for issue in found.issues] == ["Provenance.recorded"]
    assert "Provenance" not in [resource["resourceType"] for resource in convert(document, "seed", None).resources]


def test_a_reference_to_nothing_stays_and_is_said() -> None:
    known = {"resourceType": "Patient", "id": "p"}
    lost: dict[str, Any] = {"resourceType": "Observation", "id": "o", "subject": {"reference": "urn:uuid:p"}}
    lost["performer"] = [{"reference": "Patient/p"}]
    lost["hasMember"] = [{"reference": "urn:uuid:gone"}, {"reference": "urn:uuid:gone"}, {"reference": "Group/far"}]
    entries = [{"fullUrl": "urn:uuid:p", "resource": known}, {"fullUrl": "urn:uuid:o", "resource": lost}]
    patient, observation = rename_resources(entries, "seed")
    assert observation["subject"]["reference"] == f"Patient/{patient['id']}"
    assert observation["performer"] == [observation["subject"]]
    first, second, third = [member["reference"] for member in observation["hasMember"]]
    assert first == second
    assert first.startswith("urn:uuid:")
    assert third == "Group/far"
    assert [item["path"] for item in find_issues(observation) if "not there" in item["message"]] == [
        "Observation.hasMember[0].reference",
        "Observation.hasMember[1].reference",
    ]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"", "The document is not well-formed XML: line 1."),
        (DOCUMENT[:900], "The document is not well-formed XML: line 15."),
        (entity_bomb(), "The document declares a DTD, which could define entities; remove it."),
        (external_entity("file:///etc/hostname"), "The document declares a DTD, which could define entities;"),
        (without_namespace(), "The document is not a ClinicalDocument in the namespace urn:hl7-org:v3."),
        (DOCUMENT.replace(b"UTF-8", b"EBCDIC-9"), "The document is not "),
        (DOCUMENT.replace(b"recordTarget", b"informant"), "SHALL contain at least one [1..*] recordTarget."),
        (
            DOCUMENT.replace(b'xsi:type="PQ"', b'xsi:type="ZZ"'),
            "The document could not be converted: UnknownTypeError.",
        ),
        (
            DOCUMENT.replace(b"<text>", b"<text>" + b"<b>" * 400).replace(b"</text>", b"</b>" * 400 + b"</text>"),
            "The document could not be converted: MalformedXMLError.",
        ),
        (DOCUMENT.replace(b"<text>", b"<text>" + b"<br/>" * 250_001), "more than 250000 elements"),
    ],
)
def test_what_cannot_be_converted_is_told_in_one_sentence(body: bytes, message: str) -> None:
    with pytest.raises(UnconvertibleError) as caught:
        convert(body, "seed", None)
    assert message in str(caught.value)
    assert "Invented" not in str(caught.value)


@pytest.mark.parametrize(
    ("declared", "encoding"), [("UTF-8", "utf-8-sig"), ("UTF-16", "utf-16"), ("ISO-8859-1", "latin-1")]
)
def test_the_declared_encoding_is_the_one_that_is_read(declared: str, encoding: str) -> None:
    text = DOCUMENT.decode().replace("UTF-8", declared).replace("Testcase", "Zoé")
    patient = convert(text.encode(encoding), "seed", None).resources[1]
    assert patient["name"][0]["given"] == ["Zoé"]


def test_the_package_writes_nothing_of_a_document_to_the_console() -> None:
    script = (
        "import logging; logging.basicConfig(level=0)\n"
        "from airlock_local.sample.ccda.documents import *\n"
        "from localaws.healthlake.transformation.convert import convert\n"
        "convert(ccd(sections=[allergies(), vital_signs().replace('170', 'tall')]), 'seed', None)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, check=True, timeout=60)
    assert done.stdout + done.stderr == b""


def test_other_processes_give_the_same_lines(conversion: Conversion) -> None:
    script = (
        "import sys\n"
        "from localaws.healthlake.transformation.convert import Origin, convert\n"
        f"sys.stdout.buffer.write(convert(sys.stdin.buffer.read(), 'seed', {ORIGIN!r}).ndjson)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], input=DOCUMENT, capture_output=True, check=True, timeout=60)
    assert done.stdout == conversion.ndjson
