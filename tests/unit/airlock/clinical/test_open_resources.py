"""What a run has not brought holds its patient in other runs too, until a run has brought it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airlock.clinical.audit import audit
from airlock.clinical.records import GATES
from airlock.records import CONTRACTS
from tests.unit.airlock.clinical.books import Store, audited, observation, patient, rejected, warned, words

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

P1, O1, O2 = patient("p1"), observation("o1", "p1"), observation("o2", "p1")
ALLERGY = {
    "resourceType": "AllergyIntolerance",
    "id": "a1",
    "patient": {"reference": "Patient/p1"},
    "code": {"text": "penicillin"},
}
BAD_ALLERGY = ALLERGY | {"colour": "blue"}
OF_P2 = {"id": "a2", "patient": {"reference": "Patient/p2"}}
RELEASED, PATIENT_HELD = ("released", None), ("held", "patient_held")
NO_READ_BACK: dict[str, Any] = {"read_back_sample": 0}
WHOLE = {"audit": NO_READ_BACK | {"hold_incomplete_patients": True}}


def test_a_patient_in_doubt_is_held_in_the_next_run_until_the_resource_has_come(world: World) -> None:
    audited(world, "zero", {"a.ndjson": [P1]})
    one, _ = audited(world, "one", {"a.ndjson": [O1, observation("o3", "p1")]}, {"Observation/o1": None})
    assert words(one)["Observation/o3"][0] == "held"
    two, _ = audited(world, "two", {"b.ndjson": [O2]})
    assert words(two) == {"Observation/o2": PATIENT_HELD}
    three, _ = audited(world, "three", {"c.ndjson": [O1, O2, observation("o3", "p1")]})
    assert set(words(three).values()) == {RELEASED}
    four, _ = audited(world, "four", {"d.ndjson": [observation("o4", "p1")]})
    assert words(four) == {"Observation/o4": RELEASED}


def test_what_a_run_has_released_stays_released_when_a_later_run_is_in_doubt(world: World) -> None:
    one, _ = audited(world, "one", {"a.ndjson": [P1, O1]})
    audited(world, "two", {"b.ndjson": [O2]}, {"Observation/o2": None})
    audit(one, Store())
    assert set(words(one).values()) == {RELEASED}


def test_an_older_run_audited_again_does_not_end_a_later_doubt(world: World) -> None:
    one, _ = audited(world, "one", {"a.ndjson": [P1, O1]})
    changed = observation("o1", "p1", status="amended")
    audited(world, "two", {"b.ndjson": [changed]}, {"Observation/o1": None})
    audit(one, Store())
    three, _ = audited(world, "three", {"c.ndjson": [O2]})
    assert words(three) == {"Observation/o2": PATIENT_HELD}


def test_older_content_does_not_follow_content_in_doubt(world: World) -> None:
    audited(world, "one", {"a.ndjson": [P1]})
    late = {"meta": {"lastUpdated": "2026-11-01T00:00:00Z"}}
    newer = {"meta": {"lastUpdated": "2026-11-02T00:00:00Z"}, "status": "amended"}
    order = {"source": {"order": {"across_keys": "last_updated"}}}
    audited(world, "two", {"b.ndjson": [O1 | newer]}, {"Observation/o1": None}, **order)
    three, _ = audited(world, "three", {"c.ndjson": [O1 | late]}, **order)
    assert words(three) == {"Observation/o1": ("ignored", "newer_content")}


def test_a_patient_without_a_refused_one_of_hold_types_is_held_in_every_run(world: World) -> None:
    files = {"a.ndjson": [P1, BAD_ALLERGY]}
    one, _ = audited(world, "one", files, **WHOLE)
    assert words(one)["Patient/p1"] == PATIENT_HELD
    two, _ = audited(world, "two", {"b.ndjson": [O2, P1]}, **WHOLE)
    assert words(two) == {"Observation/o2": PATIENT_HELD, "Patient/p1": PATIENT_HELD}
    three, _ = audited(world, "three", {"c.ndjson": [P1, O2, ALLERGY]}, **WHOLE)
    assert set(words(three).values()) == {RELEASED}


def test_what_released_content_has_superseded_under_another_key_holds_nobody(world: World) -> None:
    one, _ = audited(world, "one", {"a.ndjson": [P1, BAD_ALLERGY]}, **WHOLE)
    assert words(one)["Patient/p1"] == PATIENT_HELD
    audited(world, "two", {"b.ndjson": [P1, ALLERGY]}, **WHOLE)
    audit(one, Store())
    assert words(one) == {"Patient/p1": RELEASED, "AllergyIntolerance/a1": ("quarantined", "invalid_resource")}


def test_the_same_content_released_by_another_run_holds_nobody(world: World) -> None:
    signed = ALLERGY | {"encounter": {"reference": "Encounter/e1"}}
    kind = {"system": "http://terminology.hl7.org/CodeSystem/v3-ActCode", "code": "AMB"}
    visit = {"resourceType": "Encounter", "id": "e1", "status": "finished", "class": kind}
    one, _ = audited(world, "one", {"a.ndjson": [P1, signed]}, **WHOLE)
    assert words(one)["Patient/p1"] == PATIENT_HELD
    audited(world, "two", {"b.ndjson": [P1, signed, visit]}, **WHOLE)
    audit(one, Store())
    assert words(one)["Patient/p1"] == RELEASED


def test_an_older_content_does_not_supersede_what_is_missing(world: World) -> None:
    audited(world, "one", {"a.ndjson": [P1, ALLERGY]}, **WHOLE)
    two, _ = audited(world, "two", {"b.ndjson": [O2, BAD_ALLERGY]}, **WHOLE)
    assert words(two)["Observation/o2"] == PATIENT_HELD


def test_newer_content_that_is_held_supersedes_nothing(world: World) -> None:
    one, _ = audited(world, "one", {"a.ndjson": [P1, BAD_ALLERGY]}, **WHOLE)
    two, _ = audited(world, "two", {"b.ndjson": [P1, ALLERGY]}, {"AllergyIntolerance/a1": warned()}, **WHOLE)
    assert words(two)["AllergyIntolerance/a1"] == ("held", "stored_with_issues")
    audit(one, Store())
    assert words(one)["Patient/p1"] == PATIENT_HELD


def test_content_that_cannot_be_ordered_supersedes_nothing(world: World) -> None:
    order = WHOLE | {"source": {"order": {"across_keys": "last_updated"}}}
    one, _ = audited(world, "one", {"a.ndjson": [P1, BAD_ALLERGY]}, **order)
    audited(world, "two", {"b.ndjson": [P1, ALLERGY]}, **order)
    audit(one, Store())
    assert words(one)["Patient/p1"] == PATIENT_HELD


def test_only_the_lines_that_are_older_are_superseded(world: World) -> None:
    order = WHOLE | {"source": {"order": {"across_keys": "last_updated"}}}
    old, mid, new = ({"meta": {"lastUpdated": f"2026-11-0{day}T00:00:00Z"}} for day in (1, 2, 3))
    audited(world, "one", {"a.ndjson": [P1]}, **WHOLE)
    audited(world, "two", {"b.ndjson": [ALLERGY | mid]}, **order)
    three, _ = audited(world, "three", {"c.ndjson": [O1, BAD_ALLERGY | old]}, **order)
    assert words(three)["Observation/o1"] == RELEASED
    four, _ = audited(world, "four", {"d.ndjson": [O2, BAD_ALLERGY | old, BAD_ALLERGY | new]}, **order)
    assert words(four)["Observation/o2"] == PATIENT_HELD


def test_a_line_that_the_delivery_mends_in_newer_content_holds_nobody(world: World) -> None:
    order = WHOLE | {"source": {"order": {"across_keys": "last_updated"}}}
    old, new = ({"meta": {"lastUpdated": f"2026-11-0{day}T00:00:00Z"}} for day in (1, 2))
    one, _ = audited(world, "one", {"a.ndjson": [P1, BAD_ALLERGY | old], "b.ndjson": [ALLERGY | new]}, **order)
    assert words(one)["Patient/p1"] == words(one)["AllergyIntolerance/a1"] == RELEASED
    two, _ = audited(
        world, "two", {"c.ndjson": [patient("p2"), BAD_ALLERGY | new | OF_P2, ALLERGY | old | OF_P2]}, **order
    )
    assert words(two)["Patient/p2"] == PATIENT_HELD


class TestNewerStopped:
    """A quarantined line holds its patient until the same content, or one that is not older, is brought."""

    ORDER = WHOLE | {"source": {"order": {"across_keys": "last_updated"}}}

    @pytest.fixture(autouse=True)
    def _released_patient(self, world: World) -> None:
        audited(world, "zero", {"zero.ndjson": [P1]}, **self.ORDER)

    def of_day(self, day: int) -> dict[str, Any]:
        return {"meta": {"lastUpdated": f"2026-11-0{day}T00:00:00Z"}}

    def test_older_content_does_not_end_the_hold(self, world: World) -> None:
        audited(world, "one", {"a.ndjson": [BAD_ALLERGY | self.of_day(2)]}, **self.ORDER)
        two, _ = audited(world, "two", {"b.ndjson": [ALLERGY | self.of_day(1)]}, **self.ORDER)
        assert words(two)["AllergyIntolerance/a1"] == PATIENT_HELD
        three, _ = audited(world, "three", {"c.ndjson": [O1]}, **self.ORDER)
        assert words(three)["Observation/o1"] == PATIENT_HELD
        audit(two, Store())
        assert words(two)["AllergyIntolerance/a1"] == PATIENT_HELD

    @pytest.mark.parametrize("newer", [2, 3])
    def test_content_that_is_not_older_does(self, world: World, newer: int) -> None:
        audited(world, "one", {"a.ndjson": [BAD_ALLERGY | self.of_day(2)]}, **self.ORDER)
        audited(world, "two", {"b.ndjson": [ALLERGY | self.of_day(1)]}, **self.ORDER)
        three, _ = audited(world, "three", {"c.ndjson": [O1, ALLERGY | self.of_day(newer)]}, **self.ORDER)
        assert set(words(three).values()) == {RELEASED}
        four, _ = audited(world, "four", {"d.ndjson": [O2]}, **self.ORDER)
        assert words(four)["Observation/o2"] == RELEASED

    def test_and_so_does_content_that_nothing_orders(self, world: World) -> None:
        audited(world, "one", {"a.ndjson": [BAD_ALLERGY]}, **self.ORDER)
        two, _ = audited(world, "two", {"b.ndjson": [O1, ALLERGY]}, **self.ORDER)
        assert set(words(two).values()) == {RELEASED}

    def test_of_two_stopped_lines_the_newest_counts(self, world: World) -> None:
        lines = [BAD_ALLERGY | self.of_day(1), BAD_ALLERGY | self.of_day(3)]
        audited(world, "one", {"a.ndjson": lines}, **self.ORDER)
        two, _ = audited(world, "two", {"b.ndjson": [ALLERGY | self.of_day(2)]}, **self.ORDER)
        assert words(two)["AllergyIntolerance/a1"] == PATIENT_HELD

    def test_and_also_of_two_runs(self, world: World) -> None:
        audited(world, "one", {"a.ndjson": [BAD_ALLERGY | self.of_day(3)]}, **self.ORDER)
        audited(world, "two", {"b.ndjson": [BAD_ALLERGY | self.of_day(1)]}, **self.ORDER)
        three, _ = audited(world, "three", {"c.ndjson": [ALLERGY | self.of_day(2)]}, **self.ORDER)
        assert words(three)["AllergyIntolerance/a1"] == PATIENT_HELD

    def test_without_the_policy_the_contract_counts_it(self, world: World) -> None:
        order = {"source": self.ORDER["source"]}
        audited(world, "one", {"a.ndjson": [BAD_ALLERGY | self.of_day(2)]}, **order)
        two, _ = audited(world, "two", {"b.ndjson": [ALLERGY | self.of_day(1)]}, **order)
        assert words(two)["AllergyIntolerance/a1"] == RELEASED
        (text,) = two.workspace.read("contracts", CONTRACTS)["contract"]
        assert json.loads(text)["completeness"]["quarantined"] == {"AllergyIntolerance": 1}


def test_other_types_hold_no_patient(world: World) -> None:
    one, _ = audited(world, "one", {"a.ndjson": [P1, O1]}, {"Observation/o1": rejected()}, **WHOLE)
    assert words(one)["Patient/p1"] == RELEASED


def test_without_the_policy_a_refused_allergy_holds_nothing(world: World) -> None:
    one, _ = audited(world, "one", {"a.ndjson": [P1, BAD_ALLERGY]})
    two, _ = audited(world, "two", {"b.ndjson": [O2]})
    assert (words(one)["Patient/p1"], words(two)["Observation/o2"]) == (RELEASED, RELEASED)


def test_the_ledger_knows_what_is_open_of_a_patient(world: World) -> None:
    run, _ = audited(world, "one", {"a.ndjson": [P1, O1, BAD_ALLERGY]}, {"Observation/o1": rejected()})
    rows = run.ledger.open_of_patients(run.pipeline.datastore_id, run.workspace.read("gates", GATES)["subject"])
    assert rows.select("resource_id", "state").rows() == [("a1", "stopped"), ("o1", "refused")]


class TestCompleteness:
    def said(self, run: Any) -> dict[str, Any]:
        (text,) = run.workspace.read("contracts", CONTRACTS)["contract"]
        found = json.loads(text)
        return found["completeness"] | {"revision": found["revision"]}

    def test_a_contract_says_which_types_are_missing(self, world: World) -> None:
        run, _ = audited(world, "one", {"a.ndjson": [P1, O1, O2, BAD_ALLERGY]}, {"Observation/o2": rejected()})
        assert self.said(run) == {
            "revision": 1,
            "state": "partial",
            "released": {"Observation": 1, "Patient": 1},
            "known": {"AllergyIntolerance": 1, "Observation": 2, "Patient": 1},
            "waiting": {},
            "quarantined": {"AllergyIntolerance": 1, "Observation": 1},
        }

    def test_without_a_list_nobody_knows_whether_all_is_there(self, world: World) -> None:
        run, _ = audited(world, "one", {"a.ndjson": [P1]})
        assert self.said(run)["state"] == "unknown"

    def test_what_is_missing_later_is_the_next_revision(self, world: World) -> None:
        audited(world, "one", {"a.ndjson": [P1]})
        two, _ = audited(world, "two", {"b.ndjson": [BAD_ALLERGY]})
        said = self.said(two)
        assert (said["revision"], said["state"], said["quarantined"]) == (2, "partial", {"AllergyIntolerance": 1})
        audit(two, Store())
        assert self.said(two)["revision"] == 2

    def test_and_so_is_what_is_no_longer_missing(self, world: World) -> None:
        audited(world, "one", {"a.ndjson": [P1, BAD_ALLERGY]})
        two, _ = audited(world, "two", {"b.ndjson": [ALLERGY]})
        assert (self.said(two)["revision"], self.said(two)["state"]) == (2, "unknown")
