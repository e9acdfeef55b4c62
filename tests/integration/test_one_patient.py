"""Images and records meet in one Patient: what is there, what comes later, and what people decide."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from itertools import count, permutations
from typing import TYPE_CHECKING, Any

import pytest
import yaml
from typer.testing import CliRunner

from airlock.ledger import IdentityAnswer, StoreOrigin
from airlock_cli.app import app
from tests.chain import HEALTHLAKE, RECORDS, Chain, pipeline
from tests.dicom_files import ct, study_uid

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from airlock.pipelines import ImagingPipeline
    from tests.chain import Place

pytestmark = pytest.mark.slow

MRN = "https://north.example/mrn"
BORN = {"PatientBirthDate": "19800229", "PatientSex": "F"}
_runs = count(1)


def line() -> ImagingPipeline:
    match = {"rules": [{"type": "identifier", "system": MRN}]}
    systems = {"SITE-A": MRN, "SITE-B": MRN}  # two hospitals that have merged
    return pipeline(healthlake=HEALTHLAKE, publish={"issuer_systems": systems, "patient_match": match})


def night(place: Place) -> Chain:
    """Run the pipeline over what is there."""
    chain = Chain(place, line(), run_id=f"manual__{next(_runs)}")
    chain.run()
    return chain


@pytest.fixture
def lake(place: Place) -> Place:
    """A place whose HealthLake data store an EHR fills, too."""
    with place.ledger() as ledger:
        ledger.note_store(RECORDS, StoreOrigin.ADOPTED)
    return place


def put_patient(place: Place, name: str, number: str, **changes: Any) -> None:
    """Let the EHR write a Patient."""
    content = {
        "resourceType": "Patient",
        "id": name,
        "identifier": [{"system": MRN, "value": number}],
        "birthDate": "1980-02-29",
        "gender": "female",
    }
    place.fhir().update(content | changes)


def put_order(place: Place, name: str, number: str, patient: str) -> None:
    """Let the EHR write an order."""
    kind = {"coding": [{"system": "http://terminology.hl7.org/CodeSystem/v2-0203", "code": "ACSN"}]}
    content = {
        "resourceType": "ServiceRequest",
        "id": name,
        "identifier": [{"type": kind, "value": number}],
        "status": "active",
        "intent": "order",
        "authoredOn": "2026-02-27",
        "subject": {"reference": f"Patient/{patient}"},
    }
    place.fhir().update(content)


def latest(place: Place, number: int) -> dict[str, Any]:
    """Return the newest routed contract of a study."""
    found = [one for one in place.contracts() if one["StudyInstanceUID"] == study_uid(number)]
    return max(found, key=lambda one: one["revision"])


def subject_of(place: Place, number: int) -> str:
    """Return the Patient to which a study's ImagingStudy refers in the data store."""
    found = place.stored(latest(place, number)["fhir"]["ImagingStudy"])
    assert found is not None
    assert found["subject"]["reference"] == latest(place, number)["fhir"]["Patient"]
    return str(found["subject"]["reference"])


def questions(place: Place) -> list[dict[str, Any]]:
    with place.ledger() as ledger:
        return ledger.identity_questions().to_dicts()


def question_of(place: Place, number: int) -> dict[str, Any]:
    return next(one for one in questions(place) if one["subject"] == study_uid(number))


def decide(place: Place, question: dict[str, Any], patient: str | None) -> None:
    """Answer a question, as ``airlock patient answer`` does."""
    asked = json.loads(question["question"])
    whose = (asked["identity"], question["seen"], patient, [asked["identity"]])
    about = ([one["subject"] for one in questions(place) if one["seen"] == question["seen"]], asked["side"])
    answer = IdentityAnswer(*whose, question["reason"], "ada", "seen", datetime.now(UTC), *about)
    with place.ledger() as ledger:
        ledger.answer_identity("nightly", RECORDS, answer)


def test_a_study_of_each_kind(lake: Place) -> None:
    put_patient(lake, "matched", "PID-1")
    put_patient(lake, "twin-a", "PID-3")
    put_patient(lake, "twin-b", "PID-3")
    put_patient(lake, "unguarded", "PID-4", birthDate="1999-01-01")
    put_patient(lake, "contradicted", "PID-5")
    put_patient(lake, "somebody", "PID-9")
    put_order(lake, "o1", "ACC-1", "matched")
    put_order(lake, "o5", "ACC-5", "somebody")
    lake.put({f"{number}.dcm": ct(number, 1, 1, **BORN) for number in range(1, 6)})
    chain = night(lake)

    assert chain.report["dispositions"] == {"released": 4, "held": 1}
    assert chain.report["reasons"].keys() == {"patient_contradicted"}
    counts = chain.report["patient_match"]
    outcomes = ("matched", "none", "ambiguous", "unguarded", "contradicted")
    assert [counts[name] for name in outcomes] == [1, 1, 1, 1, 1]

    assert subject_of(lake, 1) == "Patient/matched"
    assert lake.version("Patient/matched") == 1, "Airlock writes no Patient that it has not made"
    study = lake.stored(latest(lake, 1)["fhir"]["ImagingStudy"])
    assert study is not None
    assert study["basedOn"] == [{"reference": "ServiceRequest/o1"}]
    assert "note" not in study
    for number, outcome in ((2, "none"), (3, "ambiguous"), (4, "unguarded")):
        contract = latest(lake, number)
        assert contract["patient_match"]["outcome"] == outcome
        assert subject_of(lake, number) not in {"Patient/twin-a", "Patient/twin-b", "Patient/unguarded"}
        published = lake.stored(contract["fhir"]["ImagingStudy"])
        assert published is not None
        assert ("note" in published) == (outcome != "none")
        assert "basedOn" not in published, "a study without an order is published"
    assert not [one for one in lake.contracts() if one["StudyInstanceUID"] == study_uid(5)]
    asked = {"patient_ambiguous", "patient_unguarded", "patient_contradicted"}
    assert {one["reason"] for one in questions(lake)} == asked


def test_what_comes_later_and_what_people_decide_is_published_by_the_next_run(lake: Place) -> None:
    lake.put({"1.dcm": ct(1, 1, 1, **BORN)})
    night(lake)
    own = subject_of(lake, 1)
    assert latest(lake, 1)["patient_match"]["outcome"] == "none"

    put_patient(lake, "late", "PID-1")
    chain = night(lake)
    assert chain.report["patient_match"]["repointed"] == 1
    assert (subject_of(lake, 1), len(lake.contracts())) == ("Patient/late", 2)
    assert night(lake).report["patient_match"]["repointed"] == 0, "nothing is new"

    assert latest(lake, 1)["fhir"]["ServiceRequest"] is None
    put_order(lake, "late", "ACC-1", "late")
    night(lake)
    assert latest(lake, 1)["fhir"]["ServiceRequest"] == "ServiceRequest/late"
    linked = lake.stored(latest(lake, 1)["fhir"]["ImagingStudy"])
    assert linked is not None
    assert linked["basedOn"] == [{"reference": "ServiceRequest/late"}]

    put_patient(lake, "twin", "PID-1")
    night(lake)
    assert (subject_of(lake, 1), latest(lake, 1)["patient_match"]["outcome"]) == (own, "ambiguous")
    (question,) = questions(lake)
    decide(lake, question, "Patient/late")
    night(lake)
    assert (subject_of(lake, 1), latest(lake, 1)["patient_match"]["means"]) == ("Patient/late", "person")
    assert questions(lake) == []


def test_a_contradicted_study_is_released_when_the_order_is_corrected(lake: Place) -> None:
    put_patient(lake, "right", "PID-1")
    put_patient(lake, "wrong", "PID-2")
    put_order(lake, "o1", "ACC-1", "wrong")
    lake.put({"1.dcm": ct(1, 1, 1, **BORN)})
    assert night(lake).report["dispositions"] == {"held": 1}
    put_order(lake, "o1", "ACC-1", "right")
    night(lake)
    assert subject_of(lake, 1) == "Patient/right"
    assert questions(lake) == []

    put_order(lake, "o1", "ACC-1", "wrong")
    report = night(lake).report
    assert report["patient_match"]["alarms"] == 1
    assert subject_of(lake, 1) == "Patient/right", "what is published stays until somebody has answered"
    assert night(lake).report["patient_match"]["alarms"] == 0, "people were told"


def test_a_study_that_one_pipeline_holds_as_contradicted_is_not_published_by_another(lake: Place) -> None:
    put_patient(lake, "right", "PID-1")
    put_patient(lake, "wrong", "PID-2")
    put_order(lake, "o1", "ACC-1", "wrong")
    lake.put({"1.dcm": ct(1, 1, 1, **BORN)})
    assert night(lake).report["dispositions"] == {"held": 1}
    lake.put({"2.dcm": ct(1, 1, 2, **BORN)})
    other = pipeline("weekly", healthlake=HEALTHLAKE, publish={"issuer_systems": {"SITE-A": MRN}})
    chain = Chain(lake, other, run_id="manual__other")
    chain.run()
    assert chain.report["reasons"]["study_held"]["arrivals"] == 1
    assert lake.contracts() == []


EVENTS = ("patient", "order", "study")


def test_an_answer_about_one_wrong_study_leaves_the_patients_other_studies_alone(lake: Place) -> None:
    """Study 1 is ada's, matched; study 2 was made under her number, but the order is bert's."""
    put_patient(lake, "ada", "PID-1")
    put_patient(lake, "bert", "PID-2")
    put_order(lake, "o2", "ACC-2", "bert")
    same = BORN | {"PatientID": "PID-1"}
    lake.put({"1.dcm": ct(1, 1, 1, **same), "2.dcm": ct(2, 1, 1, **same)})
    night(lake)
    assert subject_of(lake, 1) == "Patient/ada"
    assert question_of(lake, 2)["reason"] == "patient_contradicted"
    decide(lake, question_of(lake, 2), "Patient/bert")
    night(lake)
    assert subject_of(lake, 2) == "Patient/bert"
    assert subject_of(lake, 1) == "Patient/ada"
    assert questions(lake) == []
    night(lake)
    assert (subject_of(lake, 1), subject_of(lake, 2), questions(lake)) == ("Patient/ada", "Patient/bert", [])


def test_a_number_that_was_given_twice_can_be_answered(lake: Place) -> None:
    put_patient(lake, "ada", "PID-1")
    lake.put(
        {
            "1.dcm": ct(1, 1, 1, **BORN, PatientID="PID-1"),
            "2.dcm": ct(2, 1, 1, PatientBirthDate="19500101", PatientSex="M", PatientID="PID-1"),
        }
    )
    night(lake)
    assert subject_of(lake, 1) == "Patient/ada"
    decide(lake, question_of(lake, 2), None)
    night(lake)
    assert subject_of(lake, 2) != "Patient/ada"
    assert subject_of(lake, 1) == "Patient/ada"
    assert questions(lake) == []


def test_a_wrong_placeholder_that_is_taken_out_is_no_question(lake: Place) -> None:
    def run(name: str, *ids: str) -> None:
        match = {"rules": [{"type": "identifier", "system": MRN}], "placeholder_ids": list(ids)}
        line = pipeline(healthlake=HEALTHLAKE, publish={"issuer_systems": {"SITE-A": MRN}, "patient_match": match})
        Chain(lake, line, run_id=name).run()

    same = BORN | {"PatientID": "PID-1"}
    lake.put({"1.dcm": ct(1, 1, 1, **same), "2.dcm": ct(2, 1, 1, **same)})
    run("manual__p1", "PID-1")
    assert subject_of(lake, 1) != subject_of(lake, 2)
    run("manual__p2", "NOBODY")
    assert questions(lake) == []
    assert subject_of(lake, 1) == subject_of(lake, 2)
    put_patient(lake, "ehr", "PID-1")
    run("manual__p3", "NOBODY")
    assert (subject_of(lake, 1), subject_of(lake, 2)) == ("Patient/ehr", "Patient/ehr")


@pytest.mark.proof
@pytest.mark.parametrize("order", list(permutations(EVENTS)))
def test_the_order_of_arrival_does_not_matter(lake: Place, order: tuple[str, ...]) -> None:
    """The imaging side of the 720 orders: Patient, order and study, each in a night of its own."""
    happen = {
        "patient": lambda: put_patient(lake, "ehr", "PID-1"),
        "order": lambda: put_order(lake, "o1", "ACC-1", "ehr"),
        "study": lambda: lake.put({"1.dcm": ct(1, 1, 1, **BORN)}),
    }
    for event in order:
        happen[event]()
        night(lake)
    contract = latest(lake, 1)
    assert contract["patient_match"] == {
        "outcome": "matched",
        "patient": "Patient/ehr",
        "means": "identifier",
        "question": None,
        "order": "ServiceRequest/o1",
    }
    study = lake.stored(contract["fhir"]["ImagingStudy"])
    assert study is not None
    assert (study["subject"]["reference"], study["basedOn"]) == ("Patient/ehr", [{"reference": "ServiceRequest/o1"}])


@pytest.fixture
def airlock(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Result]:
    """Calls the command ``airlock`` against the emulator; what it is asked for at prompts is given as text."""
    folder = tmp_path / "pipelines"
    folder.mkdir()
    content = line().model_dump(mode="json", by_alias=True, exclude_defaults=True)
    content |= {"schema": "airlock.pipeline/1", "kind": "imaging"}
    (folder / "nightly.yaml").write_text(yaml.safe_dump(content))
    for name, value in {
        "AIRLOCK_LEDGER_URL": place.ledger_url,
        "AIRLOCK_PIPELINES": str(folder),
        "AWS_ENDPOINT_URL": place.s3_endpoint,
        "AWS_ENDPOINT_URL_MEDICAL_IMAGING": place.imaging_endpoint,
        "AWS_ENDPOINT_URL_HEALTHLAKE": place.imaging_endpoint,
        "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",
    }.items():
        monkeypatch.setenv(name, value)

    def call(*arguments: str, typed: str | None = None) -> Result:
        return CliRunner().invoke(app, list(arguments), input=typed, prog_name="airlock")

    return call


def test_a_person_answers_and_splits_on_the_command_line(lake: Place, airlock: Callable[..., Result]) -> None:
    put_patient(lake, "one", "PID-1")
    put_patient(lake, "two", "PID-1")
    lake.put({"1.dcm": ct(1, 1, 1, **BORN)})
    night(lake)

    listed = airlock("patient", "questions", "--json")
    (question,) = json.loads(listed.stdout)["questions"]
    assert (question["reason"], question["studies"], question["patients"]) == ("patient_ambiguous", 1, 2)
    assert "PID-1" not in listed.stdout
    number = str(question["number"])
    shown = airlock("patient", "show", number)
    assert "PID-1" in shown.stdout
    assert "Patient/two" in shown.stdout

    refused = airlock("patient", "answer", number, "--patient", "Patient/nobody", "--why", "x")
    assert (refused.exit_code, "is not one of question" in refused.stderr) == (2, True)
    put_patient(lake, "one", "PID-1", active=False)
    refused = airlock("patient", "answer", number, "--patient", "Patient/one", "--why", "x")
    assert (refused.exit_code, "The chosen Patient is not active" in refused.stderr) == (2, True)
    put_patient(lake, "one", "PID-1")
    answered = airlock("patient", "answer", number, "--patient", "Patient/two", "--why", "The paper says so.")
    assert answered.exit_code == 0, answered.stderr
    night(lake)
    assert subject_of(lake, 1) == "Patient/two"

    found = json.loads(airlock("where", "Patient/two", "--json").stdout)
    assert [one["outcome"] for one in found["studies"]] == ["matched"]
    person = airlock("patient", "--json", typed="PID-1\nSITE-A\n")
    assert person.exit_code == 0, person.stderr
    printed = person.stdout[person.stdout.index("{") :]  # the test's runner shows what is typed there, too
    studies = {one["patient"]: one["studies"] for one in json.loads(printed)["persons"]}
    assert [one["is_released"] for one in studies["Patient/two"]] == [True]

    key = latest(lake, 1)["study_key"]
    divided = airlock("patient", "split", "--study", key, "--why", "Another person's images.")
    assert divided.exit_code == 0, divided.stderr
    night(lake)
    assert subject_of(lake, 1) not in {"Patient/one", "Patient/two"}
    assert airlock("patient", "split", "--study", key, "--why", "again").exit_code == 1


def test_a_question_about_two_identities_with_one_number_is_answered_for_both(
    lake: Place, airlock: Callable[..., Result]
) -> None:
    put_patient(lake, "ada", "PID-1", birthDate="1999-01-01")
    same = BORN | {"PatientID": "PID-1", "PatientName": "Doe^Jane"}
    lake.put(
        {
            "1.dcm": ct(1, 1, 1, **same, IssuerOfPatientID="SITE-A"),
            "2.dcm": ct(2, 1, 1, **same, IssuerOfPatientID="SITE-B"),
        }
    )
    night(lake)
    listed = json.loads(airlock("patient", "questions", "--json").stdout)["questions"]
    for one in listed:
        said = airlock("patient", "answer", str(one["number"]), "--patient", "own", "--why", "the paper")
        assert said.exit_code == 0, said.stderr
    assert questions(lake) == []
    night(lake)
    assert questions(lake) == []
