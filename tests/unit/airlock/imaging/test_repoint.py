"""Released studies get the Patient that is theirs, whenever the data store or a person says something new."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging.contracts import StudyContract
from airlock.imaging.fhir.identifiers import own_patient_id
from airlock.imaging.fhir.patient import build_patient
from airlock.imaging.matching import Matcher, with_match
from airlock.imaging.repoint import (
    REPOINTED,
    begin_look,
    look_again,
    read_look,
    read_repointed,
    release_repointed,
)
from airlock.ledger import IdentityAnswer
from airlock.ledger.gates import GATES
from airlock.ledger.outbox import MESSAGES
from airlock.records import CONTRACTS
from tests.unit.airlock.imaging.fhir.studies import study
from tests.unit.airlock.imaging.lake import Lake, ehr_order, ehr_patient
from tests.unit.airlock.imaging.test_matching import run_of

if TYPE_CHECKING:
    from airlock.imaging.fhir.publishing import Publishing
    from airlock.run import Run
    from tests.unit.airlock.world import World

STUDY = study()
UID = {"system": "urn:dicom:uid", "value": f"urn:oid:{STUDY.StudyInstanceUID}"}
IMAGING_STUDY = {"resourceType": "ImagingStudy", "id": "s", "identifier": [UID, {"value": "A1"}]}


def released(world: World, contract: StudyContract = STUDY, latest: int = 1, settings: Publishing | None = None) -> Run:
    """Return the run that has released a study as revision 1; a later revision of it may be held."""
    run = run_of(world, "before")
    world.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    publishing = settings or Matcher.of(run, Lake()).settings
    named = with_match(contract, None, publishing).model_copy(update={"revision": latest})
    row = (named.StudyInstanceUID, named.study_key, latest, named.content_digest, named.to_json())
    rows = pl.DataFrame([row], schema=CONTRACTS, orient="row")
    world.ledger.revise_contracts(named.datastore_id, run.key, rows["subject"], lambda _: rows)
    message = pl.DataFrame([(named.study_key, 1, named.content_digest, "uri")], MESSAGES, orient="row")
    world.ledger.record_releases(run.pipeline.name, run.key, named.datastore_id, message)
    return run


def look(world: World, lake: Lake, name: str = "one", *contracts: StudyContract) -> Run:
    """Let a run look again, which itself publishes these studies."""
    run = run_of(world, name)
    world.ledger.open_run(run.key, run.pipeline.name, run.run_id, None)
    rows = [(one.StudyInstanceUID, one.study_key, 1, "digest", one.to_json()) for one in contracts]
    run.workspace.write("publishable", CONTRACTS, pl.DataFrame(rows, schema=CONTRACTS, orient="row"))
    matcher = Matcher.of(run, lake)
    look_again(matcher, begin_look(matcher))
    return run


def repointed(run: Run) -> list[dict[str, Any]]:
    return run.within("fhir").workspace.read(REPOINTED, CONTRACTS).to_dicts()


def settled(run: Run, *published: StudyContract) -> list[str]:
    """Release the studies whose new contents are published; return them."""
    keys = [one.study_key for one in published]
    rows = pl.DataFrame(repointed(run), schema=CONTRACTS).filter(pl.col("subject_key").is_in(keys))
    proven = rows.select("content_digest", study_key="subject_key")
    return [uid for contracts, _ in release_repointed(run, proven) for uid in contracts["subject"]]


@pytest.fixture
def lake() -> Lake:
    found = Lake()
    found.put(ehr_patient())
    return found


def test_a_patient_that_comes_later_gets_the_study(world: World, lake: Lake) -> None:
    released(world)
    run = look(world, lake)
    (row,) = repointed(run)
    contract = StudyContract.model_validate_json(row["contract"])
    assert (row["revision"], contract.fhir and contract.fhir.Patient) == (2, "Patient/ehr")
    assert settled(run, STUDY) == [STUDY.StudyInstanceUID]
    (text,) = world.ledger.contracts(STUDY.datastore_id, pl.Series([STUDY.StudyInstanceUID]))["contract"]
    assert text == row["contract"]
    assert settled(run, STUDY) == [], "an audit that is repeated releases nothing twice"


def test_the_next_look_asks_only_for_what_has_changed_since(world: World, lake: Lake) -> None:
    released(world)
    settled(look(world, lake), STUDY)
    assert lake.asked[0] == "Patient?all"
    lake.asked.clear()
    run = look(world, lake, "two")
    assert repointed(run) == []
    assert [asked.partition("?")[2][:2] for asked in lake.asked[:1]] == ["ge"]


def test_what_is_not_published_is_found_by_the_next_look_again(world: World, lake: Lake) -> None:
    released(world)
    assert settled(look(world, lake)) == []
    lake.asked.clear()
    assert len(repointed(look(world, lake, "two"))) == 1
    assert lake.asked[0] == "Patient?all"


def test_other_rules_look_at_everything_again(world: World, lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    released(world)
    settled(look(world, lake), STUDY)
    lake.asked.clear()
    monkeypatch.setattr("airlock.imaging.repoint._describe_scope", lambda _: {"rules": "other"})
    look(world, lake, "two")
    assert lake.asked[0] == "Patient?all"


def test_a_study_that_waits_for_something_else_keeps_its_patient(world: World, lake: Lake) -> None:
    released(world, latest=2)
    assert repointed(look(world, lake)) == []


def test_a_study_that_the_run_publishes_itself_is_not_looked_at_twice(world: World, lake: Lake) -> None:
    released(world)
    assert repointed(look(world, lake, "one", STUDY)) == []


def test_an_order_that_comes_later_is_found_by_its_number(world: World, lake: Lake) -> None:
    released(world)
    settled(look(world, lake), STUDY)
    lake.written["Patient/ehr"] = datetime(2020, 1, 1, tzinfo=UTC)  # so that only the order is new
    lake.put(IMAGING_STUDY)
    lake.put(ehr_order())
    (row,) = repointed(look(world, lake, "two"))
    contract = StudyContract.model_validate_json(row["contract"])
    assert contract.patient_match is not None
    assert contract.patient_match.order == "ServiceRequest/order"


def test_a_released_study_that_is_contradicted_is_an_alarm_once_and_stays(world: World, lake: Lake) -> None:
    released(world)
    lake.put(ehr_patient("other", "P2"))
    lake.put(ehr_order(patient="other"))
    run = look(world, lake)
    assert (repointed(run), read_look(run)["alarms"]) == ([], 1)
    assert read_look(look(world, lake, "two"))["alarms"] == 1, "the run that found it has not ended its look"
    settled(run)
    assert read_look(look(world, lake, "three"))["alarms"] == 0


def test_a_released_study_that_waits_for_something_else_is_an_alarm_too(world: World, lake: Lake) -> None:
    released(world, latest=2)
    lake.put(ehr_patient("other", "P2"))
    lake.put(ehr_order(patient="other"))
    run = look(world, lake)
    assert (repointed(run), read_look(run)["alarms"]) == ([], 1)


def test_the_first_look_is_at_all_orders(world: World) -> None:
    released(world)
    lake = Lake()
    lake.put(ehr_patient("other", "P2"))
    lake.put(ehr_order(patient="other"))
    lake.put(IMAGING_STUDY)
    assert read_look(look(world, lake))["alarms"] == 1, "nobody has the study's number"


def test_a_patient_that_gets_a_number_contradicts_by_an_order_that_was_there(world: World) -> None:
    released(world)
    lake = Lake()
    lake.put(ehr_patient("other", "P2", identifier=[]))
    lake.put(ehr_order(patient="other"))
    lake.put(IMAGING_STUDY)
    settled(look(world, lake))
    lake.written = dict.fromkeys(lake.written, datetime(2020, 1, 1, tzinfo=UTC))
    lake.put(ehr_patient("other", "P2"))
    assert read_look(look(world, lake, "two"))["alarms"] == 1


def test_a_study_that_was_matched_before_the_last_look_and_released_after_it_is_looked_at(world: World) -> None:
    lake = Lake()
    settled(look(world, lake))
    lake.put(ehr_patient())
    lake.written["Patient/ehr"] = datetime(2020, 1, 1, tzinfo=UTC)  # the last look has not seen the study
    run = released(world)
    gate = (STUDY.StudyInstanceUID, STUDY.study_key, "release", None)
    gates = pl.DataFrame([gate], GATES, orient="row")
    world.ledger.record_gates(STUDY.datastore_id, run.key, gates)
    assert len(repointed(look(world, lake, "two"))) == 1


def test_what_another_run_has_revised_meanwhile_is_neither_published_nor_released(world: World, lake: Lake) -> None:
    released(world)
    run = look(world, lake)
    assert [rows.height for rows in read_repointed(run)] == [1]
    released(world, latest=2)
    assert [rows.height for rows in read_repointed(run)] == [0]
    assert settled(run, STUDY) == []
    assert len(repointed(look(world, lake, "two"))) == 0, "its latest revision is not released"


def test_a_study_is_released_with_the_patient_that_is_published(world: World, lake: Lake) -> None:
    released(world)
    run = look(world, lake)
    stale = pl.DataFrame([(STUDY.study_key, "digest of an earlier try")], ["study_key", "content_digest"], orient="row")
    assert list(release_repointed(run, stale)) == []


def test_studies_that_share_a_patient_of_airlocks_own_part_once_its_number_names_nobody(world: World) -> None:
    contract = study(PatientID="000000", AccessionNumber=None)
    lake = Lake()
    before = replace(Matcher.of(run_of(world), lake).settings, placeholder_ids=())
    released(world, contract, settings=before)
    lake.put(build_patient([contract], before))
    (row,) = repointed(look(world, lake))
    after = StudyContract.model_validate_json(row["contract"])
    assert after.fhir is not None
    assert after.fhir.Patient != f"Patient/{own_patient_id(contract, before)}"


def test_a_second_patient_with_the_number_takes_the_study_from_the_first(world: World, lake: Lake) -> None:
    released(world)
    settled(look(world, lake), STUDY)
    lake.put(ehr_patient("twin"))
    (row,) = repointed(look(world, lake, "two"))
    contract = StudyContract.model_validate_json(row["contract"])
    assert contract.patient_match is not None
    assert (contract.patient_match.outcome, contract.patient_match.patient) == ("ambiguous", None)


def test_a_second_patient_takes_it_also_where_a_person_gave_another_study_of_the_number_to_somebody_else(
    world: World, lake: Lake
) -> None:
    wrong = study(StudyInstanceUID="1.2.2", AccessionNumber="A2")
    for contract in (STUDY, wrong):
        released(world, contract)
    lake.put(ehr_patient("other", "P2"))
    lake.put(ehr_order("o2", "A2", patient="other"))
    settled(look(world, lake), STUDY)
    (asked,) = world.ledger.identity_questions().to_dicts()
    about = json.loads(asked["question"])
    whose = (about["identity"], asked["seen"], "Patient/other", [about["identity"]])
    answer = IdentityAnswer(*whose, asked["reason"], "ada", "why", datetime.now(UTC), ["1.2.2"], about.get("side"))
    lake.written = dict.fromkeys(lake.written, datetime(2020, 1, 1, tzinfo=UTC))
    world.ledger.answer_identity("nightly", asked["datastore_id"], answer)
    settled(look(world, lake, "two"), wrong)
    lake.put(ehr_patient("twin"))
    found = [StudyContract.model_validate_json(row["contract"]) for row in repointed(look(world, lake, "three"))]
    assert [one.StudyInstanceUID for one in found if one.patient_match and one.patient_match.patient is None] == [
        STUDY.StudyInstanceUID
    ]


def test_a_run_repoints_so_many_studies_and_the_next_one_goes_on(
    world: World, lake: Lake, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airlock.imaging.repoint._RESOURCES_AT_A_TIME", 1)
    monkeypatch.setattr("airlock.imaging.repoint.MOST_REPOINTED", 1)
    other = study(PatientID="P2", StudyInstanceUID="1.2.2")
    for contract in (STUDY, other):
        released(world, contract)
    lake.put(ehr_patient("second", "P2"))
    for name in ("one", "two"):
        lake.asked.clear()
        run = look(world, lake, name)
        assert (read_look(run)["repointed"], read_look(run)["instances"]) == (1, STUDY.NumberOfStudyRelatedInstances)
        assert lake.asked[0] == "Patient?all"
        settled(run, STUDY, other)
    lake.asked.clear()
    assert repointed(look(world, lake, "three")) == []
    assert lake.asked[0] != "Patient?all"


def test_a_run_that_holds_other_files_of_the_study_goes_on_holding_it(world: World, lake: Lake) -> None:
    run = released(world)
    hold = (STUDY.StudyInstanceUID, STUDY.study_key, "hold", "study_incomplete")
    gates = pl.DataFrame([hold], ["subject", "subject_key", "gate", "reason"], orient="row")
    world.ledger.record_gates(STUDY.datastore_id, run.key, gates)
    assert settled(look(world, lake), STUDY) == [STUDY.StudyInstanceUID]
    assert world.ledger.held(run.pipeline.name)["reason"].to_list() == ["study_incomplete"]


def test_a_study_loses_an_order_whose_number_was_corrected(world: World, lake: Lake) -> None:
    released(world)
    lake.put(ehr_order())
    settled(look(world, lake), STUDY)
    lake.written["Patient/ehr"] = datetime(2020, 1, 1, tzinfo=UTC)  # so that only the order is new
    lake.put(ehr_order("order", "A2"))
    (row,) = repointed(look(world, lake, "two"))
    contract = StudyContract.model_validate_json(row["contract"])
    assert contract.patient_match is not None
    assert (contract.patient_match.patient, contract.patient_match.order) == ("Patient/ehr", None)
