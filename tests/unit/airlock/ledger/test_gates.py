from __future__ import annotations

import polars as pl
import pytest
from sqlalchemy import select

from airlock.ledger import Ledger, LedgerError
from airlock.ledger.decision_tables import decisions
from airlock.ledger.gates import DECISIONS, GATES
from airlock.records import study_key
from tests.unit.airlock.ledger.samples import STORE, begin, uids


def gates(**decided: tuple[str, str | None]) -> pl.DataFrame:
    rows = [(subject, study_key(subject), gate, reason) for subject, (gate, reason) in decided.items()]
    return pl.DataFrame(rows, schema=GATES, orient="row")


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    begin(ledger, "a", "b")
    return ledger


def released(ledger: Ledger, run: str) -> dict[str, bool]:
    return dict(ledger.gates_of(STORE, run).select("subject", "released").rows())


def overrides(ledger: Ledger) -> list[tuple[str, str | None, str, str]]:
    columns = (decisions.c[name] for name in ("subject", "reason", "decided_by"))
    with ledger._reading() as connection:
        rows = connection.execute(select(*columns, decisions.c.why))
        return sorted(tuple(row) for row in rows)


def test_decisions_come_back_with_their_reasons(opened: Ledger) -> None:
    opened.record_gates(STORE, "a", gates(s1=("release", None), s2=("hold", "study_incomplete")))
    found = opened.gates_of(STORE, "a")
    assert found.schema == DECISIONS
    assert set(found.select("subject", "gate", "reason", "released").rows()) == {
        ("s1", "release", None, True),
        ("s2", "hold", "study_incomplete", False),
    }


def test_an_audit_run_again_keeps_the_time_of_what_it_decides_alike(opened: Ledger) -> None:
    opened.record_gates(STORE, "a", gates(s1=("release", None), s2=("hold", "rejected")))
    first = opened.gates_of(STORE, "a")
    opened.record_gates(STORE, "a", gates(s1=("release", None), s2=("hold", "rejected")))
    assert opened.gates_of(STORE, "a").equals(first)
    opened.record_gates(STORE, "a", gates(s2=("release", None)))
    assert released(opened, "a") == {"s1": True, "s2": True}
    changed = opened.gates_of(STORE, "a").join(first, on=["subject", "decided_at"], how="anti")
    assert changed["subject"].to_list() == ["s2"]


def test_a_person_releases_a_hold_and_an_audit_run_again_does_not_undo_it(opened: Ledger) -> None:
    opened.record_gates(STORE, "a", gates(s1=("hold", "rejected"), s2=("hold", None)))
    opened.override_holds(STORE, "a", uids("s1"), "ada", "seen, the rest is fine")
    opened.override_holds(STORE, "a", uids("s2"), "ada", "seen")
    opened.record_gates(STORE, "a", gates(s1=("hold", "rejected"), s2=("hold", None)))
    assert released(opened, "a") == {"s1": True, "s2": True}
    assert opened.gates_of(STORE, "a")["gate"].to_list() == ["hold", "hold"], "what the audit said stays readable"


def test_a_hold_for_another_reason_is_not_what_the_person_released(opened: Ledger) -> None:
    opened.record_gates(STORE, "a", gates(s1=("hold", "rejected")))
    opened.override_holds(STORE, "a", uids("s1"), "ada", "seen")
    opened.record_gates(STORE, "a", gates(s1=("hold", "patient_id_conflict")))
    assert released(opened, "a") == {"s1": False}


def test_a_hold_that_went_and_came_again_is_not_what_the_person_released(opened: Ledger) -> None:
    held, free = gates(s1=("hold", "awaiting_review")), gates(s1=("release", None))
    opened.record_gates(STORE, "a", held)
    opened.override_holds(STORE, "a", uids("s1"), "ada", "seen")
    assert released(opened, "a") == {"s1": True}
    for decided in (free, held):
        opened.record_gates(STORE, "a", decided)
    assert released(opened, "a") == {"s1": False}
    opened.override_holds(STORE, "a", uids("s1"), "ada", "seen")
    assert released(opened, "a") == {"s1": True}
    assert len(overrides(opened)) == 2


def test_many_holds_are_released_at_once_and_the_same_word_counts_once(opened: Ledger) -> None:
    opened.record_gates(STORE, "a", gates(s1=("hold", "rejected"), s2=("hold", None), s3=("hold", "rejected")))
    for _ in range(2):
        opened.override_holds(STORE, "a", uids("s1", "s2"), "ada", "seen")
    assert released(opened, "a") == {"s1": True, "s2": True, "s3": False}
    seen = [("s1", "rejected", "ada", "seen"), ("s2", None, "ada", "seen")]
    assert overrides(opened) == seen
    opened.override_holds(STORE, "a", uids("s1"), "bob", "seen too")
    opened.override_holds(STORE, "a", uids(), "ada", "nothing to see")
    assert overrides(opened) == [seen[0], ("s1", "rejected", "bob", "seen too"), seen[1]]


def test_of_many_holds_none_is_released_unless_all_of_them_are_holds(opened: Ledger) -> None:
    opened.record_gates(STORE, "a", gates(s1=("hold", "rejected"), s2=("release", None)))
    with pytest.raises(LedgerError, match="run 'a' does not hold 2 of these subjects"):
        opened.override_holds(STORE, "a", uids("s1", "s2", "s3"), "ada", "seen")
    assert overrides(opened) == []


def test_only_a_hold_can_be_overridden_and_only_with_a_name_and_a_reason(opened: Ledger) -> None:
    opened.record_gates(STORE, "a", gates(s1=("release", None), s2=("hold", "rejected")))
    with pytest.raises(LedgerError, match="run 'a' does not hold 1 of these subjects"):
        opened.override_holds(STORE, "a", uids("s1"), "ada", "why not")
    with pytest.raises(LedgerError, match="run 'b' does not hold 1 of these subjects"):
        opened.override_holds(STORE, "b", uids("s2"), "ada", "why not")
    with pytest.raises(LedgerError, match="needs a person and a reason"):
        opened.override_holds(STORE, "a", uids("s2"), "ada", " ")


def test_earlier_releases_of_a_subject_are_found(opened: Ledger) -> None:
    opened.record_gates(STORE, "a", gates(s1=("release", None), s2=("hold", "rejected"), s3=("hold", "rejected")))
    opened.override_holds(STORE, "a", uids("s3"), "ada", "seen")
    opened.record_gates(STORE, "b", gates(s1=("release", None)))
    found = opened.released_before(STORE, uids("s1", "s2", "s3", "s4"))
    assert set(found.select("subject", "run_key").rows()) == {("s1", "a"), ("s1", "b"), ("s3", "a")}
    assert opened.released_before(STORE, uids("s1"), except_run="b")["run_key"].to_list() == ["a"]
    assert opened.released_before("f" * 32, uids("s1")).is_empty()


def test_a_subject_gets_one_known_gate(opened: Ledger) -> None:
    with pytest.raises(LedgerError, match="1 subjects have no known gate: use one of release, hold"):
        opened.record_gates(STORE, "a", gates(s1=("open", None)))
    with pytest.raises(LedgerError, match="1 subjects have more than one gate"):
        opened.record_gates(STORE, "a", pl.concat([gates(s1=("hold", None)), gates(s1=("release", None))]))
