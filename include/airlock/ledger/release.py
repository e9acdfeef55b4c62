"""What a run that will never go on still holds, given back: an operator's tool."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import and_, delete, func, select

from airlock.ledger import instances as of_instances
from airlock.ledger import resources as of_resources
from airlock.ledger.arrivals import scope
from airlock.ledger.database import Store
from airlock.ledger.errors import LedgerError
from airlock.ledger.runs import need_run
from airlock.ledger.tables import InstanceState, arrivals, instances, jobs, resources

if TYPE_CHECKING:
    from sqlalchemy import Connection


def _need_no_jobs(connection: Connection, run_key: str) -> None:
    jobs_of_run = select(func.count()).select_from(jobs).where(jobs.c.run_key == run_key)
    started = connection.execute(jobs_of_run).scalar_one()
    if started:
        raise LedgerError(f"run {run_key!r} has {started} import jobs: clear its audit task, which settles them")


class Release(Store):
    """The ledger's part about giving back."""

    def release_claims(self, pipeline: str, run_key: str) -> int:
        """Give back the arrivals that a run holds and has not settled, with what it claims, for a later run to take.

        Returns
        -------
        int
            How many arrivals were given back.

        Raises
        ------
        LedgerError
            If the run has import jobs: what they brought in only its audit can tell.
        """
        with self._writing(scope(pipeline), of_instances.SCOPE, of_resources.SCOPE) as connection:
            need_run(connection, run_key, pipeline)
            _need_no_jobs(connection, run_key)
            unsettled = and_(
                arrivals.c.pipeline == pipeline, arrivals.c.run_key == run_key, arrivals.c.settled_at.is_(None)
            )
            claimed = and_(instances.c.pipeline == pipeline, instances.c.state == InstanceState.CLAIMED)
            of_run = instances.c.arrival_id.in_(select(arrivals.c.arrival_id).where(unsettled))
            connection.execute(delete(instances).where(claimed, of_run))
            of_resources.give_back(connection, resources.c.claimed_by == run_key)
            return connection.execute(delete(arrivals).where(unsettled)).rowcount
