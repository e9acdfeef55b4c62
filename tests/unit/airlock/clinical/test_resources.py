"""One resource: read without losing a digit, described whatever it is, told from its twins by a digest."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from airlock.clinical.records import RESOURCES
from airlock.clinical.resources import NotJsonError, content_digest, describe, dump, load
from tests.unit.airlock.clinical.books import observation, patient

WEIGHT = b'{"resourceType":"Observation","id":"o1","valueQuantity":{"value":70.10}}'
NUMBERS = st.from_regex(r"\A-?(0|[1-9][0-9]{0,25})(\.[0-9]{1,25})?([eE][+-]?[0-9]{1,2})?\Z").filter(lambda n: n != "-0")
NAMES = st.sampled_from(["a", "b", "id", "meta", "reference", "é", "\ud800", 'q"', "resourceType"])


def _object(members: dict[str, str]) -> str:
    return "{" + ",".join(f"{json.dumps(name)}:{value}" for name, value in members.items()) + "}"


# JSON texts as `dump` writes them, numbers of any form among them.
JSON_TEXTS = st.recursive(
    NUMBERS | st.sampled_from(["true", "false", "null"]) | st.text(max_size=5).map(json.dumps),
    lambda inner: (
        st.lists(inner, max_size=4).map(lambda items: f"[{','.join(items)}]")
        | st.dictionaries(NAMES, inner, max_size=4).map(_object)
    ),
    max_leaves=12,
)
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.text(max_size=5)
    | st.sampled_from(["Patient", "Patient/1", "x\ud800"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3) | NAMES, inner, max_size=4),
    max_leaves=10,
)
ELEMENTS = ["resourceType", "id", "meta", "subject", "patient", "for", "identifier", "reference", "contained"]


class TestLoadAndDump:
    @given(JSON_TEXTS)
    @example("70.10")
    @example("1E400")
    @example("-1.5e-0400")
    def test_no_digit_is_lost(self, text: str) -> None:
        exponents = [abs(int(digits)) for digits in re.findall(r"\de([+-]?\d+)", text, re.IGNORECASE)]
        assume(all(exponent <= 400 for exponent in exponents))
        assert dump(load(text.encode())) == text

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (b"{", "no JSON"),
            (b"", "no JSON"),
            (b"{} {}", "no JSON"),
            (b"{'a':1}", "no JSON"),
            (b'{"a":1,}', "no JSON"),
            (b'{"a":"\n"}', "no JSON"),
            (b"1" * 5000, "no JSON"),  # more digits than Python reads
            (b"\xff\xfe{\0}\0", "no UTF-8"),
            (b'{"a":NaN}', "NaN is not JSON"),
            (b'{"a":1e9999999999999999999999}', "a number out of all range"),
            (b'{"a":1.0E-401}', "a number out of all range"),
            (b'{"a":1E401}', "a number out of all range"),
            (b'{"a":0.1e-99999999999999999999}', "a number out of all range"),
            (b'{"a":-Infinity}', "-Infinity is not JSON"),
            (b"[" * 200_000, "nested too deeply"),
            (b'{"a":' * 200_000, "nested too deeply"),
            (b'{"id":"a","b":{"c":1,"c":2}}', "a name comes twice in one object"),
        ],
    )
    def test_what_is_no_json_is_told_without_a_value(self, text: bytes, message: str) -> None:
        with pytest.raises(NotJsonError) as caught:
            load(text)
        assert str(caught.value) == message

    @given(st.binary(max_size=30))
    def test_nothing_else_is_raised(self, text: bytes) -> None:
        with suppress(NotJsonError):
            dump(load(text))


class TestDigest:
    def test_it_knows_no_layout_and_no_order(self) -> None:
        one = load(b'{"resourceType":"Patient","id":"p","name":[{"family":"A","use":"usual"}]}')
        other = load(b'{ "id" : "p",\n "name":[ {"use":"usual", "family":"\\u0041"} ], "resourceType":"Patient"}')
        assert content_digest(one) == content_digest(other)

    @pytest.mark.parametrize(
        ("one", "other"),
        [
            (b'{"a":70.10}', b'{"a":70.1}'),
            (b'{"a":70.10}', b'{"a":"70.10"}'),
            (b'{"a":1.0}', b'{"a":1}'),
            (b'{"a":[1,2]}', b'{"a":[2,1]}'),
            (b'{"a":true}', b'{"a":1}'),
            (b'{"meta":{"tag":[]}}', b'{"meta":{}}'),
        ],
    )
    def test_it_knows_contents_apart(self, one: bytes, other: bytes) -> None:
        assert content_digest(load(one)) != content_digest(load(other))

    def test_what_a_store_gives_does_not_count(self) -> None:
        exported = patient("p1", meta={"versionId": "3", "lastUpdated": "2026-01-01T00:00:00Z"})
        assert content_digest(exported) == content_digest(patient("p1"))
        tagged = {"tag": [{"code": "x"}]}
        assert content_digest(patient("p1", meta=tagged | {"versionId": "3"})) == content_digest(
            patient("p1", meta=tagged)
        )

    def test_another_process_gives_the_same(self) -> None:
        # A delivery that comes again is read by another process, and its decimals are the same decimals.
        code = f"from airlock.clinical.resources import content_digest, load; print(content_digest(load({WEIGHT!r})))"
        there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        assert there == content_digest(load(WEIGHT))


class TestDescribe:
    @given(st.dictionaries(st.sampled_from(ELEMENTS) | st.text(max_size=3), VALUES, max_size=6) | VALUES)
    @example({"resourceType": "Patient", "id": "\ud800"})
    @example({"resourceType": "Patient", "id": "a", "identifier": {"system": 1, "value": "\udfff"}})
    @example({"resourceType": "Observation", "id": "a", "subject": {"reference": "Patient/\ud800"}})
    def test_any_json_gives_a_row_that_a_frame_takes(self, content: Any) -> None:
        row = describe(content, "{}", None)
        assert row.keys() <= set(RESOURCES.names())
        assert (row.get("reason") is None) == ("body" in row)
        for text in (row.get("patient"), row.get("detail"), *row.get("references", []), *row.get("identifiers", [])):
            assert text is None or text.encode()

    @pytest.mark.parametrize(
        ("content", "reason", "detail"),
        [
            ([], "not_json", "no JSON object"),
            (None, "not_json", "no JSON object"),
            ("Patient", "not_json", "no JSON object"),
            ({}, "unknown_resource_type", None),
            ({"resourceType": ["Patient"], "id": "a"}, "unknown_resource_type", None),
            ({"resourceType": "Nonsense", "id": "a"}, "unknown_resource_type", None),
            ({"resourceType": "patient", "id": "a"}, "unknown_resource_type", None),
            ({"resourceType": "DomainResource", "id": "a"}, "unknown_resource_type", None),
            ({"resourceType": "ProcedureRequest", "id": "a"}, "fhir_version", "ProcedureRequest is a type of STU3"),
            ({"resourceType": "ImagingSelection", "id": "a"}, "fhir_version", "ImagingSelection is a type of R5"),
            ({"resourceType": "Patient"}, "missing_resource_id", None),
            ({"resourceType": "Patient", "id": None}, "missing_resource_id", None),
            ({"resourceType": "Patient", "id": ""}, "invalid_resource_id", None),
            ({"resourceType": "Patient", "id": 7}, "invalid_resource_id", None),
            ({"resourceType": "Patient", "id": "a_b"}, "invalid_resource_id", None),
            ({"resourceType": "Patient", "id": "a\n"}, "invalid_resource_id", None),
            ({"resourceType": "Patient", "id": "."}, "invalid_resource_id", None),
            ({"resourceType": "Patient", "id": ".."}, "invalid_resource_id", None),
            ({"resourceType": "Patient", "id": "x" * 65}, "invalid_resource_id", None),
        ],
    )
    def test_what_cannot_be_used_has_a_reason(self, content: Any, reason: str, detail: str | None) -> None:
        row = describe(content, "{}")
        assert (row["reason"], row["detail"]) == (reason, detail)

    def test_a_resource_nested_too_deeply_is_set_aside(self) -> None:
        deep: Any = []
        for _ in range(100_000):
            deep = [deep]
        row = describe({"resourceType": "Patient", "id": "p1", "name": deep}, "{}")
        assert (row["reason"], row["detail"], row["resource_id"]) == ("not_json", "nested too deeply", "p1")

    def test_a_resource_is_known_by_type_id_size_and_text(self) -> None:
        body = '{"resourceType": "Patient", "id": "p1", "name": [{"family": "Müller"}]}'
        row = describe(load(body.encode()), body, "urn:uuid:1")
        assert (row["resource_type"], row["resource_id"], row["full_url"]) == ("Patient", "p1", "urn:uuid:1")
        assert (row["body"], row["size"]) == (body, len(body) + 1)

    @pytest.mark.parametrize(
        ("resource", "whose"),
        [
            (patient("p1"), "Patient/p1"),
            (observation("o1", "p1"), "Patient/p1"),
            ({"resourceType": "AllergyIntolerance", "id": "a", "patient": {"reference": "Patient/p2"}}, "Patient/p2"),
            ({"resourceType": "Coverage", "id": "a", "beneficiary": {"reference": "Patient/p3"}}, "Patient/p3"),
            ({"resourceType": "Task", "id": "a", "for": {"reference": "urn:uuid:4"}}, "urn:uuid:4"),
            ({"resourceType": "ResearchSubject", "id": "a", "individual": {"reference": "Patient/5"}}, "Patient/5"),
            ({"resourceType": "Observation", "id": "a", "subject": {"display": "somebody"}}, None),
            ({"resourceType": "Account", "id": "a", "subject": [{"reference": "Patient/6"}]}, "Patient/6"),
            ({"resourceType": "Provenance", "id": "a", "target": [{"reference": "Patient/7"}]}, "Patient/7"),
            (
                {"resourceType": "List", "id": "a", "entry": [{"item": {"reference": f"Patient/{n}"}} for n in "89"]},
                None,
            ),
            ({"resourceType": "Organization", "id": "a"}, None),
        ],
    )
    def test_whose_it_is(self, resource: dict[str, Any], whose: str | None) -> None:
        assert describe(resource, "{}")["patient"] == whose

    def test_references_are_found_wherever_they_are_and_each_once(self) -> None:
        held = {"resourceType": "Practitioner", "id": "inside", "extension": [{"valueReference": {"reference": "B/2"}}]}
        resource = observation("o1", "p1", contained=[held], performer=[{"reference": "#inside"}, {"reference": "B/2"}])
        assert sorted(describe(resource, "{}")["references"]) == ["B/2", "Patient/p1"]

    def test_identifiers_are_those_of_the_resource_itself(self) -> None:
        inner = {"assigner": {"identifier": {"system": "s", "value": "no"}}}
        resource = patient("p1", identifier=[{"system": "s", "value": "1"} | inner, {"value": "2"}, "nonsense"])
        assert describe(resource, "{}")["identifiers"] == ["s|1", "|2"]
        single = {"resourceType": "Composition", "id": "c", "identifier": {"system": "s", "value": "3"}}
        assert describe(single, "{}")["identifiers"] == ["s|3"]
