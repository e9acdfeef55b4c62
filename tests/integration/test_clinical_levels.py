"""The same bad resources under each level and under $validate: what each of them ends as.

The local check stops what breaks FHIR's structure before the data store sees it, at every level. The rest passes it,
and is what the levels differ in: docs/fhir-validation.md has what AWS documents of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from airlock.clinical.unreviewed import TAG
from tests.chain import CONTRACT, MINIMAL, Chain, clinical_pipeline
from tests.clinical_files import US_CORE_PATIENT, Resource, ndjson, observation, patient

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

STRUCTURE: dict[str, Resource] = {
    "missing element": observation("no-status", status=None),
    "unknown element": observation("colour", colour="blue"),
    "text for a number": observation("heavy", valueQuantity={"value": "heavy"}),
    "date of another form": patient("form", birthDate="19610412"),
}
PASSES_THE_LOCAL_CHECK: dict[str, Resource] = {
    "code outside a required binding": patient("gender", gender="F"),
    "reference to a wrong type": observation("reference", encounter={"reference": "Patient/p1"}),
    "broken invariant": observation("invariant", dataAbsentReason={"text": "not asked"}),
    "fault against a profile": patient("profile", meta={"profile": [US_CORE_PATIENT]}, identifier=None),
    "unknown profile": patient("unknown-profile", meta={"profile": ["http://hospital.example/StructureDefinition/p"]}),
    "impossible day": patient("day", birthDate="1961-02-30"),
    "empty array": patient("array", name=[{"family": "Invented", "given": []}]),
    "empty object": patient("object", maritalStatus={}),
    "narrative that is no XHTML": patient("narrative", text={"status": "generated", "div": "<b>no div</b>"}),
}
RELEASED = ("released", "")
REJECTED = ("failed", "rejected")
HELD = ("held", "stored_with_issues")
STOPPED = ("quarantined", "service_finds_invalid")
LOCAL = ("quarantined", "invalid_resource")

MODERNIZATION = CONTRACT | {"workflow": "modernization"}
ASKED = {"service_check": "all"}
COLUMNS: dict[str, dict[str, Any]] = {
    "strict": {"risk": CONTRACT, "validation": {"service_check": "none"}},
    "structure-only": {"risk": MODERNIZATION},
    "minimal": MINIMAL,
    "$validate": {"risk": MODERNIZATION, "validation": ASKED},
}
TABLE = {
    #                                   strict    structure-only  minimal  $validate
    "code outside a required binding": (REJECTED, REJECTED, RELEASED, STOPPED),
    "reference to a wrong type": (REJECTED, REJECTED, RELEASED, STOPPED),
    "broken invariant": (REJECTED, REJECTED, RELEASED, STOPPED),
    "fault against a profile": (REJECTED, RELEASED, RELEASED, STOPPED),
    "unknown profile": (REJECTED, RELEASED, RELEASED, STOPPED),
    "impossible day": (REJECTED, REJECTED, HELD, STOPPED),
    "empty array": (REJECTED, REJECTED, HELD, STOPPED),
    "empty object": (REJECTED, REJECTED, HELD, STOPPED),
    "narrative that is no XHTML": (REJECTED, REJECTED, HELD, STOPPED),
}


@pytest.mark.parametrize("column", COLUMNS)
def test_what_becomes_of_each_fault(place: Place, column: str) -> None:
    bad = STRUCTURE | PASSES_THE_LOCAL_CHECK
    place.put({"bad.ndjson": ndjson(patient("p1"), *bad.values())})
    chain = Chain(place, clinical_pipeline(**COLUMNS[column]))
    report = chain.run()
    assert report["balanced"]
    assert sum(report["dispositions"].values()) == 1 + len(bad)

    words = {fault: chain.words.get(_name(resource), RELEASED) for fault, resource in bad.items()}
    expected = {fault: ends[list(COLUMNS).index(column)] for fault, ends in TABLE.items()}
    assert words == dict.fromkeys(STRUCTURE, LOCAL) | expected

    in_store = {fault for fault, resource in bad.items() if place.stored(_name(resource))}
    assert in_store == {fault for fault, word in words.items() if word in (RELEASED, HELD)}
    assert place.routed() == {"Patient/p1"} | {_name(bad[fault]) for fault, word in words.items() if word == RELEASED}
    unreviewed = {fault for fault, resource in bad.items() if _is_unreviewed(place, _name(resource))}
    assert unreviewed == (in_store if column == "minimal" else set())


def _is_unreviewed(place: Place, name: str) -> bool:
    stored = place.stored(name)
    return stored is not None and TAG in stored["meta"].get("tag", ())


def _name(resource: Resource) -> str:
    return f"{resource['resourceType']}/{resource['id']}"
