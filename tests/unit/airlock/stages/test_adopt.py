"""No run imports into a filled data store that its ledger does not know; an adoption makes it known."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ledger import FOREIGN, Adoption, Ledger, StoreOrigin
from airlock.stages.adopt import Estimate, Page, UnknownStoreError, adopt, require_known
from tests.servers.ledger import new_ledger

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

STORE = "d" * 32
ADOPTION = Adoption("ada", "the old PACS filled it", datetime(2026, 11, 29, tzinfo=UTC))


@pytest.fixture
def ledger(tmp_path: Path) -> Iterator[Ledger]:
    with Ledger.open(new_ledger(tmp_path / "ledger.db")) as opened:
        yield opened


@dataclass
class Search:
    """A data store with so many image sets, two in a page; it breaks off after some pages."""

    number: int
    breaks_after: int = 99
    asked_from: list[Any] = field(default_factory=list)
    requests_per_second: float = 10

    def find_any(self) -> str | None:
        return "image sets" if self.number else None

    def estimate(self) -> Estimate:
        return Estimate(self.number, self.number, is_exact=True, asked="image sets")

    def pages(self, position: dict[str, Any] | None) -> Iterator[Page]:
        self.asked_from.append(position)
        first = position["at"] if position else 0
        for served, start in enumerate(range(first, self.number, 2)):
            if served == self.breaks_after:
                raise ConnectionError
            names = [f"i{number}" for number in range(start, min(start + 2, self.number))]
            rows = pl.DataFrame({"object_id": names}).with_columns(
                pl.lit(None, kind).alias(name) for name, kind in FOREIGN.items() if name != "object_id"
            )
            yield Page(rows, {"at": start + len(names)}, f"up to {names[-1]}")


class Unreachable(Search):
    """A data store that cannot be searched."""

    def find_any(self) -> str | None:
        raise ConnectionError


def run_adoption(ledger: Ledger, search: Search) -> list[str]:
    told: list[str] = []
    adopt(ledger, STORE, search, lambda: ADOPTION, told.append)
    return told


def test_a_new_data_store_needs_no_step(ledger: Ledger) -> None:
    require_known(ledger, STORE, Search(0))


def test_a_filled_one_that_nobody_knows_is_refused_with_both_ways(ledger: Ledger) -> None:
    both = rf"finds image sets in it, so nothing is imported.*ledger rebuild.*adopt --datastore {STORE} --why TEXT"
    with pytest.raises(UnknownStoreError, match=both):
        require_known(ledger, STORE, Search(3))


def test_a_known_one_is_not_searched(ledger: Ledger) -> None:
    ledger.note_store(STORE, StoreOrigin.IMPORTED)
    require_known(ledger, STORE, Unreachable(3))


def test_one_that_nobody_knows_is_refused_whatever_it_holds_if_nothing_is_asked(ledger: Ledger) -> None:
    with pytest.raises(UnknownStoreError, match=rf"import into the data store {STORE}, so nothing is compared. If the"):
        require_known(ledger, STORE, None, "nothing is compared")


def test_an_adopted_one_is_open_and_what_is_there_is_foreign(ledger: Ledger) -> None:
    assert run_adoption(ledger, Search(5))[-1] == "5 recorded, up to i4."
    require_known(ledger, STORE, Search(5))
    assert ledger.count_foreign(STORE) == 5


def test_one_whose_adoption_was_interrupted_stays_closed_and_says_so(ledger: Ledger) -> None:
    with pytest.raises(ConnectionError):
        run_adoption(ledger, Search(5, breaks_after=1))
    with pytest.raises(UnknownStoreError, match="is closed, so nothing is imported: its adoption was interrupted"):
        require_known(ledger, STORE, Search(0))


def test_an_interrupted_adoption_goes_on_where_it_was(ledger: Ledger) -> None:
    with pytest.raises(ConnectionError):
        run_adoption(ledger, Search(7, breaks_after=2))
    again = Search(7)
    assert run_adoption(ledger, again)[0] == "Going on after the 4 that an earlier attempt has recorded."
    assert again.asked_from == [{"at": 4}]
    assert ledger.count_foreign(STORE) == 7


def test_the_estimate_is_a_sentence() -> None:
    assert Estimate(120_000, 2_401, is_exact=False, asked="image sets").describe(25) == (
        "A search for image sets finds about 120,000. To record them takes about 2,401 requests, 2 minutes at 25 a "
        "second."
    )
