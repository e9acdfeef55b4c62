"""A small FHIR delivery with every trouble that the rules know, file contents by name."""

from __future__ import annotations

import json
from typing import Any

from tests.clinical_files import ndjson, observation, packed, patient

UUID = "urn:uuid:11111111-2222-4333-8444-555555555555"
LONG_TEXT = "x" * (2 << 20)


def nasty_records() -> dict[str, bytes]:
    """Return the delivery: clean files, faults of every level, repetitions, lines that are nothing, Bundles."""
    return _clean() | _faulty() | _repeated() | _damaged() | {"bundle.json": _bundle(), "requests.json": _requests()}


def _clean() -> dict[str, bytes]:
    return {
        "Patient.ndjson": ndjson(*(patient(f"p{n}") for n in range(1, 6))),
        "sub folder/Obs+ervation é.ndjson": ndjson(*(observation(f"o{n}", "p1") for n in range(1, 6))),
        "Observation.ndjson.gz": packed(*(observation(f"z{n}", "p2") for n in range(1, 6))),
    }


def _study(name: str, **changes: Any) -> dict[str, Any]:
    base = {"resourceType": "ImagingStudy", "id": name, "status": "available", "subject": {"reference": "Patient/p1"}}
    return {element: value for element, value in (base | changes).items() if value is not None}


def _faulty() -> dict[str, bytes]:
    structure = [
        _study("no-status", status=None),
        _study("no-subject", subject=None),
        _study("bad-date", started="2024-13-45"),
        _study("unknown-element", colour="blue"),
        patient("bad-birth-date", birthDate="19500101"),
        patient("name-is-text", name="Invented"),
        observation("no-code", code=None),
        observation("value-is-text", valueQuantity={"value": "heavy"}),
        observation("control-character", note=[{"text": "bell \x07"}]),
    ]
    bindings = [
        _study("status-unknown", status="finished"),
        patient("gender-unknown", gender="M"),
        _study("subject-no-patient", subject={"reference": "Practitioner/p1"}),
    ]
    orphan = observation("orphan", "nobody")
    return {"structure.ndjson": ndjson(*structure), "bindings.ndjson": ndjson(*bindings, orphan, observation("good"))}


def _repeated() -> dict[str, bytes]:
    amended = observation("twice", status="amended")
    return {
        "twice.ndjson": ndjson(observation("twice"), amended),
        "same.ndjson": ndjson(observation("same"), observation("same")),
    }


def _damaged() -> dict[str, bytes]:
    nothing = [
        "",
        "not json",
        "[]",
        '{"resourceType":"Nonsense","id":"x"}',
        '{"id":"no-type"}',
        '{"resourceType":"Patient"',
    ]
    long_line = observation("long", note=[{"text": LONG_TEXT}])
    return {
        "lines.ndjson": ndjson(*nothing, observation("after-nothing")),
        "empty.ndjson": b"",
        "notes.txt": b"left by the exporter\n",
        "broken.ndjson.gz": packed(observation("cut"))[:-12],
        "long-line.ndjson": ndjson(long_line, observation("after-long")),
    }


def _entry(resource: dict[str, Any], method: str, url: str, **more: Any) -> dict[str, Any]:
    return {"resource": resource, "request": {"method": method, "url": url, **more}}


def _bundle() -> bytes:
    mother = _entry(patient("mother"), "PUT", "Patient/mother") | {"fullUrl": UUID}
    child = observation("of-mother", subject={"reference": UUID})
    return _transaction(mother, _entry(child, "PUT", "Observation/of-mother"))


def _requests() -> bytes:
    """Return a Bundle whose entries ask for more than to store a resource under its id."""
    return _transaction(
        _entry(patient("posted"), "POST", "Patient"),
        _entry(patient("searched"), "PUT", "Patient?identifier=urn:oid:1.2.3.4|MRN-p1"),
        _entry(patient("if-none-exist"), "POST", "Patient", ifNoneExist="identifier=urn:oid:1.2.3.4|MRN-p1"),
        _entry(patient("if-match"), "PUT", "Patient/if-match", ifMatch='W/"7"'),
        _entry(patient("other-type"), "POST", "Observation"),
        _entry(patient("other-id"), "PUT", "Patient/someone-else"),
        _entry(patient("deleted"), "DELETE", "Patient/deleted"),
    )


def _transaction(*entries: dict[str, Any]) -> bytes:
    return json.dumps({"resourceType": "Bundle", "type": "transaction", "entry": entries}, indent=1).encode()
