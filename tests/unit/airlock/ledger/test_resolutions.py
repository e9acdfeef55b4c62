from __future__ import annotations

import pytest

from airlock.ledger import Ledger, LedgerError, Resolution, ResolutionState
from tests.ledger_rows import count_instances
from tests.unit.airlock.ledger.redriven import held_in_store, redrive, settled, to_come
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    NO_SERIES,
    NO_STUDIES,
    STORE,
    imports,
)


def test_a_deleted_image_set_takes_its_instances_along(ledger: Ledger) -> None:
    held_in_store(ledger, "non_primary", "non_primary")
    redrive(ledger, "r", to_come("1", carried=True))
    record = ledger.begin_resolution(STORE, "r", "image-set", Resolution.DELETE)
    record = ledger.advance_resolution(record, ResolutionState.DELETING)
    assert ledger.begin_resolution(STORE, "r", "image-set", Resolution.DELETE).state is ResolutionState.DELETING
    with pytest.raises(LedgerError, match="resolves non-primary"):
        ledger.release_claims(NIGHTLY, "r")
    ledger.advance_resolution(record, ResolutionState.DONE)
    assert count_instances(ledger, STORE) == {}
    ledger.record_imported(STORE, "a", imports(("1", "1.1"), state="non_primary"), NO_STUDIES, NO_SERIES)
    assert count_instances(ledger, STORE) == {}
    assert [one.state for one in ledger.resolutions_of("r")] == [ResolutionState.DONE]


def test_a_copy_that_did_not_come_about_is_forgotten_and_can_be_given_back(ledger: Ledger) -> None:
    held_in_store(ledger, "non_primary", "non_primary")
    redrive(ledger, "r", to_come("1", carried=True))
    record = ledger.begin_resolution(STORE, "r", "image-set", Resolution.PROMOTE)
    record = ledger.advance_resolution(record, ResolutionState.COPYING, versions_before={"primary": 3})
    assert ledger.resolutions_of("r") == [record]
    assert record.versions_before == {"primary": 3}
    record = ledger.advance_resolution(record, ResolutionState.DELETING, promoted_id="primary", promoted_version=4)
    assert (record.promoted_id, record.versions_before) == ("primary", {"primary": 3})
    record = ledger.advance_resolution(record, ResolutionState.BEGUN)
    assert (record.promoted_id, record.promoted_version, record.versions_before) == (None, None, {})
    assert ledger.release_claims(NIGHTLY, "r") == 1


def test_an_image_set_is_resolved_by_one_run(ledger: Ledger) -> None:
    held_in_store(ledger, "non_primary", "non_primary")
    settled(ledger, "2")
    redrive(ledger, "r", to_come("1", carried=True))
    redrive(ledger, "s", to_come("2"))
    ledger.begin_resolution(STORE, "r", "image-set", Resolution.PROMOTE)
    with pytest.raises(LedgerError, match="resolved by run 'r'"):
        ledger.begin_resolution(STORE, "s", "image-set", Resolution.DELETE)
