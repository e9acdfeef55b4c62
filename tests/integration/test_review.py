"""What the audit of images holds waits for a person, whose word releases it; and nothing else does."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import TaskAwaitingInput

from airlock_tasks.review import APPROVE, KEEP_HELD, NEEDS
from tests.chain import HEALTHLAKE, MINIMAL, Chain, answer, clinical_pipeline, pipeline, questions_to_people
from tests.clinical_files import ndjson, patient
from tests.dicom_files import ct, delivery

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

CANARY = {"PatientID": "CANARY-ID", "PatientName": "Canary^Name", "AccessionNumber": "CANARY-ACC"}
INCOMPLETE = {"held/1.dcm": ct(3, 1, 1, **CANARY), "held/2.dcm": ct(3, 1, 2, **CANARY)[:-100]}
WHY = "the lost file is a copy of the first, as the site says"


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return questions_to_people(monkeypatch)


def held(place: Place, files: dict[str, bytes], **changes: Any) -> Chain:
    """Deliver files and take them up to the person."""
    place.put(files)
    policy = {"manifest_wait_seconds": 3, "on_hold": "review"}
    chain = Chain(place, pipeline(audit=policy, review={"by": "the archive team"}, **changes))
    chain.until("audit")
    return chain


def answered(chain: Chain, choice: str, reason: str | None = None, reasons: list[str] | None = None) -> None:
    chain.answer = answer(choice, reason, reasons=reasons)
    chain.onward("review")


def test_a_persons_word_releases_a_study_and_stands_in_ledger_report_and_contract(place: Place) -> None:
    chain = held(place, delivery(studies=1, instances=2) | INCOMPLETE)
    assert chain.report["dispositions"] == {"released": 2, "held": 1, "quarantined": 1}
    answered(chain, APPROVE, WHY)
    assert chain.report["dispositions"] == {"released": 3, "quarantined": 1}
    assert chain.report["held"] == []
    (word,) = chain.report["overrides"]
    assert (word["reasons"], word["override_reason"]) == (["study_incomplete"], WHY)
    assert word["overridden_by"] == "a clinician"

    contracts = {contract["study_key"]: contract for contract in place.contracts()}
    assert len(contracts) == 2
    override = contracts[word["study_key"]]["override"]
    assert override == {name: value for name, value in word.items() if name != "study_key"}
    assert ["override" in contract for contract in contracts.values()].count(True) == 1
    with place.ledger() as ledger:
        overrides = ledger.overrides_of(chain.pipeline.datastore_id, chain.report["run_key"])
    assert overrides.select("reason", "overridden_by", "override_reason").rows() == [("truncated", "a clinician", WHY)]


def test_a_person_may_release_a_study_although_a_file_of_it_cannot_be_read(place: Place) -> None:
    chain = held(place, {"held/1.dcm": ct(3, 1, 1), "held/2.dcm": b""})
    assert chain.report["dispositions"] == {"held": 1, "quarantined": 1}
    answered(chain, APPROVE, WHY)
    assert chain.report["dispositions"] == {"released": 1, "quarantined": 1}
    assert chain.report["overrides"][0]["reasons"] == ["sibling_unread"]


def test_the_question_names_counts_and_reason_codes_only(place: Place, asked: list[dict[str, Any]]) -> None:
    chain = held(place, INCOMPLETE)
    answered(chain, KEEP_HELD)
    (question,) = asked
    assert "- study_incomplete: 1" in question["body"]
    assert "CANARY" not in json.dumps(question).upper()
    assert "CANARY" not in json.dumps(chain.report).upper()


def test_an_audit_done_again_keeps_a_persons_word_and_asks_nobody(place: Place, asked: list[dict[str, Any]]) -> None:
    chain = held(place, INCOMPLETE)
    answered(chain, APPROVE, WHY)
    before = chain.report, place.contracts()
    chain.onward("audit")
    assert (chain.report, place.contracts()) == before
    assert len(asked) == 1


def test_what_is_kept_held_is_asked_about_again_when_review_is_cleared(place: Place) -> None:
    chain = held(place, INCOMPLETE)
    answered(chain, KEEP_HELD)
    assert place.contracts() == []
    answered(chain, APPROVE, WHY)
    assert len(place.contracts()) == 1


def test_an_approval_without_a_reason_opens_the_question_again_and_uses_no_try(
    place: Place, asked: list[dict[str, Any]]
) -> None:
    chain = held(place, INCOMPLETE)
    with pytest.raises(TaskAwaitingInput):
        answered(chain, APPROVE)
    assert [NEEDS in question["body"] for question in asked] == [True, True]
    assert chain.errors == []
    assert place.contracts() == []
    answered(chain, APPROVE, WHY)
    assert len(place.contracts()) == 1


def test_a_word_that_comes_after_a_redrive_has_taken_the_study_over_releases_nothing(place: Place) -> None:
    chain = held(place, INCOMPLETE)
    asked = {"redrive_run": chain.run_id, "redrive_why": "sent again"}
    redrive = Chain(place, pipeline(), run_id="manual__redrive", params=asked)
    redrive.until("buffer")
    answered(chain, APPROVE, WHY)
    assert chain.report["dispositions"] == {"held": 1, "quarantined": 1}
    assert place.contracts() == []
    redrive.onward("parse")
    assert redrive.report["dispositions"] == {"held": 1, "quarantined": 1}


def test_a_review_that_is_marked_as_success_releases_nothing(place: Place) -> None:
    """Nobody has answered then: Airflow has no answer to hand on."""
    chain = held(place, delivery(studies=1, instances=2) | INCOMPLETE)
    chain.xcom["review", 0] = None
    chain.states["review"] = "success"
    chain.onward("release")
    assert chain.report["dispositions"] == {"released": 2, "held": 1, "quarantined": 1}
    assert len(place.contracts()) == 1


def test_only_what_is_held_by_the_chosen_reasons_is_released(place: Place) -> None:
    chain = held(place, INCOMPLETE)
    answered(chain, APPROVE, WHY, ["service_warning"])
    assert chain.report["dispositions"] == {"held": 1, "quarantined": 1}
    answered(chain, APPROVE, WHY, ["study_incomplete", "service_warning"])
    assert chain.report["dispositions"] == {"released": 1, "quarantined": 1}


def test_nobody_is_asked_about_what_no_word_can_release(place: Place, asked: list[dict[str, Any]]) -> None:
    """A file in a non-primary image set: the conflict has to be resolved."""
    conflict = {"a.dcm": ct(3, 1, 1), "b.dcm": ct(3, 1, 2, AccessionNumber="another")}
    chain = held(place, conflict, validation={"grouping_conflict": "accept"})
    chain.onward("review")
    assert asked == []
    assert chain.report["dispositions"] == {"held": 2}
    assert place.contracts() == []


def test_what_a_person_released_is_published_before_it_is_routed(place: Place) -> None:
    chain = held(place, INCOMPLETE, healthlake=HEALTHLAKE)
    answered(chain, APPROVE, WHY)
    assert chain.report["dispositions"] == {"released": 1, "quarantined": 1}
    (contract,) = place.contracts()
    assert contract["override"]["override_reason"] == WHY
    assert place.stored(contract["fhir"]["ImagingStudy"])


def test_a_persons_word_releases_what_was_stored_with_issues(place: Place) -> None:
    place.put({"a.ndjson": ndjson(patient("p1"), patient("day", birthDate="1961-02-30"))})
    chain = Chain(place, clinical_pipeline(**MINIMAL))
    chain.answer = answer(APPROVE, WHY, reasons=None)
    report = chain.run()
    assert report["dispositions"] == {"released": 2}
    assert [word["reasons"] for word in report["overrides"]] == [["stored_with_issues"]]
    assert place.routed() == {"Patient/p1", "Patient/day"}
    overrides = {one["subject"]["reference"]: one.get("override") for one in place.contracts()}
    assert overrides["Patient/p1"] is None
    assert overrides["Patient/day"]["override_reason"] == WHY
    before = chain.report, place.contracts()
    chain.onward("audit")
    assert (chain.report, place.contracts()) == before
