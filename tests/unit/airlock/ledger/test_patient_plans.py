"""PostgreSQL looks up what waits and whose a study is, however much waits and however many studies there are."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger import Ledger
from airlock.ledger.identities import MATCHES, OWN
from airlock.ledger.parked import TAKEN
from tests.unit.airlock.ledger.parking import END, NOW, bring, hold, park, rows
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, id_of, uids
from tests.unit.airlock.ledger.test_plans import analyze, explained

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBERS = range(3_000)
FEW = range(20)


def find_scans(plans: list[str], table: str) -> list[str]:
    """Return the plans that read a table as a whole; whether it has any row is one page."""
    whole = re.compile(rf"Seq Scan on {table}\b")
    return [plan for plan in plans if whole.search(plan) and not plan.startswith("Result")]


@pytest.fixture
def waiting(postgres_ledger: str) -> Iterator[Ledger]:
    """A ledger with resources that wait for one Patient each."""
    with Ledger.open(postgres_ledger) as ledger:
        names = [f"Observation/o{number}" for number in NUMBERS]
        hold(ledger, "a", *names)
        park(ledger, "a", *(rows(name, f"Patient/p{number}") for number, name in enumerate(names)))
        analyze(postgres_ledger)
        yield ledger


def test_a_release_looks_up_what_waits_for_it(waiting: Ledger) -> None:
    with explained() as plans:
        bring(waiting, "b", *(f"Patient/p{number}" for number in FEW))
    assert waiting.find_due(STORE, NIGHTLY, 100, NOW).height == len(FEW)
    assert any("parked" in plan for plan in plans)
    assert find_scans(plans, "parked") == []


def test_a_run_looks_up_what_is_due_takes_it_in_and_ends_its_stay(waiting: Ledger) -> None:
    bring(waiting, "b", *(f"Patient/p{number}" for number in FEW))
    hold(waiting, "c", "object")
    with explained() as plans:
        due = waiting.find_due(STORE, NIGHTLY, 100, NOW)
        units = due.select("arrival_id", "line", taken_as=pl.lit(id_of("object")))
        waiting.take_parked(STORE, NIGHTLY, "c", units.select(TAKEN.names()))
        park(waiting, "c", read=["object"])
    assert waiting.find_due(STORE, NIGHTLY, 100, NOW).is_empty()
    assert find_scans(plans, "parked") == []


def test_so_do_bodies_and_names(waiting: Ledger) -> None:
    bodies = pl.Series([f"s3://work/parked/{id_of(f'Observation/o{number}')}-1.json" for number in FEW])
    with explained() as plans:
        names = pl.DataFrame({"resource_type": "Observation", "resource_id": [f"o{number}" for number in FEW]})
        assert waiting.find_copies(STORE, NIGHTLY, names).height == len(FEW)
        waiting.find_spare_bodies(bodies)
        waiting.find_due(STORE, NIGHTLY, 10, END)
        assert not waiting.where("Observation/o7").parked.is_empty()
    assert find_scans(plans, "parked") == []


def matches(numbers: range, outcome: str = "ambiguous") -> pl.DataFrame:
    reason = None if outcome == "matched" else f"patient_{outcome}"
    answer = "Patient/ehr" if outcome == "matched" else OWN
    found = [(f"1.{n}", f"key {n}", f"Patient/own{n}", "", f"seen {n}", answer, outcome, reason, "{}") for n in numbers]
    return pl.DataFrame(found, schema=MATCHES, orient="row")


@pytest.fixture
def asked(postgres_ledger: str) -> Iterator[Ledger]:
    """A ledger with many matches, and many open questions."""
    with Ledger.open(postgres_ledger) as ledger:
        ledger.record_matches(NIGHTLY, STORE, "a", matches(NUMBERS))
        ledger.record_matches(NIGHTLY, STORE, "a", matches(range(NUMBERS.stop, 2 * NUMBERS.stop), "matched"))
        analyze(postgres_ledger)
        yield ledger


def test_a_run_looks_up_the_questions_about_its_own_studies(asked: Ledger) -> None:
    began = datetime.now(UTC)
    with explained() as plans:
        asked.record_matches(NIGHTLY, STORE, "b", matches(FEW, "contradicted"))
        assert asked.newly_contradicted(STORE, NIGHTLY, began).len() == len(FEW)
        assert len(asked.contradicted_elsewhere(STORE, "other", matches(FEW)["subject"])) == len(FEW)
    assert any("reviews" in plan for plan in plans)
    assert find_scans(plans, "reviews") == []
    assert find_scans(plans, "decisions") == []


def test_peoples_answers_are_found_among_all_matches(asked: Ledger) -> None:
    with explained() as plans:
        assert asked.identity_answers_since(STORE, None).is_empty()
        assert asked.identity_answers(STORE, uids("Patient/own1")).is_empty()
    assert find_scans(plans, "decisions") == []
