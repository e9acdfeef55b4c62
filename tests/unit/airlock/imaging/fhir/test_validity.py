"""Whatever a study contract holds, what is published of it is valid FHIR R4, by two validators."""

from __future__ import annotations

import json
from typing import Any

import fhirkit
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.imaging.contracts import ContractInstance, ContractSeries, StudyContract
from airlock.imaging.fhir.imaging_study import count_bytes, to_ndjson
from airlock.imaging.fhir.study import build_publication
from localaws.fhir import Level, Validator
from tests.unit.airlock.imaging.fhir.studies import STORE, publishing, series, study

# What damage and malice leave in a header, beside what hypothesis thinks of.
HOSTILE = st.sampled_from(
    [
        "",
        " ",
        "\x00",
        "\x01\x1b[2J",
        "\ufffd",
        "\u2028\u00a0",
        "\ufeff",
        "x" * 65_536,
        "^" * 300,
        "=^=^",
        "\\",
        "-1",
        "1.2.3",
    ]
)
VALUE = st.one_of(st.none(), HOSTILE, st.text(max_size=20))
TEXT = st.one_of(HOSTILE, st.text(max_size=20))
UID = st.one_of(st.sampled_from(["1.2.3", "2.25.7", "9.1", "1.02", "1_2", "1." * 40]), TEXT)
DATE = st.one_of(VALUE, st.dates().map(lambda on: f"{on:%Y%m%d}"))
TIME = st.one_of(VALUE, st.times().map(lambda at: f"{at:%H%M%S.%f}"))
NAME = st.one_of(VALUE, st.lists(TEXT, max_size=6).map("^".join), st.lists(TEXT, max_size=4).map("=".join))

INSTANCE = st.builds(
    ContractInstance,
    SOPInstanceUID=UID,
    SOPClassUID=UID,
    InstanceNumber=VALUE,
    source=TEXT,
    etag=TEXT,
    size=st.integers(),
)
SERIES = st.builds(
    ContractSeries,
    SeriesInstanceUID=UID,
    SeriesNumber=VALUE,
    Modality=st.one_of(st.just("CT"), VALUE),
    SeriesDescription=VALUE,
    BodyPartExamined=VALUE,
    image_set_ids=st.lists(TEXT, max_size=2).map(tuple),
    instances=st.lists(INSTANCE, max_size=2).map(tuple),
)
CONTRACT = st.builds(
    StudyContract,
    study_key=TEXT,
    pipeline=TEXT,
    datastore_id=st.just(STORE),
    StudyInstanceUID=UID,
    StudyDate=DATE,
    StudyTime=TIME,
    **dict.fromkeys(("StudyID", "StudyDescription", "AccessionNumber", "PatientID", "IssuerOfPatientID"), VALUE),
    **dict.fromkeys(("PatientName", "ReferringPhysicianName"), NAME),
    PatientBirthDate=DATE,
    PatientSex=st.one_of(st.sampled_from("MFO"), VALUE),
    NumberOfStudyRelatedSeries=st.integers(),
    NumberOfStudyRelatedInstances=st.integers(),
    series=st.lists(SERIES, max_size=2).map(tuple),
)
SETTINGS = st.sampled_from(
    [
        publishing(),
        publishing(timezone="Europe/Berlin", service_requests=True, issuer_systems={"": "urn:oid:1.2.3"}),
        publishing(timezone="Asia/Manila", max_resource_bytes=1),
    ]
)
COMPLETE = build_publication(
    [study(series(SeriesDescription="x", BodyPartExamined="CHEST"))], publishing(service_requests=True)
)


VALIDATOR = Validator()


def faults(resource: dict[str, Any]) -> list[str]:
    """Return what fhirkit, then the local HealthLake at its strict level, finds in a resource as it is imported."""
    written = to_ndjson(resource)
    found = VALIDATOR.check(json.loads(written), Level.STRICT)
    return [*map(str, fhirkit.validate(written)), *(f"{issue.diagnostics} {issue.location}" for issue in found.issues)]


def test_the_validators_find_what_there_is() -> None:
    (broken,) = [
        one | {"gender": "F", "birthDate": "1980-13-45"} for one in COMPLETE if one["resourceType"] == "Patient"
    ]
    assert len(faults(broken)) >= 3


def test_a_usual_study_is_valid() -> None:
    assert len(COMPLETE) == 5
    assert [faults(one) for one in COMPLETE] == [[]] * 5


@settings(max_examples=200)
@given(st.lists(CONTRACT, max_size=2), SETTINGS)
def test_whatever_a_header_says_what_is_published_is_valid(contracts: list[StudyContract], how: Any) -> None:
    for one in build_publication(contracts, how):
        assert faults(one) == []


@settings(max_examples=50)
@given(CONTRACT, SETTINGS)
def test_damage_does_not_make_a_resource_large(contract: StudyContract, how: Any) -> None:
    """The issuer is the longest: 1,024 characters of a text may be 12 KB of a URI."""
    assert max(map(count_bytes, build_publication([contract], how))) < 32_000
