"""What other runs have of a study is counted, each instance once, whatever its state; a run does not count its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

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
    verdicts,
)

if TYPE_CHECKING:
    from airlock.ledger import Ledger

STUDY = "1.study"


@pytest.fixture
def opened(ledger: Ledger) -> Ledger:
    """Run a holds arrivals 1, 2 and 3 of the study, which it has not imported; run b asks."""
    begin(ledger, "a", "b")
    ledger.claim(NIGHTLY, "a", arrivals("1", "2", "3"))
    ledger.claim_instances(STORE, NIGHTLY, "a", claims(("1", "1.1"), ("2", "1.2")))
    stopped = verdicts(("3", STUDY), verdict="quarantine")
    ledger.record_verdicts(STORE, NIGHTLY, "a", [verdicts(("1", STUDY), ("2", STUDY)), stopped])
    return ledger


def stored(ledger: Ledger, run: str | None = "b", store: str = STORE) -> dict[str, int]:
    return dict(ledger.count_stored(store, uids(STUDY, "2.study"), run).iter_rows())


def unsettled(ledger: Ledger, run: str | None = "b", store: str = STORE) -> dict[str, int]:
    return dict(ledger.count_unsettled(store, uids(STUDY, "2.study"), run).iter_rows())


def bring_in(ledger: Ledger, *pairs: tuple[str, str], state: str = "imported") -> None:
    ledger.record_imported(STORE, "a", imports(*pairs, state=state), NO_STUDIES, NO_SERIES)


def test_what_a_run_has_not_settled_counts_until_it_is_in_the_store(opened: Ledger) -> None:
    assert (stored(opened), unsettled(opened)) == ({}, {STUDY: 3})
    bring_in(opened, ("1", "1.1"))
    assert (stored(opened), unsettled(opened)) == ({STUDY: 1}, {STUDY: 2})
    bring_in(opened, ("2", "1.2"), state="non_primary")
    assert (stored(opened), unsettled(opened)) == ({STUDY: 2}, {STUDY: 1})


def test_what_is_settled_is_not_on_its_way(opened: Ledger) -> None:
    opened.settle(NIGHTLY, "a", dispositions("1", "2", "3", word="quarantined"))
    assert unsettled(opened) == {}


def test_a_run_does_not_count_its_own_and_stores_are_apart(opened: Ledger) -> None:
    bring_in(opened, ("1", "1.1"))
    assert (stored(opened, "a"), unsettled(opened, "a")) == ({}, {})
    assert (stored(opened, None), unsettled(opened, None)) == ({STUDY: 1}, {STUDY: 2})
    assert (stored(opened, store="f" * 32), unsettled(opened, store="f" * 32)) == ({}, {})
