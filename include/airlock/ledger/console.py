"""The class `Console`: the ledger as pages for people read it, within bounds of time and connections."""

from __future__ import annotations

from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, Self

from airlock.ledger.answers import Answers
from airlock.ledger.database import engine_for, limited, parse_url
from airlock.ledger.decision_counts import DecisionCounts
from airlock.ledger.ledger import Ledger
from airlock.ledger.nights import Nights
from airlock.ledger.queues import Queues
from airlock.ledger.schema import check
from airlock.ledger.triage import Triage

if TYPE_CHECKING:
    from collections.abc import Iterator

CONNECTIONS = 2  # to PostgreSQL, in each process that serves pages
SECONDS = 2.0  # a statement of a page
SCHEMA_SECONDS = 60.0  # between two checks of the schema


class Console(Ledger, Nights, Triage, Queues, Answers, DecisionCounts):
    """The ledger as pages read it. Methods that read are called in `page`, those that write outside of it.

    Examples
    --------
    >>> console = Console.connect("sqlite:////var/airlock/ledger.db")  # doctest: +SKIP
    >>> with console.page() as ledger:  # doctest: +SKIP
    ...     ledger.held_now({"nightly"})
    """

    _checked = float("-inf")  # when the schema was found to be right, by the monotonic clock

    @classmethod
    def connect(cls, url: str) -> Self:
        """Return the console's ledger at an address, see `database.parse_url`; the first page connects to it.

        Raises
        ------
        LedgerError
            If the address is wrong.
        """
        return cls(engine_for(parse_url(url), CONNECTIONS))

    @contextmanager
    def page(self, *, stages_values: bool = False) -> Iterator[Self]:
        """Open a read-only transaction of a page, except for temporary tables, and yield the ledger that works in it.

        Parameters
        ----------
        stages_values
            Whether a method looks many values up, for which it needs temporary tables: the database then does not
            refuse changes.

        Raises
        ------
        LedgerError
            If the database does not answer, takes too long, or holds a ledger of another schema.
        """
        self._check_schema()
        with limited(self._engine, SECONDS, read_only=not stages_values) as connection:
            yield type(self)(self._engine, connection, None)

    def _check_schema(self) -> None:
        if monotonic() - self._checked > SCHEMA_SECONDS:
            check(self._engine)
            self._checked = monotonic()
