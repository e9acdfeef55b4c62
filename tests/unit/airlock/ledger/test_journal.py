"""What the journal of a ledger keeps of its changes."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import pytest
from sqlalchemy import event

from airlock.ledger import LedgerError
from airlock.ledger.replay import read_entry
from tests.rebuilt_ledger import differences, read_tables
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, begin
from tests.unit.airlock.ledger.test_rebuilt import Shelf, kept, rebuilt, shelf
from tests.unit.airlock.ledger.test_releases import messages

if TYPE_CHECKING:
    from pathlib import Path

    from airlock.ledger import Ledger

__all__ = ["kept", "shelf"]


def test_the_second_try_of_a_change_whose_entry_was_lost_is_kept(
    ledger: Ledger, kept: Ledger, url: str, shelf: Shelf, tmp_path: Path
) -> None:
    begin(kept, "r1")
    given = NIGHTLY, "r1", STORE, messages(("k1", 1))
    ledger.record_releases(*given)  # the worker is killed before the entry is written
    assert kept.record_releases(*given) == 0
    assert [call.method for call in read_entry(io.BytesIO(shelf.entries[-1][1]))] == ["record_releases"]
    before, after = read_tables(url), read_tables(rebuilt(shelf, tmp_path))
    assert {row[:4] for row in before["releases"]} == {row[:4] for row in after["releases"]} != set()
    assert differences(before, after).keys() <= {"releases"}, "the time is that of the second try"


def test_an_entry_that_is_kept_first_is_withdrawn_if_the_commit_fails(ledger: Ledger, shelf: Shelf) -> None:
    def fail(_: object) -> None:
        raise ConnectionError("the server is gone")

    event.listen(ledger._engine, "commit", fail)
    kept = ledger.journaled_in(shelf)
    with pytest.raises(ConnectionError), kept.at_once("runs", keep_first=True) as inner:
        inner.open_run("r1", NIGHTLY, "r1", None)
    event.remove(ledger._engine, "commit", fail)
    assert len(shelf.entries) == 1
    assert shelf.withdrawn == 1


def test_an_entry_that_nobody_has_kept_is_not_withdrawn(ledger: Ledger, shelf: Shelf) -> None:
    kept = ledger.journaled_in(shelf)
    with pytest.raises(LedgerError), kept.at_once("runs", keep_first=True) as inner:
        inner.close_run("unknown", "audited", {})
    assert (shelf.entries, shelf.withdrawn) == ([], 0)
