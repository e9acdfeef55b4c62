"""Searches over stored resources: what each kind of parameter finds, and what is refused."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.unit.localaws.healthlake.rest_plane import ENDPOINT, OBSERVATION, PATIENT, STUDY, Plane, changed

if TYPE_CHECKING:
    from pathlib import Path

PATIENTS = [
    PATIENT,
    changed(
        PATIENT, id="p2", name=[{"family": "Doering"}], gender="male", birthDate="1980-05", telecom=None, active=True
    ),
    changed(
        PATIENT,
        id="p3",
        name=[{"text": "Zoe"}],
        gender=None,
        birthDate=None,
        identifier=[{"value": "M1"}],
        deceasedDateTime="2020",
        managingOrganization={"identifier": {"system": "urn:org", "value": "O1"}},
    ),
]
OBSERVATIONS = [
    OBSERVATION,
    changed(
        OBSERVATION, id="o2", subject={"reference": "Patient/p2/_history/1"}, effectiveDateTime="2024-03-01T10:00:00Z"
    ),
    changed(
        OBSERVATION,
        id="o3",
        subject={"reference": "Group/p1"},
        effectiveDateTime=None,
        effectivePeriod={"start": "2024-01-01"},
        valueQuantity=None,
        valueString="a, b",
    ),
]


@pytest.fixture(scope="module")
def clinic(tmp_path_factory: pytest.TempPathFactory) -> Plane:
    plane = Plane.open(tmp_path_factory.mktemp("clinic"))
    plane.fill([*PATIENTS, *OBSERVATIONS, STUDY, ENDPOINT])
    return plane


def found(plane: Plane, search: str) -> str:
    answer = plane.get(search)
    assert answer.status == 200, answer.body
    return " ".join(sorted(answer.ids))


@pytest.mark.parametrize(
    ("search", "ids"),
    [
        ("Patient", "p1 p2 p3"),
        ("Patient?_id=p1,p3", "p1 p3"),
        ("Patient?_id=p1&gender=male", ""),
        ("Patient?identifier=M1", "p1 p2 p3"),
        ("Patient?identifier=urn:example:mrn|M1", "p1 p2"),
        ("Patient?identifier=|M1", "p3"),
        ("Patient?identifier=urn:example:mrn|", "p1 p2"),
        ("Patient?gender=female,male", "p1 p2"),
        ("Patient?gender:not=male", "p1 p3"),
        ("Patient?gender:missing=true", "p3"),
        ("Patient?gender:missing=false", "p1 p2"),
        ("Patient?active=true", "p2"),
        ("Patient?email=jo@example.org", "p1 p3"),
        ("Patient?phone=jo@example.org", ""),
        ("Patient?telecom=555", "p1 p3"),
        ("Patient?deceased=true", "p3"),
        ("Patient?deceased=false", "p1 p2"),
        ("Patient?organization:identifier=urn:org|O1", "p3"),
        ("Observation?code=http://loinc.org|8867-4", "o1 o2 o3"),
        ("Observation?code=8867", ""),
        ("Observation?code:text=Heart", "o1 o2 o3"),
        ("ImagingStudy?modality=CT", "s1"),
        ("ImagingStudy?identifier=urn:dicom:uid|urn:oid:1.2.3", "s1"),
        ("ImagingStudy?series=1.2.3.4", "s1"),
        ("Endpoint?connection-type=dicom-wado-rs&status=active", "e1"),
    ],
)
def test_tokens(clinic: Plane, search: str, ids: str) -> None:
    assert found(clinic, search) == ids


@pytest.mark.parametrize(
    ("search", "ids"),
    [
        ("Patient?family=Doe", "p1 p2"),
        ("Patient?family=doe", ""),
        ("Patient?family:exact=Doe", "p1"),
        ("Patient?given=Jo&given=Ann", "p1"),
        ("Patient?name:contains=oe", "p1 p2 p3"),
        ("Patient?name=Zoe,Doering", "p2 p3"),
        (r"Observation?value-string=a\, b", "o3"),
        ("Observation?value-string=a, b", "o3"),
        ("Observation?value-string=100%25", ""),
    ],
)
def test_strings_begin_with_the_value_and_are_case_sensitive(clinic: Plane, search: str, ids: str) -> None:
    assert found(clinic, search) == ids


@pytest.mark.parametrize(
    ("search", "ids"),
    [
        ("Patient?birthdate=1970-01-02", "p1"),
        ("Patient?birthdate=1970", "p1"),
        ("Patient?birthdate=ne1970", "p2"),
        ("Patient?birthdate=1980-05-01", ""),
        ("Patient?birthdate=ge1970-01-02", "p1 p2"),
        ("Patient?birthdate=gt1970-01-02", "p2"),
        ("Patient?birthdate=lt1980-05", "p1"),
        ("Patient?birthdate=le1980-05", "p1 p2"),
        ("Patient?birthdate=sa1970&birthdate=eb1980-06", "p2"),
        ("Observation?date=2024-03-01T12:00:00%2B02:00", "o2"),
        ("Observation?date=gt2024-02", "o2 o3"),
        ("Observation?date=sa2024-02", "o2"),
        ("ImagingStudy?started=2024-01", "s1"),
        ("Patient?_lastUpdated=gt2020", "p1 p2 p3"),
        ("Patient?_lastUpdated=lt2020", ""),
        ("Patient?createdAt=ge2020", "p1 p2 p3"),
    ],
)
def test_dates(clinic: Plane, search: str, ids: str) -> None:
    assert found(clinic, search) == ids


@pytest.mark.parametrize(
    ("search", "ids"),
    [
        ("Observation?value-quantity=72.5", "o1 o2"),
        ("Observation?value-quantity=71", ""),
        ("Observation?value-quantity=7e1", "o1 o2"),
        ("Observation?value-quantity=gt72.5", ""),
        ("Observation?value-quantity=ge72.5|http://unitsofmeasure.org|/min", "o1 o2"),
        ("Observation?value-quantity=72.5||beats/min", "o1 o2"),
        ("Observation?value-quantity=72.5|urn:other|/min", ""),
    ],
)
def test_quantities_match_within_their_significant_digits(clinic: Plane, search: str, ids: str) -> None:
    assert found(clinic, search) == ids


@pytest.mark.parametrize(
    ("search", "ids"),
    [
        ("Observation?subject=Patient/p1", "o1"),
        ("Observation?subject=p1", "o1 o3"),
        ("Observation?subject:Patient=p1", "o1"),
        ("Observation?patient=p1", "o1"),
        ("Observation?patient=p2", "o2"),
        ("Observation?subject=http://healthlake.test/datastore/x/r4/Patient/p1", "o1"),
        ("ImagingStudy?endpoint=Endpoint/e1", "s1"),
        ("Observation?subject:Patient.family=Doering", "o2"),
        ("Observation?patient.gender=male", "o2"),
        ("ImagingStudy?endpoint.status=active", "s1"),
        ("Observation?subject:Patient._has:ImagingStudy:patient:modality=CT", "o1"),
        ("Patient?_has:Observation:patient:code=8867-4", "p1 p2"),
        ("Patient?_has:Observation:patient:date=ge2024-03", "p2"),
        ("Patient?_has:ImagingStudy:patient:_id=s1", "p1"),
    ],
)
def test_references_chains_and_reverse_chains(clinic: Plane, search: str, ids: str) -> None:
    assert found(clinic, search) == ids


@pytest.mark.parametrize(
    ("search", "code"),
    [
        ("Patient?colour=red", "not-supported"),
        ("Patient?gender:above=male", "not-supported"),
        ("Patient?gender=", "invalid"),
        ("Patient?birthdate=yesterday", "invalid"),
        ("Patient?birthdate=ap1970", "invalid"),
        ("Patient?birthdate=1970-13", "invalid"),
        ("Observation?value-quantity=many", "invalid"),
        ("Observation?value-quantity=1|2", "invalid"),
        ("Observation?code.text=x", "not-supported"),
        ("Observation?subject:Device.family=x", "not-supported"),
        ("Observation?subject:Nothing.family=x", "invalid"),
        ("Observation?subject.colour=x", "not-supported"),
        ("Patient?_has:Observation:code=1", "invalid"),
        ("Patient?_has:Observation:code:status=final", "not-supported"),
        ("Patient?_has:Nothing:patient:status=final", "invalid"),
        ("Patient?gender:missing=perhaps", "invalid"),
        ("Patient?_id:not=p1", "not-supported"),
        ("Patient?_count=0", "invalid"),
        ("Patient?_count=101", "invalid"),
        ("Patient?_count=1&_count=2", "invalid"),
        ("Patient?_total=estimate", "invalid"),
        ("Patient?_summary=count", "invalid"),
        ("Patient?_summary=true&_elements=id", "invalid"),
        ("Patient?_summary=text&_revinclude=Observation:patient", "invalid"),
        ("Patient?_format=xml", "not-supported"),
        ("Patient?_sort=name", "not-supported"),
        ("Patient?_sort=colour", "not-supported"),
        ("Patient?_sort=gender,birthdate,active,_id,family,given", "too-costly"),
        ("Patient?_include=Observation:patient", "invalid"),
        ("Patient?_include=Patient", "invalid"),
        ("Patient?_include=Patient:gender", "not-supported"),
        ("Patient?_revinclude=Observation:subject:Location:x", "invalid"),
        ("Patient?_include=Patient:organization:Patient", "invalid"),
        ("Patient?page=nonsense", "invalid"),
        ("Patient?page=MTotMQ%3D%3D", "invalid"),
    ],
)
def test_what_healthlake_does_not_take_is_refused_with_400(clinic: Plane, search: str, code: str) -> None:
    answer = clinic.get(search)
    assert (answer.status, answer.codes) == (400, [code])


def test_composite_parameters_are_not_emulated_and_say_so(clinic: Plane) -> None:
    answer = clinic.get("Observation?code-value-quantity=8867-4$72.5")
    assert (answer.status, answer.codes) == (501, ["not-supported"])


def test_pages_lead_through_all_matches_by_a_link_with_bare_equals_signs(plane: Plane) -> None:
    plane.fill(changed(PATIENT, id=f"p{number:02}") for number in range(25))
    address, seen = "Patient?_count=10&family=Doe&_sort=_id", []
    while address:
        page = plane.get(address)
        seen.append(page.ids)
        address = page.next or ""
        assert (page.next_link or "==").endswith("==")
    assert [len(ids) for ids in seen] == [10, 10, 5]
    assert [name for ids in seen for name in ids] == [f"p{number:02}" for number in range(25)]


def test_a_next_link_sent_as_it_stands_has_another_signature(plane: Plane) -> None:
    plane.fill(changed(PATIENT, id=name) for name in "abc")
    link = plane.get("Patient?_count=2").next_link
    assert link is not None
    assert plane.get(link).status == 403


def test_what_is_added_while_paging_is_not_on_a_later_page(tmp_path: Path) -> None:
    now = [1_700_000_000.0]
    plane = Plane.open(tmp_path, clock=lambda: now[0])
    plane.fill(changed(PATIENT, id=name) for name in "abc")
    first = plane.get("Patient?_count=2")
    now[0] += 5
    plane.fill([changed(PATIENT, id="d")])
    assert first.next is not None
    assert plane.get(first.next).ids == ["c"]


def test_a_page_holds_ten_unless_told_otherwise_and_counts_only_when_asked(plane: Plane) -> None:
    plane.fill(changed(PATIENT, id=f"p{number}") for number in range(12))
    answer = plane.get("Patient")
    assert len(answer.ids) == 10
    assert "total" not in answer.body
    assert plane.get("Patient?_total=accurate&_count=1").body["total"] == 12


def test_nothing_found_is_a_bundle_without_entries(clinic: Plane) -> None:
    body = clinic.get("Patient?_id=nobody&_total=accurate").body
    assert (body["type"], body["total"]) == ("searchset", 0)
    assert "entry" not in body


@pytest.mark.parametrize(
    ("rules", "ids"),
    [
        ("birthdate", ["p1", "p2", "p3"]),
        ("-birthdate", ["p2", "p1", "p3"]),
        ("gender", ["p1", "p2", "p3"]),
        ("-_id", ["p3", "p2", "p1"]),
        ("-identifier,-gender", ["p2", "p1", "p3"]),
    ],
)
def test_sorting_puts_what_has_no_value_last(clinic: Plane, rules: str, ids: list[str]) -> None:
    assert clinic.get(f"Patient?_sort={rules}").ids == ids


def test_sorting_by_last_updated(tmp_path: Path) -> None:
    now = [1_700_000_000.0]
    plane = Plane.open(tmp_path, clock=lambda: now[0])
    for name in "abc":
        now[0] += 1
        plane.fill([changed(PATIENT, id=name)])
    now[0] += 1
    plane.fill([changed(PATIENT, id="a")])
    assert plane.get("Patient?_sort=-_lastUpdated").ids == ["a", "c", "b"]


def test_included_resources_come_once_and_beside_the_matches(clinic: Plane) -> None:
    forward = clinic.get("ImagingStudy?_include=ImagingStudy:subject&_include=ImagingStudy:endpoint&_total=accurate")
    assert (forward.ids, forward.included, forward.body["total"]) == (["s1"], ["p1", "e1"], 1)
    twice = clinic.get("Observation?_id=o1&_include=Observation:subject&_include=Observation:patient")
    assert twice.included == ["p1"]
    narrowed = clinic.get("Observation?_id=o1,o3&_include=Observation:subject:Patient")
    assert narrowed.included == ["p1"]
    backward = clinic.get("Patient?_id=p1&_revinclude=Observation:subject&_revinclude=ImagingStudy:patient")
    assert (backward.ids, backward.included) == (["p1"], ["o1", "s1"])


def test_elements_and_summaries_are_marked_as_not_whole(clinic: Plane) -> None:
    (entry,) = clinic.get("ImagingStudy?_elements=started,nonsense&_include=ImagingStudy:subject").body["entry"][:1]
    assert set(entry["resource"]) == {"resourceType", "id", "meta", "status", "subject", "started"}
    assert [tag["code"] for tag in entry["resource"]["meta"]["tag"]] == ["SUBSETTED"]
    (observation,) = clinic.get("Observation?_id=o1&_elements=effective").body["entry"]
    assert observation["resource"]["effectiveDateTime"] == "2024-02-03"
    summary = clinic.get("Patient?_id=p1&_summary=true").body["entry"][0]["resource"]
    assert "birthDate" in summary
    assert "text" not in summary
    assert "gender" not in clinic.get("Patient?_id=p1&_summary=text").body["entry"][0]["resource"]
    whole = clinic.get("Patient?_id=p1&_summary=false").body["entry"][0]["resource"]
    assert "tag" not in whole["meta"]


def test_narrative_can_be_left_out_or_asked_for(plane: Plane) -> None:
    narrative = {"status": "generated", "div": '<div xmlns="http://www.w3.org/1999/xhtml">x</div>'}
    plane.fill([changed(PATIENT, text=narrative)])
    data, text = (plane.get(f"Patient?_summary={word}").body["entry"][0]["resource"] for word in ("data", "text"))
    assert set(data) == set(PATIENT) | {"meta"}
    assert set(text) == {"resourceType", "id", "meta", "text"}


def test_a_chain_through_more_than_a_hundred_resources_is_refused(plane: Plane) -> None:
    plane.fill(changed(PATIENT, id=f"p{number}") for number in range(101))
    plane.fill(changed(OBSERVATION, id=f"o{n}", subject={"reference": f"Patient/p{n}"}) for n in range(101))
    for search in ("Observation?patient.family=Doe", "Patient?_has:Observation:patient:status=final"):
        answer = plane.get(search)
        assert (answer.status, answer.codes) == (400, ["too-costly"])


def test_more_values_than_a_search_takes_are_refused_and_ids_are_not(clinic: Plane) -> None:
    form, many = "application/x-www-form-urlencoded", ",".join(f"v{number}" for number in range(5000))
    for search in (f"identifier={many}", f"family={many}", "&".join(["family=Doe"] * 5000)):
        answer = clinic.send("POST", "Patient/_search", search.encode(), content_type=form)
        assert (answer.status, answer.codes) == (400, ["too-costly"])
    assert clinic.send("POST", "Patient/_search", f"_id=p1,{many}".encode(), content_type=form).ids == ["p1"]


@pytest.mark.parametrize("name", ["subject:Patient." * 2000 + "family", "_has:Observation:subject:" * 2000 + "code"])
def test_an_endless_chain_is_refused(clinic: Plane, name: str) -> None:
    assert clinic.get(f"Patient?{name}=x").status == 400


def test_tags_and_profiles_are_searched_in_every_type(plane: Plane) -> None:
    profile = "http://example.org/StructureDefinition/a"
    meta = {"tag": [{"system": "urn:run", "code": "r1"}], "profile": [f"{profile}|1.0"], "source": "urn:here"}
    plane.fill([changed(PATIENT, meta=meta), changed(PATIENT, id="p2")])
    for search in ("_tag=urn:run|r1", f"_profile={profile}", f"_profile={profile}|1.0", "_source=urn:here"):
        assert found(plane, f"Patient?{search}") == "p1"
    assert found(plane, "Patient?_profile:below=http://example.org/StructureDefinition") == "p1"
    assert found(plane, "Patient?_profile:below=http://example.org/Structure") == ""


def test_a_search_by_post_takes_the_address_or_the_body_but_not_both(clinic: Plane) -> None:
    form, kind = b"family=Doe&_count=1", "application/x-www-form-urlencoded; charset=utf-8"
    answer = clinic.send("POST", "Patient/_search", form, content_type=kind)
    assert answer.ids == ["p1"]
    assert answer.next is not None
    assert clinic.get(answer.next).ids == ["p2"]
    following = answer.next.partition("?")[2].encode()
    assert clinic.send("POST", "Patient/_search", following, content_type=kind).ids == ["p2"]
    assert clinic.send("POST", "Patient/_search?family=Doe").ids == ["p1", "p2"]
    assert clinic.send("POST", "Patient/_search?family=Doe", form, content_type=kind).status == 400
    assert clinic.send("POST", "Patient/_search", b"{}", content_type="application/json").status == 415


def test_an_address_in_a_link_keeps_its_parameters_encoded(clinic: Plane) -> None:
    value = quote("urn:example:mrn|M1", safe="")
    (link,) = clinic.get(f"Patient?identifier={value}").body["link"]
    assert link["url"].endswith(f"/r4/Patient?identifier={value}")
    assert clinic.get("Patient?_count=1&page=MTAwOjAg").status == 200


def test_another_consistency_than_the_two_is_refused(clinic: Plane) -> None:
    assert clinic.get("Patient", x_amz_fhir_history_consistency_level="perfect").status == 400
