"""What HealthLake has lost no longer counts as stored, and is in doubt until it is brought again."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
import pytest

from airlock.ledger.columns import ComparisonKind, FindingKind
from airlock.ledger.comparisons import FOUND, Comparison
from airlock.ledger.resources import CLAIMS, IMPORTS
from tests.unit.airlock.ledger.parking import NOW, wait
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, arrivals, begin, dispositions, held_after, id_of

if TYPE_CHECKING:
    from airlock.ledger import Ledger

NAMES = ("Observation/o1", "Patient/p1")


@pytest.fixture
def stored(ledger: Ledger) -> Ledger:
    """A ledger with two resources that a run has imported."""
    begin(ledger, "one")
    held_after(ledger, "one", arrivals("a"))
    rows = [(id_of("a"), *name.split("/"), f"digest of {name}", "clock", "Patient/p1") for name in NAMES]
    ledger.claim_resources(STORE, NIGHTLY, "one", pl.DataFrame(rows, CLAIMS, orient="row"))
    imported = [(*row[:4], "batch") for row in rows]
    ledger.record_imported_resources(STORE, "one", pl.DataFrame(imported, IMPORTS, orient="row"))
    ledger.settle(NIGHTLY, "one", dispositions("a"))
    return ledger


def miss(ledger: Ledger, *names: str) -> Comparison:
    begun = ledger.begin_comparison(
        ComparisonKind.RECONCILE, {}, pipeline=NIGHTLY, datastore_id=STORE, is_dry=False, asked_by="an operator"
    )
    kind = FindingKind.MISSING_IN_STORE.value
    rows = [(kind, name, "key", id_of("a"), None, "stored", None) for name in names]
    return ledger.advance_comparison(begun, {}, {}, pl.DataFrame(rows, FOUND, orient="row"))


def names_of(frame: pl.DataFrame) -> list[str]:
    return frame.select(pl.concat_str("resource_type", pl.lit("/"), "resource_id")).to_series().to_list()


def test_resources_come_page_by_page(stored: Ledger) -> None:
    assert names_of(stored.stored_resources(STORE, ("", ""), 1)) == ["Observation/o1"]
    assert names_of(stored.stored_resources(STORE, ("o1", "Observation"), 5)) == ["Patient/p1"]
    assert stored.stored_resources(STORE, ("p1", "Patient"), 5).is_empty()
    assert stored.count_resources(STORE) == 2


def test_a_sample_begins_at_a_digest(stored: Ledger) -> None:
    assert names_of(stored.sampled_resources(STORE, "", 1)) == ["Observation/o1"]
    assert names_of(stored.sampled_resources(STORE, "digest of P", 5)) == ["Patient/p1"]
    assert sorted(names_of(stored.resources_of_patient(STORE, "Patient/p1"))) == sorted(NAMES)


def test_a_missed_resource_is_in_doubt_and_keeps_its_clock(stored: Ledger) -> None:
    missed = miss(stored, "Observation/o1")
    assert stored.count_missing_resources(missed.number) == 1
    assert stored.forget_missing_resources(missed.number) == 1
    assert names_of(stored.stored_resources(STORE, ("", ""), 5)) == ["Patient/p1"]
    doubtful = stored.open_of_patients(STORE, pl.Series(["Patient/p1"]))
    assert doubtful.select("resource_id", "state").rows() == [("o1", "doubtful")]
    asked = pl.DataFrame({"resource_type": ["Observation"], "resource_id": ["o1"]})
    assert stored.contents_of(STORE, asked)["known_clock"].to_list() == ["clock"]


def test_a_resource_that_a_run_is_importing_is_not_forgotten(stored: Ledger) -> None:
    begin(stored, "two")
    held_after(stored, "two", arrivals("b"))
    claim = [(id_of("b"), "Observation", "o1", "another digest", "later", "Patient/p1")]
    stored.claim_resources(STORE, NIGHTLY, "two", pl.DataFrame(claim, CLAIMS, orient="row"))
    assert stored.forget_missing_resources(miss(stored, "Observation/o1").number) == 0


def test_a_resource_that_is_there_after_all_counts_as_stored_again(stored: Ledger) -> None:
    stored.forget_missing_resources(miss(stored, "Observation/o1").number)
    assert stored.restore_resources(STORE, pl.Series(["Observation/o1", "Patient/unknown"])) == 1
    assert sorted(names_of(stored.find_stored(STORE, pl.Series(NAMES)))) == sorted(NAMES)
    assert stored.open_of_patients(STORE, pl.Series(["Patient/p1"])).is_empty()


def test_what_waits_for_it_is_due_then(stored: Ledger) -> None:
    stored.forget_missing_resources(miss(stored, "Observation/o1").number)
    wait(stored, "two", DiagnosticReport_d1=("Observation/o1",), DiagnosticReport_d2=("Patient/unknown",))
    assert stored.find_due(STORE, NIGHTLY, 10, NOW).is_empty()
    stored.restore_resources(STORE, pl.Series(["Observation/o1", "Patient/unknown"]))
    assert names_of(stored.find_due(STORE, NIGHTLY, 10, NOW)) == ["DiagnosticReport/d1"]


def test_contents_in_doubt_are_found_by_name(stored: Ledger) -> None:
    stored.forget_missing_resources(miss(stored, "Observation/o1").number)
    found = stored.find_doubtful(STORE, pl.Series([*NAMES, "Patient/unknown"]))
    assert found == {"Observation/o1": "digest of Observation/o1"}


def test_what_the_ledger_knows_in_any_way_is_known(stored: Ledger) -> None:
    stored.forget_missing_resources(miss(stored, "Observation/o1").number)
    assert stored.known_objects(STORE, pl.Series([*NAMES, "Patient/stranger"])) == set(NAMES)


def test_the_objects_of_released_arrivals_are_found(stored: Ledger) -> None:
    assert stored.find_objects(pl.Series([id_of("a"), id_of("b")]))["key"].to_list() == ["in/a"]
