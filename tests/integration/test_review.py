"""What the audit of images holds waits for a person while everything else goes on, and their answer releases it."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ledger import ReviewAnswer, clock
from airlock.stages import sends
from airlock.stages.review import ReviewError
from airlock.stages.review import answer as record_answer
from tests.chain import (
    HEALTHLAKE,
    MINIMAL,
    Chain,
    ReviewChain,
    answer_reviews,
    apply_answers,
    clinical_pipeline,
    pipeline,
    release,
)
from tests.clinical_files import ndjson, patient
from tests.dicom_files import ct, delivery

if TYPE_CHECKING:
    from datetime import tzinfo

    from airlock.ledger import ReviewRecord
    from tests.chain import Place

pytestmark = pytest.mark.slow

CANARY = {"PatientID": "CANARY-ID", "PatientName": "Canary^Name", "AccessionNumber": "CANARY-ACC"}
INCOMPLETE = {"held/1.dcm": ct(3, 1, 1, **CANARY), "held/2.dcm": ct(3, 1, 2, **CANARY)[:-100]}
WHY = "the lost file is a copy of the first, as the site says"
ASKING: dict[str, Any] = {
    "audit": {"manifest_wait_seconds": 3, "on_hold": "review"},
    "review": {"by": "the archive team"},
}


def held(place: Place, files: dict[str, bytes], **changes: Any) -> Chain:
    """Deliver files and take them in by a run, to its end."""
    place.put(files)
    chain = Chain(place, pipeline(**(ASKING | changes)))
    chain.run()
    return chain


def waiting(chain: Chain) -> list[ReviewRecord]:
    with chain.place.ledger() as ledger:
        return ledger.open_reviews({chain.pipeline.name})


def test_an_answer_releases_a_study_and_stands_in_ledger_report_and_contract(place: Place) -> None:
    chain = held(place, delivery(studies=1, instances=2) | INCOMPLETE)
    assert chain.report["dispositions"] == {"released": 2, "held": 1, "quarantined": 1}
    assert len(place.contracts()) == 1, "what the gate released by itself waits for nobody"
    report = release(chain, WHY)
    assert report["dispositions"] == {"released": 3, "quarantined": 1}
    assert report["held"] == []
    (word,) = report["overrides"]
    assert (word["reasons"], word["override_reason"]) == (["study_incomplete"], WHY)
    assert word["overridden_by"] == "a clinician"

    contracts = {contract["study_key"]: contract for contract in place.contracts()}
    assert len(contracts) == 2
    override = contracts[word["study_key"]]["override"]
    assert override == {name: value for name, value in word.items() if name != "study_key"}
    assert ["override" in contract for contract in contracts.values()].count(True) == 1
    with place.ledger() as ledger:
        overrides = ledger.overrides_of(chain.pipeline.datastore_id, report["run_key"])
        assert ledger.answered_runs(chain.pipeline.name) == []
    assert overrides.select("reason", "overridden_by", "override_reason").rows() == [("truncated", "a clinician", WHY)]


@pytest.fixture
def passed(monkeypatch: pytest.MonkeyPatch) -> list[timedelta]:
    """What the clocks of the ledger's database and of those who send are ahead by."""
    ahead, ask = [timedelta()], clock._ask

    class Later(datetime):
        @classmethod
        def now(cls, tz: tzinfo | None = None) -> datetime:
            return datetime.now(tz) + ahead[0]

    monkeypatch.setattr(clock, "_ask", lambda connection: ask(connection) + ahead[0])
    monkeypatch.setattr(sends, "datetime", Later)
    return ahead


def test_a_review_is_open_for_seven_days_while_nights_routes_and_other_studies_go_on(
    place: Place, passed: list[timedelta]
) -> None:
    """And its run does not run: the DAG of the pipeline is free for the next night."""
    first = held(place, INCOMPLETE)
    (asked,) = waiting(first)
    for count, night in enumerate((1, 4, 7), 1):
        passed[0] = timedelta(days=night)
        place.put({f"{n}.dcm": ct(10 + night, 1, n) for n in (1, 2)}, f"in/night-{night}/")
        chain = Chain(place, first.pipeline, run_id=f"manual__night-{night}")
        assert chain.run()["dispositions"]["released"] == 2
        assert len(place.contracts()) == count
        assert apply_answers(place, first.pipeline, f"scheduled__{night}").states["route"] == "skipped"
        assert waiting(first) == [asked]
    assert release(first, WHY)["dispositions"] == {"released": 1, "quarantined": 1}
    assert len(place.contracts()) == 4


def test_of_two_reviewers_at_once_the_first_counts_and_the_second_is_told(place: Place) -> None:
    chain = held(place, INCOMPLETE)
    seen = waiting(chain)
    assert answer_reviews(place, chain.pipeline, approved=False, why="ask the site", person="ada") == 1
    with place.ledger() as ledger, pytest.raises(ReviewError, match="was answered by ada at"):
        record_answer(place._wrapped, chain.pipeline, ledger, seen, ReviewAnswer(True, "grace", WHY))
    apply_answers(place, chain.pipeline)
    assert chain.report["dispositions"] == {"held": 1, "quarantined": 1}
    assert place.contracts() == []


def test_a_person_may_release_a_study_although_a_file_of_it_cannot_be_read(place: Place) -> None:
    chain = held(place, {"held/1.dcm": ct(3, 1, 1), "held/2.dcm": b""})
    assert chain.report["dispositions"] == {"held": 1, "quarantined": 1}
    report = release(chain, WHY)
    assert report["dispositions"] == {"released": 1, "quarantined": 1}
    assert report["overrides"][0]["reasons"] == ["sibling_unread"]


def test_the_question_has_no_identifier_outside_the_ledger(place: Place) -> None:
    chain = held(place, INCOMPLETE)
    (asked,) = waiting(chain)
    assert asked.reasons == ("study_incomplete",)
    shown = json.dumps([asked.subject_key, asked.question, asked.site, chain.report])
    assert "CANARY" not in shown.upper()


def test_an_audit_done_again_keeps_an_answer_and_asks_nobody(place: Place) -> None:
    chain = held(place, INCOMPLETE)
    release(chain, WHY)
    before = chain.report, place.contracts()
    chain.onward("audit")
    assert (chain.report, place.contracts()) == before
    assert waiting(chain) == []


def test_an_answer_about_a_run_that_goes_on_waits_for_its_end(place: Place) -> None:
    chain = held(place, INCOMPLETE)
    answer_reviews(place, chain.pipeline, why=WHY)
    place.running.add((chain.pipeline.name, chain.run_id))
    assert apply_answers(place, chain.pipeline).states["release"] == "skipped"
    place.running.clear()
    apply_answers(place, chain.pipeline)
    assert chain.report["dispositions"] == {"released": 1, "quarantined": 1}


def test_answers_about_several_runs_are_applied_one_run_after_the_other(place: Place) -> None:
    chains = []
    for number in (1, 2):
        place.put({f"{number}/1.dcm": ct(number, 1, 1), f"{number}/2.dcm": ct(number, 1, 2)[:-100]}, f"in/{number}/")
        chains.append(Chain(place, pipeline(**ASKING), run_id=f"manual__{number}"))
        chains[-1].run()
    assert answer_reviews(place, chains[0].pipeline, why=WHY) == 2
    first = apply_answers(place, chains[0].pipeline)
    (started,) = first.started.values()
    assert len(place.contracts()) == 1
    assert not apply_answers(place, chains[0].pipeline, started.dag_run_id, **started.conf).started
    assert len(place.contracts()) == 2


def test_an_answer_that_comes_after_a_redrive_has_taken_the_study_over_releases_nothing(place: Place) -> None:
    chain = held(place, INCOMPLETE)
    asked = {"redrive_run": chain.run_id, "redrive_why": "sent again"}
    redrive = Chain(place, pipeline(), run_id="manual__redrive", params=asked)
    redrive.until("buffer")
    assert release(chain, WHY)["dispositions"] == {"held": 1, "quarantined": 1}
    assert place.contracts() == []
    with place.ledger() as ledger:
        assert ledger.answered_runs(chain.pipeline.name) == [], "it is not tried for ever"
    redrive.onward("parse")
    assert redrive.report["dispositions"] == {"held": 1, "quarantined": 1}


def test_nobody_is_asked_about_what_no_answer_can_release(place: Place) -> None:
    """A file in a non-primary image set: the conflict has to be resolved."""
    conflict = {"a.dcm": ct(3, 1, 1), "b.dcm": ct(3, 1, 2, AccessionNumber="another")}
    chain = held(place, conflict, validation={"grouping_conflict": "accept"})
    assert waiting(chain) == []
    assert chain.report["dispositions"] == {"held": 2}
    assert place.contracts() == []


def test_what_a_person_released_is_published_before_it_is_routed(place: Place) -> None:
    chain = held(place, delivery(studies=1, instances=1) | INCOMPLETE, healthlake=HEALTHLAKE)
    assert len(place.contracts()) == 1
    assert release(chain, WHY)["dispositions"] == {"released": 2, "quarantined": 1}
    (contract,) = (one for one in place.contracts() if "override" in one)
    assert contract["override"]["override_reason"] == WHY
    assert place.stored(contract["fhir"]["ImagingStudy"])


def test_an_approval_whose_publication_failed_is_tried_again(place: Place) -> None:
    chain = held(place, INCOMPLETE, healthlake=HEALTHLAKE)
    answer_reviews(place, chain.pipeline, why=WHY)
    broken = ReviewChain(place, chain.pipeline, run_id="scheduled__1")
    broken.until("release")
    with place.ledger() as ledger:
        assert len(ledger.answered_runs(chain.pipeline.name)) == 1
    apply_answers(place, chain.pipeline, "scheduled__2")
    assert chain.report["dispositions"] == {"released": 1, "quarantined": 1}
    assert len(place.contracts()) == 1


def test_an_approval_before_the_runs_own_publication_is_over_is_not_lost(place: Place) -> None:
    place.put(delivery(studies=1, instances=1) | INCOMPLETE)
    chain = Chain(place, pipeline(**ASKING, healthlake=HEALTHLAKE))
    chain.until("fhir.import")
    answer_reviews(place, chain.pipeline, why=WHY)
    chain.onward("fhir.audit")
    assert len(place.contracts()) == 1
    apply_answers(place, chain.pipeline)
    assert chain.report["dispositions"] == {"released": 2, "quarantined": 1}
    assert len(place.contracts()) == 2


def test_an_answer_releases_what_was_stored_with_issues_of_a_run_at_once(place: Place) -> None:
    place.put(
        {
            "a.ndjson": ndjson(
                patient("p1"), patient("day", birthDate="1961-02-30"), patient("x", birthDate="1961-02-31")
            )
        }
    )
    chain = Chain(place, clinical_pipeline(**MINIMAL))
    assert chain.run()["dispositions"] == {"released": 1, "held": 2}
    (asked,) = waiting(chain)
    assert (asked.reason, asked.subjects, asked.is_group) == ("stored_with_issues", 2, True)
    report = release(chain, WHY)
    assert report["dispositions"] == {"released": 3}
    assert [word["reasons"] for word in report["overrides"]] == [["stored_with_issues"]] * 2
    assert place.routed() == {"Patient/p1", "Patient/day", "Patient/x"}
    overrides = {one["subject"]["reference"]: one.get("override") for one in place.contracts()}
    assert overrides["Patient/p1"] is None
    assert overrides["Patient/day"]["override_reason"] == WHY
    before = chain.report, place.contracts()
    chain.onward("audit")
    assert (chain.report, place.contracts()) == before
    assert waiting(chain) == []
