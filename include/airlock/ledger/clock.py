"""The ledger's clock: the database's, so that machines with different clocks agree on leases and due times."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sqlalchemy import func, select

if TYPE_CHECKING:
    from sqlalchemy import Connection


def database_time(connection: Connection) -> datetime:
    """Return the database's present time, aware.

    A SQLite ledger serves the processes of one machine, so this process's clock is the database's.
    """
    if connection.dialect.name == "sqlite":
        return datetime.now(UTC)
    moment: datetime = connection.execute(select(func.clock_timestamp())).scalar_one()
    return moment.astimezone(UTC)
