"""The plans that PostgreSQL makes for claims: it finds arrivals by their indexes, however large the listing is.

The ledger of a test is small, and PostgreSQL reads a small table as a whole wherever it may.
"""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import Engine, create_engine, event

from airlock.ledger import Claim, Ledger
from tests.unit.airlock.ledger.samples import NIGHTLY, arrivals, begin, dispositions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

NAMES = [str(number) for number in range(3_000)]


@contextmanager
def explained() -> Iterator[list[str]]:
    """Collect the plans of all statements within the block."""
    plans: list[str] = []

    def explain(_: Connection, cursor: Any, statement: str, parameters: Any, *_more: Any) -> None:
        if statement.startswith(("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")):
            with closing(cursor.connection.cursor()) as own:
                own.execute(f"EXPLAIN {statement}", parameters)
                plans.append("\n".join(line for (line,) in own))

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


@pytest.fixture
def filled(postgres_ledger: str) -> Iterator[Ledger]:
    """A ledger with settled arrivals, of which PostgreSQL has statistics."""
    with Ledger.open(postgres_ledger) as ledger:
        begin(ledger, "a", "b", "c")
        ledger.claim(NIGHTLY, "a", arrivals(*NAMES))
        ledger.settle(NIGHTLY, "a", dispositions(*NAMES))
        ledger.close_run("a", "audited", {})
        ledger.claim(NIGHTLY, "c", arrivals("underway"))
        engine = create_engine(postgres_ledger, isolation_level="AUTOCOMMIT")
        with engine.connect() as connection:
            connection.exec_driver_sql("VACUUM (ANALYZE)")
        engine.dispose()
        yield ledger


def list_scans(plans: list[str]) -> list[str]:
    return [plan for plan in plans if "Seq Scan on arrivals" in plan or "Seq Scan on words" in plan]


def test_a_claim_reads_no_arrival_that_it_does_not_list(filled: Ledger) -> None:
    with explained() as plans:
        claim = filled.claim(NIGHTLY, "b", arrivals(*NAMES, "underway", "new"))
    assert claim == Claim(settled=len(NAMES), claimed_elsewhere=1)
    assert any("arrivals" in plan for plan in plans)
    assert list_scans(plans) == []


def test_nor_does_a_claim_of_new_objects_alone(filled: Ledger) -> None:
    with explained() as plans:
        filled.claim(NIGHTLY, "b", arrivals(*(f"new-{name}" for name in NAMES)))
    assert list_scans(plans) == []


def test_nor_does_a_plan(filled: Ledger) -> None:
    with explained() as plans, filled.find_unclaimed(NIGHTLY, arrivals(*NAMES, "underway", "new")) as found:
        assert found.arrivals == 1
    assert list_scans(plans) == []
