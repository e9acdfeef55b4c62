from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock.ledger.studies import SERIES, STUDIES
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    NO_SERIES,
    NO_STUDIES,
    STORE,
    arrivals,
    begin,
    claims,
    imports,
    series,
    study,
    uids,
)

if TYPE_CHECKING:
    from airlock.ledger import Ledger


@pytest.fixture
def imported(ledger: Ledger) -> Ledger:
    """Run a has imported one instance of 1.study; run b holds another."""
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1"))
    ledger.claim(NIGHTLY, "b", arrivals("2"))
    ledger.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1")))
    ledger.claim_instances(STORE, NIGHTLY, "b", claims(("2", "1.2")))
    ledger.record_imported(STORE, "a", imports(("1", "1.1")), study(), series("1.1.series"))
    return ledger


def test_the_grouping_elements_come_back_as_they_were_null_and_empty_apart(imported: Ledger) -> None:
    known = imported.known_studies(STORE, uids("1.study", "1.unknown"))
    assert known.equals(study())
    assert known.schema == STUDIES
    known = imported.known_series(STORE, uids("1.1.series"))
    assert known.equals(series("1.1.series"))
    assert known.schema == SERIES


def test_the_first_elements_stand(imported: Ledger) -> None:
    imported.record_imported(STORE, "b", imports(("2", "1.2")), study(patient="P2"), series("1.1.series", number="9"))
    assert imported.known_studies(STORE, uids("1.study"))["PatientID"].to_list() == ["P1"]
    assert imported.known_series(STORE, uids("1.1.series"))["SeriesNumber"].to_list() == ["1"]


def test_another_store_knows_nothing_of_them(imported: Ledger) -> None:
    assert imported.known_studies("f" * 32, uids("1.study")).is_empty()


def test_a_run_does_not_find_what_only_it_brought(imported: Ledger) -> None:
    assert imported.known_studies(STORE, uids("1.study"), except_run="a").is_empty()
    assert imported.known_series(STORE, uids("1.1.series"), except_run="a").is_empty()
    assert imported.known_studies(STORE, uids("1.study"), except_run="b").height == 1
    assert imported.known_series(STORE, uids("1.1.series"), except_run="b").height == 1


def test_a_claim_alone_gives_another_run_no_part_in_a_study_but_an_import_does(imported: Ledger) -> None:
    assert imported.known_studies(STORE, uids("1.study"), except_run="a").is_empty()
    imported.record_imported(STORE, "b", imports(("2", "1.2")), NO_STUDIES, NO_SERIES)
    assert imported.known_studies(STORE, uids("1.study"), except_run="a").height == 1
    assert imported.known_series(STORE, uids("1.1.series"), except_run="a").is_empty(), "b brought another series"
