"""The class `Ledger`: all parts of the ledger on one database."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from airlock.ledger.arrivals import Arrivals
from airlock.ledger.attempts import Attempts
from airlock.ledger.brakes import Brakes
from airlock.ledger.censuses import Censuses
from airlock.ledger.comparisons import Comparisons
from airlock.ledger.contracts import Contracts
from airlock.ledger.data_stores import DataStores
from airlock.ledger.database import engine_for, parse_url, reading
from airlock.ledger.folders import Folders
from airlock.ledger.gates import Gates
from airlock.ledger.identities import Identities
from airlock.ledger.impact import Impacts
from airlock.ledger.instances import Instances
from airlock.ledger.jobs import Jobs
from airlock.ledger.lookup import Lookup
from airlock.ledger.newer_contents import NewerContents
from airlock.ledger.notes import Notes
from airlock.ledger.open_resources import OpenResources
from airlock.ledger.origin_words import OriginWords
from airlock.ledger.outbox import Outbox
from airlock.ledger.parked import Parked
from airlock.ledger.predecessors import Predecessors
from airlock.ledger.rebuilt import Rebuilds, need_no_rebuild
from airlock.ledger.reconciled import Reconciled
from airlock.ledger.reconciled_resources import ReconciledResources
from airlock.ledger.redrives import Redrives
from airlock.ledger.release import Release
from airlock.ledger.releases import Releases
from airlock.ledger.reminders import Reminders
from airlock.ledger.resolutions import Resolutions
from airlock.ledger.resources import Resources
from airlock.ledger.reveals import Reveals
from airlock.ledger.reviews import Reviews
from airlock.ledger.runs import Runs
from airlock.ledger.schema import check
from airlock.ledger.sign_offs import SignOffs
from airlock.ledger.split_studies import SplitStudies
from airlock.ledger.stow import Stow
from airlock.ledger.studies import Studies
from airlock.ledger.study_counts import StudyCounts
from airlock.ledger.sweeps import Sweeps
from airlock.ledger.untold import Untold
from airlock.ledger.words import Words

if TYPE_CHECKING:
    from types import TracebackType


class Ledger(
    Runs,
    Arrivals,
    Attempts,
    Words,
    OriginWords,
    Instances,
    Resources,
    OpenResources,
    Parked,
    Studies,
    StudyCounts,
    SplitStudies,
    Jobs,
    DataStores,
    Release,
    Gates,
    Reviews,
    Reminders,
    Brakes,
    SignOffs,
    Identities,
    Impacts,
    Contracts,
    Outbox,
    Releases,
    Stow,
    Redrives,
    Resolutions,
    Lookup,
    Predecessors,
    NewerContents,
    Folders,
    Sweeps,
    Censuses,
    Reconciled,
    ReconciledResources,
    Comparisons,
    Rebuilds,
    Reveals,
    Notes,
    Untold,
):
    """The database of record of arrivals, decisions, imports, audits and routes.

    Each method is one transaction: it takes effect as a whole, or not at all and raises a `LedgerError`. No error names
    a key, a UID or another value of a file.

    Examples
    --------
    >>> with Ledger.open("sqlite:////var/airlock/ledger.db") as ledger:  # doctest: +SKIP
    ...     ledger.held("nightly")
    """

    @classmethod
    def open(cls, url: str, *, rebuilding: bool = False) -> Self:
        """Open a ledger.

        Parameters
        ----------
        url
            ``sqlite:////folder/ledger.db`` or ``postgresql://user@host/database``.
        rebuilding
            Whether the caller is the rebuild, which nobody else may use.

        Raises
        ------
        LedgerError
            If the address is wrong, no database answers, its schema is not up to date, or its rebuild is unfinished;
            the text has the command.
        """
        engine = engine_for(parse_url(url))
        try:
            check(engine)
            if not rebuilding:
                with reading(engine) as connection:
                    need_no_rebuild(connection)
        except BaseException:
            engine.dispose()
            raise
        return cls(engine)

    @property
    def schema(self) -> str:
        """The schema that the ledger has at this moment."""
        return check(self._engine)

    def dispose(self) -> None:
        """Close all connections."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.dispose()
