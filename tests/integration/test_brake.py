"""The brake, through the DAGs of every kind: one question, and what a run has done before and after the answer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from airflow.sdk.exceptions import AirflowFailException, TaskAwaitingInput

from airlock_tasks.brake import GO_ON, STOP
from tests.chain import Chain, answer, ccda_pipeline, clinical_pipeline, pipeline, questions_to_people
from tests.clinical_files import ndjson, patient
from tests.dicom_files import ct
from tests.ledger_rows import count_arrivals

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

SMALL = {"least_arrivals": 10}
SENDER_SAYS = answer(GO_ON, "the sender knows of it")
GOOD = {f"{number}/1.dcm": ct(number, 1, 1) for number in range(1, 10)}
BROKEN = {"10/1.dcm": ct(10, 1, 1)[:400]}


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    return questions_to_people(monkeypatch)


def images(place: Place, brake: Any = SMALL, **settings: Any) -> Chain:
    place.put(GOOD | BROKEN)
    audit = {"manifest_wait_seconds": 3, "brake": brake} | settings
    return Chain(place, pipeline(audit=audit), tries=1)


def stopped_at(chain: Chain, stage: str) -> Chain:
    """Run a chain to the stage that asks a person."""
    with pytest.raises(TaskAwaitingInput):
        chain.until(stage)
    return chain


def words(chain: Chain) -> dict[str, int]:
    """Return how many arrivals have each disposition in the ledger; ``claimed`` counts those without one."""
    with chain.place.ledger() as ledger:
        return count_arrivals(ledger, chain.pipeline.name)


def test_a_run_with_absurd_numbers_asks_once_before_anything_is_imported(
    place: Place, asked: list[dict[str, Any]]
) -> None:
    chain = stopped_at(images(place), "validate")
    (question,) = asked
    assert question["options"] == [GO_ON, STOP]
    assert question["defaults"] == [STOP]
    assert "1 of 10 (10 %) cannot be read; audit.brake.unread allows 2 %." in question["body"]
    assert place.jobs() == []
    chain.answer = SENDER_SAYS
    assert chain.onward("validate")["dispositions"] == {"released": 9, "quarantined": 1}
    assert len(place.contracts()) == 9
    chain.answer = None
    asked.clear()
    chain.stage("validate")  # as one clears it: the answer stands
    assert asked == []


def test_a_second_question_is_answered_by_its_number_since_airflow_shows_the_first_text(
    place: Place, asked: list[dict[str, Any]]
) -> None:
    chain = stopped_at(images(place), "validate")
    chain.answer = SENDER_SAYS
    chain.stage("validate")
    chain.answer = None
    chain.pipeline = pipeline(audit={"brake": SMALL}, limits={"file_bytes": 1})  # nothing else may come in
    stopped_at(chain, "validate")
    assert place.jobs() == []
    chain.answer = SENDER_SAYS  # to the text of the first question
    stopped_at(chain, "validate")
    assert "Question 1: 1 of 10" in asked[0]["body"]
    assert "Question 2: 9 of 10" in asked[-2]["body"]
    assert asked[-1]["body"] is None  # the question is open again
    chain.answer = answer(GO_ON, "the sender knows of it", question=2)
    chain.stage("validate")
    assert chain.states["validate"] == "success"


def test_a_stopped_run_settles_nothing_and_goes_on_when_the_cause_is_cured(place: Place) -> None:
    chain = images(place)
    chain.answer = answer(STOP, "an upload broke off")
    with pytest.raises(AirflowFailException, match="The run was stopped before import, so nothing is settled: 1 of 10"):
        chain.run()
    assert (chain.states["validate"], chain.states["import"], chain.states["audit"]) == (
        "failed",
        "upstream_failed",
        "failed",
    )
    assert words(chain) == {"claimed": 10}
    with place.ledger() as ledger:
        known = ledger.find_run(chain.pipeline.name, chain.run_id)
    assert known is not None
    assert known.report is not None
    assert known.report["brake"].startswith("1 of 10 (10 %) cannot be read")
    chain.answer = SENDER_SAYS
    assert chain.onward("validate")["dispositions"] == {"released": 9, "quarantined": 1}


def test_a_run_that_would_hold_too_much_asks_before_it_settles_anything(
    place: Place, asked: list[dict[str, Any]]
) -> None:
    chain = images(place, SMALL | {"unread": 1, "one_reason": 1})
    place.put({f"11/{number}.dcm": ct(11, 1, number) for number in range(1, 10)})
    place.put({"11/10.dcm": ct(11, 1, 10, PatientID="P" * 300)})
    stopped_at(chain, "audit")
    (question,) = asked
    assert "9 of 20 (45 %) would be held; audit.brake.held allows 20 %." in question["body"]
    assert "audit/dispositions.csv" in question["body"]
    assert place.contracts() == []
    chain.answer = SENDER_SAYS
    report = chain.onward("audit")
    assert report["dispositions"] == {"held": 9, "released": 9, "quarantined": 2}
    assert "brake" not in report
    assert len(place.contracts()) == 9


def test_a_stop_before_route_releases_nothing(place: Place) -> None:
    chain = images(place, SMALL | {"unread": 1, "one_reason": 1, "held": 0.01})
    place.put({"1/2.dcm": ct(1, 1, 2, PatientID="P" * 300)})
    chain.answer = answer(STOP, "a wrong export")
    with pytest.raises(AirflowFailException, match=r"A person has stopped the run: 1 of 11 .* would be held"):
        chain.run()
    assert place.contracts() == []
    assert chain.states["route"] == "upstream_failed"
    assert words(chain) == {"claimed": 11}


def test_go_on_needs_a_reason_and_no_answer_in_time_is_a_stop(place: Place, asked: list[dict[str, Any]]) -> None:
    chain = images(place)
    chain.answer = answer(GO_ON)
    stopped_at(chain, "validate")
    assert len(asked) == 2  # it is open again
    chain.answer = answer(STOP) | {"responded_by_user": None, "params_input": {}}
    with pytest.raises(AirflowFailException, match="Nobody answered in time"):
        chain.stage("validate")
    assert place.jobs() == []


def test_resources_stop_a_run_too(place: Place, asked: list[dict[str, Any]]) -> None:
    lines = [patient(f"p{number}") for number in range(9)]
    place.put({"Patient.ndjson": ndjson(*lines, "{not json")})
    audit = {"manifest_wait_seconds": 3, "brake": SMALL}
    chain = stopped_at(Chain(place, clinical_pipeline(audit=audit), tries=1), "validate")
    assert "1 of 10 (10 %) cannot be read" in asked[0]["body"]
    chain.answer = SENDER_SAYS
    assert chain.onward("validate")["dispositions"]["quarantined"] == 1
    assert len(place.routed()) == 9


def test_documents_stop_a_run_too(place: Place, asked: list[dict[str, Any]]) -> None:
    place.put({f"{number}.xml": b"<not a document" for number in range(10)})
    audit = {"manifest_wait_seconds": 3, "brake": SMALL}
    chain = Chain(place, ccda_pipeline(audit=audit), tries=1)
    stopped_at(chain, "validate")
    assert "10 of 10 (100 %) cannot be read" in asked[0]["body"]
    chain.answer = answer(STOP, "a broken export")
    with pytest.raises(AirflowFailException):
        chain.onward("validate")
    assert chain.states["fhir.audit"] == "failed"
