"""Troubles of clinical deliveries: files that are not FHIR, lines without a resource, invalid resources."""

import gzip
from dataclasses import replace
from typing import Any

from airlock_local.sample.archive import CLEAN, expect
from airlock_local.sample.clinical.delivery import Delivery, Line, Resource, compact
from airlock_local.sample.clinical.records import patient, practitioner, visit
from airlock_local.sample.sites import NORDHAVEN

QUARANTINED = frozenset({"quarantined"})
PARKED = frozenset({"parked"})
FAILED = frozenset({"failed"})
IGNORED = frozenset({"ignored"})
DUPLICATE = frozenset({"duplicate"})

US_CORE_PATIENT = "http://hl7.org/fhir/us/core/StructureDefinition/us-core-patient"
_TOO_LARGE = 11 * 1024**2  # bytes; parse.resource_mib is 10 unless the pipeline says otherwise
_WEIGHT = next(item for item in visit(NORDHAVEN, 0) if item["resourceType"] == "Observation")
_KNOWN = patient(NORDHAVEN, NORDHAVEN.patients[0])
_PERSON = patient(NORDHAVEN, replace(NORDHAVEN.patients[0], PatientID="NH-199999"))


def _changed(resource: Resource, trouble: str, changes: Resource) -> Resource:
    """Return a resource under another id and with other elements; None removes one."""
    changed = resource | {"id": f"trouble-{trouble}"} | changes
    return {element: value for element, value in changed.items() if value is not None}


def _weight(trouble: str, /, **changes: Any) -> Resource:
    return _changed(_WEIGHT, trouble, changes)


def _person(trouble: str, /, **changes: Any) -> Resource:
    return _changed(_PERSON, trouble, changes)


def add_troubles(delivery: Delivery) -> None:
    """Add every trouble that the rules know, each under the name of its trouble."""
    _add_files(delivery)
    _add_lines(delivery)
    _add_invalid_resources(delivery)
    _add_twins(delivery)
    _add_references(delivery)
    _add_bundles(delivery)


def _add_files(delivery: Delivery) -> None:
    """Add files that cannot be read as a whole, or were never FHIR."""
    whole = gzip.compress("".join(f"{compact(_weight(f'cut-{n}'))}\n" for n in range(40)).encode(), mtime=0)
    for path, data, expected in (
        ("nordhaven/_SUCCESS", b"", expect("success_marker", IGNORED, "sidecar")),
        ("lakeview/README.txt", b"Exported by the interface engine.\r\n", expect("text", IGNORED, "sidecar")),
        ("lakeview/scan.dcm", bytes(128) + b"DICM", expect("image", QUARANTINED, "not_fhir")),
        ("nordhaven/Immunization.ndjson", b"", expect("zero_bytes", QUARANTINED, "empty_object")),
        ("nordhaven/cut.ndjson.gz", whole[: len(whole) // 2], expect("cut_gzip", QUARANTINED, "truncated")),
    ):
        delivery.add_file(path, data, expected)


def _add_lines(delivery: Delivery) -> None:
    """Add lines that do not hold a usable resource, between sound ones."""

    def stopped(trouble: str, reason: str, content: Resource | str) -> Line:
        return Line(content, expect(trouble, QUARANTINED, reason))

    delivery.add_lines(
        "nordhaven/lines.ndjson",
        [
            Line(_weight("before")),
            stopped("no_json", "not_json", "MSH|^~\\&|LAB|NORDHAVEN"),
            stopped("cut_line", "not_json", compact(_weight("cut"))[:-20]),
            stopped("list", "not_json", "[]"),
            stopped("unknown_type", "unknown_resource_type", _weight("type", resourceType="Weight")),
            stopped("no_type", "unknown_resource_type", _weight("typeless", resourceType=None)),
            stopped("no_id", "missing_resource_id", _weight("nameless", id=None)),
            stopped("bad_id", "invalid_resource_id", _weight("", id="weight/1")),
            stopped("type_of_stu3", "fhir_version", _weight("stu3", resourceType="ReferralRequest")),
            Line(_weight("after")),
        ],
    )
    note = [{"text": "x" * _TOO_LARGE}]
    delivery.add_lines(
        "nordhaven/long line.ndjson.gz", [stopped("too_large", "resource_too_large", _weight("large", note=note))]
    )
    bundle = compact({"resourceType": "Bundle", "type": "collection", "entry": [{"resource": _weight("wrapped")}]})
    delivery.add_lines(
        "nordhaven/mixed.ndjson", [Line(_weight("plain")), stopped("bundle_among_lines", "mixed_file", bundle)]
    )


def _add_invalid_resources(delivery: Delivery) -> None:
    """Add resources that the structure check rejects, and some that only the data store rejects at strict."""
    invalid = expect("invalid", QUARANTINED, "invalid_resource")
    delivery.add_lines(
        "nordhaven/invalid.ndjson",
        [
            Line(_weight("no-status", status=None), invalid),
            Line(_weight("two-values", valueString="heavy"), invalid),
            Line(_weight("unknown-element", colour="blue"), invalid),
            Line(_weight("text-for-number", valueQuantity={"value": "heavy"}), invalid),
            Line(_person("no-list", name="Musterfrau"), invalid),
            Line(_person("bad-date", birthDate="19610412"), invalid),
            Line(_weight("of-r5", triggeredBy=[{"type": "reflex"}]), expect("of_r5", QUARANTINED, "fhir_version")),
        ],
    )
    rejected = expect("found_by_the_store", FAILED, "rejected")
    by_doctor = {"reference": f"Practitioner/{practitioner(NORDHAVEN)['id']}"}
    delivery.add_lines(
        "nordhaven/strict.ndjson",
        [
            Line(_person("gender", gender="F"), rejected),
            Line(_weight("subject", encounter=by_doctor), rejected),
            Line(_person("profile", meta={"profile": [US_CORE_PATIENT]}, identifier=None), rejected),
            Line(_person("keeps-its-profile", meta={"profile": [US_CORE_PATIENT]})),
        ],
    )


def _add_twins(delivery: Delivery) -> None:
    """Add the same type and id twice, with the same and with other content."""
    other = expect("same_id_other_content", QUARANTINED, "duplicate_other_content")
    delivery.add_lines(
        "nordhaven/twins.ndjson",
        [
            Line(_weight("twin")),
            Line(_weight("twin"), expect("duplicate", DUPLICATE, "duplicate_same_content")),
            Line(_weight("quarrel"), other),
            Line(_weight("quarrel", status="amended"), other),
        ],
    )


def _add_references(delivery: Delivery) -> None:
    """Add references to missing resources, and one by identifier that can be resolved."""
    nowhere = {"reference": "Patient/trouble-nobody"}
    lost = expect("reference_to_nothing", PARKED, "waiting_for_resource")
    one = _KNOWN["identifier"][0]
    found = {"reference": f"Patient?identifier={one['system']}|{one['value']}"}
    delivery.add_lines(
        "nordhaven/references.ndjson",
        [
            Line(_weight("orphan", subject=nowhere), lost),
            Line(_weight("orphans-child", derivedFrom=[{"reference": "Observation/trouble-orphan"}]), lost),
            Line(_weight("by-identifier", subject=found)),
        ],
    )


def _add_bundles(delivery: Delivery) -> None:
    """Add a transaction that also deletes, and one that refers to an entry that it does not have."""
    gone = {"request": {"method": "DELETE", "url": "Patient/trouble-gone"}}
    nobody = {"reference": "urn:uuid:00000000-0000-4000-8000-000000000000"}
    delivery.add_bundle(
        "lakeview/correction.json",
        "transaction",
        [
            (gone, expect("deletion", QUARANTINED, "unsupported_entry")),
            (
                {"resource": _weight("urn", subject=nobody), "request": {"method": "POST", "url": "Observation"}},
                expect("urn_to_nothing", QUARANTINED, "unresolved_reference"),
            ),
            ({"resource": _weight("corrected"), "request": {"method": "POST", "url": "Observation"}}, CLEAN),
        ],
    )
