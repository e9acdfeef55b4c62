"""Whose study it is: what Airlock and people decided, and the questions that are open."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import polars as pl
from sqlalchemy import func, select

from airlock.ledger import IdentityAnswer, Ledger
from airlock.ledger.database import reading
from airlock.ledger.decision_tables import decisions
from airlock.ledger.identities import MATCHES, OWN
from tests.unit.airlock.ledger.samples import STORE, uids

NOW = datetime(2026, 11, 24, 3, tzinfo=UTC)
MOMENT = timedelta(microseconds=1)
OWN_PATIENT = "Patient/made"
EHR = "Patient/ehr"


def match(study: str = "1.1", answer: str = OWN, outcome: str = "ambiguous", seen: str = "s1") -> pl.DataFrame:
    reason = {"ambiguous": "patient_ambiguous", "contradicted": "patient_contradicted"}.get(outcome)
    question = json.dumps({"identity": OWN_PATIENT})
    row = (study, f"key of {study}", OWN_PATIENT, "", seen, answer, outcome, reason, question)
    return pl.DataFrame([row], schema=MATCHES, orient="row")


def recorded(ledger: Ledger, *matches: pl.DataFrame) -> int:
    return ledger.record_matches("nightly", STORE, "a", pl.concat(matches))


def answered(ledger: Ledger, patient: str | None, seen: str = "s1") -> int:
    given = IdentityAnswer(OWN_PATIENT, seen, patient, [OWN_PATIENT], "patient_ambiguous", "ada", "the paper", NOW)
    return ledger.answer_identity("nightly", STORE, given)


def open_studies(ledger: Ledger) -> list[str]:
    return ledger.identity_questions(STORE)["subject"].to_list()


def count_decisions(ledger: Ledger) -> int:
    with reading(ledger._engine) as connection:  # no method counts the log
        return int(connection.scalar(select(func.count()).select_from(decisions)) or 0)


def test_a_study_in_doubt_is_a_question_until_it_is_answered(ledger: Ledger) -> None:
    assert recorded(ledger, match(), match("1.2")) == 2
    assert open_studies(ledger) == ["1.1", "1.2"]
    assert answered(ledger, EHR) == 2, "both show the same"
    assert open_studies(ledger) == []
    found = ledger.identity_answers(STORE, uids(OWN_PATIENT))
    assert found.select("answer", "decided_by").rows() == [(EHR, "ada")]


def test_the_same_question_is_asked_once(ledger: Ledger) -> None:
    recorded(ledger, match())
    assert recorded(ledger, match()) == 0
    assert open_studies(ledger) == ["1.1"]


def test_a_question_about_other_facts_takes_the_place_of_the_one_before(ledger: Ledger) -> None:
    recorded(ledger, match())
    assert recorded(ledger, match(seen="s2")) == 1
    assert ledger.identity_questions(STORE).select("subject", "seen").rows() == [("1.1", "s2")]
    assert answered(ledger, EHR, "s1") == 0, "that question is closed"


def test_a_question_that_is_none_any_more_is_closed_and_may_come_again(ledger: Ledger) -> None:
    recorded(ledger, match(), match("1.2"))
    recorded(ledger, match(answer=EHR, outcome="matched"))
    assert open_studies(ledger) == ["1.2"]
    assert recorded(ledger, match()) == 1
    assert open_studies(ledger) == ["1.2", "1.1"]


def test_a_match_is_in_the_decision_log_once_and_none_is_no_decision(ledger: Ledger) -> None:
    for _ in range(2):
        recorded(ledger, match(answer=EHR, outcome="matched"), match("1.2", outcome="none"))
    assert count_decisions(ledger) == 1
    assert ledger.identity_answers(STORE, uids(OWN_PATIENT)).is_empty(), "nobody has decided"


def test_the_person_of_an_identity_is_known_until_somebody_revokes_it(ledger: Ledger) -> None:
    recorded(ledger, match(answer=EHR, outcome="matched"))
    assert ledger.persons_of(STORE, uids(OWN_PATIENT)) == {EHR}
    recorded(ledger, match(answer="Patient/other", outcome="matched", seen="s2"))
    assert ledger.persons_of(STORE, uids(OWN_PATIENT)) == {"Patient/other"}
    answered(ledger, None, "s2")
    assert ledger.persons_of(STORE, uids(OWN_PATIENT)) == set()
    answered(ledger, EHR)
    assert ledger.persons_of(STORE, uids(OWN_PATIENT)) == {EHR}


def test_answers_since_a_time(ledger: Ledger) -> None:
    answered(ledger, EHR)
    assert ledger.identity_answers_since(STORE, None).height == 1
    assert ledger.identity_answers_since(STORE, NOW).height == 1
    assert ledger.identity_answers_since(STORE, datetime(2026, 11, 25, tzinfo=UTC)).is_empty()
    assert ledger.identity_answers_since("another store", None).is_empty()


def test_who_was_shown_identifiers_is_in_the_log(ledger: Ledger) -> None:
    ledger.record_reveal("nightly", STORE, "key", person="ada", why="airlock patient show")
    assert count_decisions(ledger) == 1


def test_a_study_is_newly_contradicted_since_a_time_unless_it_was_before(ledger: Ledger) -> None:
    def new(since: datetime | None) -> list[str]:
        return ledger.newly_contradicted(STORE, "nightly", since).to_list()

    recorded(ledger, match(outcome="contradicted"))
    asked = ledger.identity_questions()["asked_at"][0]
    assert (new(None), new(asked), new(asked + MOMENT)) == (["key of 1.1"], ["key of 1.1"], [])
    ledger.record_matches("nightly", STORE, "b", match(outcome="contradicted", seen="s2"))
    assert new(asked + MOMENT) == [], "it was known: only other facts are seen"
    ledger.record_matches("nightly", STORE, "b", match(outcome="matched", answer=EHR))
    ledger.record_matches("nightly", STORE, "c", match(outcome="contradicted"))
    assert new(asked + MOMENT) == ["key of 1.1"], "it was settled in between"


def test_a_contradicted_study_is_known_to_other_pipelines_of_the_store(ledger: Ledger) -> None:
    recorded(ledger, match(outcome="contradicted"))
    assert ledger.contradicted_elsewhere(STORE, "weekly", uids("1.1")) == [("1.1", "a")]
    assert ledger.contradicted_elsewhere(STORE, "nightly", uids("1.1")) == [], "its own pipeline looks itself"
    assert ledger.contradicted_elsewhere("another store", "weekly", uids("1.1")) == []
    ledger.record_matches("nightly", STORE, "b", match(outcome="matched", answer=EHR))
    assert ledger.contradicted_elsewhere(STORE, "weekly", uids("1.1")) == []


def test_a_user_who_is_called_as_airlock_is_counts_as_a_person(ledger: Ledger) -> None:
    given = IdentityAnswer(OWN_PATIENT, "s1", EHR, [], "patient_ambiguous", "airlock", "the paper", NOW)
    ledger.answer_identity("nightly", STORE, given)
    assert ledger.identity_answers(STORE, uids(OWN_PATIENT)).height == 1
