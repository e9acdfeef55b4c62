"""The answer to "where is it?": what each state is called, in which order things happened, who sees what."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ledger import Ledger
from airlock.ledger.gates import GATES
from airlock.ledger.outbox import MESSAGES
from airlock.records import CONTRACTS, study_key
from airlock.stages.pages.answer import answer
from airlock.stages.pages.tonight import Grade
from tests.servers.ledger import new_ledger
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    NO_SERIES,
    NO_STUDIES,
    STORE,
    arrivals,
    begin,
    claims,
    dispositions,
    imports,
    uids,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from airlock.stages.pages.answer import Answer

STUDY = "1.study"
ROUTE = "s3://out/"


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(new_ledger(tmp_path / "ledger.db")) as opened:
        yield opened


def settle(ledger: Ledger, name: str, word: str, reason: str | None = None) -> None:
    rows = dispositions(name, word=word).with_columns(reason=pl.lit(reason, pl.String), detail=pl.lit("DOE^JANE"))
    ledger.settle(NIGHTLY, "a", rows)


def decide(ledger: Ledger, gate: str, reason: str | None = None) -> None:
    ledger.record_gates(STORE, "a", pl.DataFrame([(STUDY, study_key(STUDY), gate, reason)], schema=GATES, orient="row"))


@pytest.fixture
def told(ledger: Ledger) -> Ledger:
    begin(ledger, "a")
    ledger.claim(NIGHTLY, "a", arrivals("good", "bad"))
    ledger.claim_instances(STORE, NIGHTLY, "a", claims(("good", "1.good")))
    ledger.record_imported(STORE, "a", imports(("good", "1.good")), NO_STUDIES, NO_SERIES)
    settle(ledger, "good", "held", "study_incomplete")
    settle(ledger, "bad", "quarantined", "truncated")
    decide(ledger, "hold", "study_incomplete")
    return ledger


def look(ledger: Ledger, text: str = STUDY, *, pipelines: Any = (NIGHTLY,), reveal: bool = False) -> Answer | None:
    return answer(ledger.where(text), ledger.find_owed(text), set(pipelines), reveal=reveal)


def test_a_held_study_is_said_to_be_held_with_what_to_do(told: Ledger) -> None:
    found = look(told)
    assert found is not None
    assert found.headline.startswith("HELD in nightly since ")
    assert "study_incomplete. Another file of the study was not imported." in found.headline
    assert found.grade is Grade.ATTENTION
    assert {row[:3] for row in found.counts} == {(1, "held", "study_incomplete"), (1, "rejected", "truncated")}
    assert found.study_keys == (study_key(STUDY),)


def test_things_are_told_in_their_order(told: Ledger) -> None:
    found = look(told)
    assert found is not None
    times = [event.at for event in found.events if event.at is not None]
    assert times == sorted(times)
    assert found.events[0].text == "2 files claimed"
    assert "held by the audit: study_incomplete" in [event.text for event in found.events]


def test_identifiers_and_texts_of_files_are_masked_unless_they_are_asked_for(told: Ledger) -> None:
    hidden, shown = look(told), look(told, reveal=True)
    assert hidden is not None
    assert shown is not None
    for secret in (STUDY, "in/good", "1.good", "DOE^JANE"):
        assert secret not in repr(hidden)
        assert secret in repr(shown)


def test_a_release_names_what_was_sent_and_what_is_not(told: Ledger) -> None:
    settle(told, "good", "released")
    settle(told, "bad", "released")
    decide(told, "release")
    contract = '{"schema": "airlock.study/1", "NumberOfStudyRelatedInstances": 1, "series": [{"image_set_ids": ["i"]}]}'
    rows = pl.DataFrame([(STUDY, study_key(STUDY), 1, "digest", contract)], schema=CONTRACTS, orient="row")
    told.revise_contracts(STORE, "a", uids(STUDY), lambda _: rows)
    message = pl.DataFrame([(study_key(STUDY), 1, "digest", "s3://w/c.json")], schema=MESSAGES, orient="row")
    told.record_releases(NIGHTLY, "a", STORE, message)
    unrouted = look(told)
    assert unrouted is not None
    assert "not at a destination" in unrouted.headline
    told.enqueue(NIGHTLY, "a", ROUTE, message)
    told.mark_matched(NIGHTLY, STORE, "rules", message.select("subject_key", "revision", routes=pl.lit(1, pl.Int64)))
    told.mark_sent(told.lease_due(NIGHTLY, ROUTE, 1)[0].id)
    found = look(told)
    assert found is not None
    assert (found.grade, found.headline) == (Grade.GOOD, "IN ORDER: 2 released. 1 message was sent.")
    assert (found.contracts[0]["revision"], found.contracts[0]["image_sets"]) == (1, ["i"])
    assert f"sent: revision 1 to {ROUTE}" in [event.text for event in found.events]


def test_who_may_not_read_the_pipeline_gets_no_answer(told: Ledger) -> None:
    assert look(told, pipelines=["other"]) is None
    assert look(told, "1.2.3") is None


def test_of_a_study_in_two_pipelines_a_person_sees_their_own_only(told: Ledger) -> None:
    begin(told, "b", pipeline="other")
    told.claim("other", "b", arrivals("elsewhere"))
    rows = dispositions("elsewhere", word="quarantined").with_columns(reason=pl.lit("not_dicom"))
    told.settle("other", "b", rows)
    found = look(told, pipelines=["other"])
    assert found is not None
    assert found.pipelines == ("other",)
    assert {event.run_id for event in found.events} == {"scheduled__b"}
    assert (len(found.files), found.contracts) == (1, ())
