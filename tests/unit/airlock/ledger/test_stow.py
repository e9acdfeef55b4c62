from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger.stow import STOW_INSTANCES

if TYPE_CHECKING:
    from airlock.ledger import Ledger

PACS, OTHER = "stow:https://pacs.example.org", "stow:https://other.example.org"
NOW = datetime(2026, 11, 26, tzinfo=UTC)


def decided(*rows: tuple[str, str, str, str | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=STOW_INSTANCES, orient="row")


def known(ledger: Ledger, destination: str = PACS) -> list[tuple[str, ...]]:
    return ledger.stow_instances(destination, pl.Series(["1.1", "1.2", "1.3"])).rows()


def test_what_a_destination_said_of_an_instance_is_kept_for_that_destination(ledger: Ledger) -> None:
    rows = [("1.1", "e1", "stored", None), ("1.2", "e2", "refused", "A900")]
    ledger.decide_stow_instances(PACS, decided(*rows, ("9.9", "e9", "stored", "B000")), NOW)
    assert known(ledger) == rows
    assert known(ledger, OTHER) == []


def test_the_last_word_counts(ledger: Ledger) -> None:
    ledger.decide_stow_instances(PACS, decided(("1.1", "e1", "refused", "A700"), ("1.2", "e2", "stored", None)), NOW)
    ledger.decide_stow_instances(OTHER, decided(("1.1", "e1", "refused", "A700")), NOW)
    ledger.decide_stow_instances(PACS, decided(("1.1", "e1b", "stored", None)), NOW)
    assert known(ledger) == [("1.1", "e1b", "stored", None), ("1.2", "e2", "stored", None)]
    assert known(ledger, OTHER) == [("1.1", "e1", "refused", "A700")]


def test_nothing_is_asked_of_nothing(ledger: Ledger) -> None:
    assert ledger.stow_instances(PACS, pl.Series([], dtype=pl.String)).is_empty()
    ledger.decide_stow_instances(PACS, decided(), NOW)
    assert known(ledger) == []
