"""Adopt: record what others have stored in a data store, so that runs may import into it.

A run does not import into a data store that its ledger does not know, if a search finds anything there: either the
ledger was lost, or others have filled the store. What an adoption finds is recorded as foreign. The service's own
search is behind `StoreProbe` and `StoreSearch`: `airlock.imaging.adopt` for HealthImaging, `airlock.clinical.adopt` for
HealthLake.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from airlock.ledger.data_stores import FOUND, POSITION, SCOPE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import polars as pl

    from airlock.ledger import Adoption, Ledger

PAGE_ROWS = 1_000  # recorded in one transaction


class UnknownStoreError(RuntimeError):
    """The ledger does not know a data store in which a search finds something; the text has the two ways on."""


@dataclass(frozen=True)
class Page:
    """Some of what a data store holds."""

    rows: pl.DataFrame  # `airlock.ledger.FOREIGN`
    position: dict[str, Any]  # from which an interrupted adoption goes on
    progress: str  # how far the search has come, in words


@dataclass(frozen=True)
class Estimate:
    """The size of an adoption, before it begins."""

    objects: int
    requests: int
    is_exact: bool
    asked: str  # what the search is asked for, in words

    def describe(self, requests_per_second: float) -> str:
        """Return the estimate in words."""
        about = "" if self.is_exact else "about "
        minutes = self.requests / requests_per_second / 60
        return (
            f"A search for {self.asked} finds {about}{self.objects:,}. To record them takes {about}{self.requests:,} "
            f"requests, {minutes:,.0f} minutes at {requests_per_second:g} a second."
        )


class StoreProbe(Protocol):
    """Whether a data store holds anything."""

    def find_any(self) -> str | None:
        """Return a name for what a search finds, for example "image sets"; None if it finds nothing."""


class StoreSearch(StoreProbe, Protocol):
    """The search for all that a data store holds."""

    @property
    def requests_per_second(self) -> float:
        """The rate that the service allows."""

    def estimate(self) -> Estimate:
        """Return how much there is."""

    def pages(self, position: dict[str, Any] | None) -> Iterator[Page]:
        """Yield all that the search finds, from a position on."""


def require_known(
    ledger: Ledger, datastore_id: str, probe: StoreProbe | None, effect: str = "nothing is imported"
) -> None:
    """Refuse a data store that the ledger does not know and that holds something.

    Parameters
    ----------
    ledger, datastore_id
        The ledger and the data store.
    probe
        Whether the data store holds anything; None if that makes no difference.
    effect
        What the refusal prevents, in words.

    Raises
    ------
    UnknownStoreError
        With the commands of the two ways on.
    """
    known = ledger.find_store(datastore_id)
    if known is not None and known.is_open:
        return
    command = f"airlock ledger adopt --datastore {datastore_id} --why TEXT"
    if known is not None:
        raise UnknownStoreError(
            f"The data store {datastore_id} is closed, so {effect}: its adoption was interrupted, or a rebuild of the "
            f"ledger lacks runs that imported into it. Adopt it: {command}."
        )
    found = None if probe is None else probe.find_any()
    if (probe is None or found is not None) and not ledger.note_settled_store(datastore_id):
        content = "" if found is None else f", but a search finds {found} in it"
        raise UnknownStoreError(
            f"The ledger knows no import into the data store {datastore_id}{content}, so {effect}. If the ledger was "
            f"lost, rebuild it: airlock ledger rebuild. If others have filled the data store, adopt it: {command}."
        )


def adopt(
    ledger: Ledger, datastore_id: str, search: StoreSearch, decide: Callable[[], Adoption], say: Callable[[str], None]
) -> int:
    """Record what a data store holds as foreign, open it to runs, and return how much was found.

    An adoption that was interrupted goes on where it was.

    Parameters
    ----------
    ledger, datastore_id, search
        The ledger, and the data store with its search.
    decide
        Returns the person's decision, when all is recorded and just before the store is opened.
    say
        Gets a sentence about the progress.

    Raises
    ------
    LedgerError
        If runs may import into the data store already.
    """
    counts = ledger.begin_adoption(datastore_id).counts
    found: int = counts.get(FOUND, 0)
    if found:
        say(f"Going on after the {found:,} that an earlier attempt has recorded.")
    for page in search.pages(counts.get(POSITION)):
        found = ledger.record_foreign(datastore_id, page.rows, page.position)
        say(f"{found:,} recorded, {page.progress}.")
    with ledger.at_once(SCOPE, keep_first=True) as inner:  # a person's decision
        inner.end_adoption(datastore_id, decide())
    return ledger.count_foreign(datastore_id)
