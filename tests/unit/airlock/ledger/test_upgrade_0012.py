"""The step from schema 0011, on ledgers as the Airlock before made them."""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from sqlalchemy import MetaData, Table, inspect, select

from airlock.ledger import Ledger, LedgerSchemaError, schema, upgrade
from airlock.ledger.arrival_states import arrival_states
from airlock.ledger.database import engine_for, parse_url, reading
from airlock.ledger.decision_tables import decisions
from airlock.ledger.generations import next_generation
from airlock.ledger.migrations import copying
from airlock.ledger.tables import in_flight, newest_contents, owed, run_totals, runs, successors
from airlock.records import digest, study_key
from tests.unit.airlock.ledger.samples import NIGHTLY, SEEN_AT, STORE
from tests.unit.airlock.ledger.test_schema import upgrade_to

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

STUDY = "1.2.3"
OTHER, AGAIN = digest("1"), digest("gone")  # an arrival replaced under its key, and one that was out of reach
SETTLED = {"settled_at": SEEN_AT, "stage": "audit", "disposition": "released"}
OF_STUDY = {"sop_instance_uid": "1.2.3.4.1", "study_instance_uid": STUDY, "study_key": study_key(STUDY)}
QUARANTINED = SETTLED | {"disposition": "quarantined"}
ARRIVALS: dict[str, dict[str, Any]] = {
    "released": {"arrival_id": digest("released")} | OF_STUDY | SETTLED,
    "held": {"arrival_id": digest("held"), "reason": "rejected", "detail": "why"} | OF_STUDY | SETTLED,
    "open": {"arrival_id": digest("open"), "run_key": "open"},
    "replaced": {"arrival_id": OTHER, "key": "in/twice", "reason": "truncated"} | QUARANTINED,
    "replacing": {"arrival_id": digest("2"), "key": "in/twice"} | SETTLED,
    "gone": {"arrival_id": AGAIN, "reason": "object_gone"} | QUARANTINED,
    "gone again": {"arrival_id": next_generation(AGAIN), "key": "in/gone", "reason": "object_gone"} | QUARANTINED,
    "redriven": {"arrival_id": digest("r"), "superseded_by": digest("s"), "reason": "truncated"} | QUARANTINED,
    "odd": {"arrival_id": "~odd"} | SETTLED,  # no digest: beyond the last bound
}
ARRIVALS["held"]["disposition"] = "held"
ARRIVALS["replacing"]["last_modified"] = SEEN_AT + timedelta(hours=1)
COMMON = {"pipeline": NIGHTLY, "bucket": "archive", "etag": "e", "size": 100, "last_modified": SEEN_AT, "run_key": "a"}


@pytest.fixture
def filled_0011(empty_url: str) -> str:
    """The URL of a ledger of schema 0011 with arrivals in every state."""
    upgrade_to(empty_url, "0011")
    with connection_to(empty_url) as connection:
        run = {"pipeline": NIGHTLY, "started_at": SEEN_AT, "state": "audited"}
        insert(connection, "runs", *(run | {"run_key": key, "run_id": f"scheduled__{key}"} for key in ("a", "open")))
        named = {name: {"key": f"in/{name.split()[0]}", "claimed_at": SEEN_AT} for name in ARRIVALS}
        insert(connection, "arrivals", *(COMMON | named[name] | values for name, values in ARRIVALS.items()))
        claimed = {"sop_instance_uid": "1.9.1", "series_instance_uid": "1.9.0", "study_instance_uid": "1.9"}
        arrival = {"arrival_id": digest("open"), "pipeline": NIGHTLY, "datastore_id": STORE, "state": "claimed"}
        insert(connection, "instances", claimed | arrival)
        given = {"overridden_by": "ada", "override_reason": "seen", "overridden_at": SEEN_AT}
        insert(connection, "overrides", {"datastore_id": STORE, "subject": STUDY, "run_key": "a"} | given)
    return empty_url


class connection_to:  # noqa: N801  # used as a function
    """A transaction on a ledger that may have an older schema."""

    def __init__(self, url: str) -> None:
        self._engine = engine_for(parse_url(url))

    def __enter__(self) -> Connection:
        self._block = self._engine.begin()
        return self._block.__enter__()

    def __exit__(self, *error: Any) -> None:
        self._block.__exit__(*error)
        self._engine.dispose()


def insert(connection: Connection, table: str, *rows: dict[str, Any]) -> None:
    into = Table(table, MetaData(), autoload_with=connection)
    for row in rows:
        connection.execute(into.insert().values(**row))


def rows_of(ledger: Ledger, *columns: Any) -> list[tuple[Any, ...]]:
    with reading(ledger._engine) as connection:
        return sorted((tuple(row) for row in connection.execute(select(*columns))), key=str)


@pytest.fixture
def upgraded(filled_0011: str) -> Iterator[Ledger]:
    upgrade(filled_0011)
    with Ledger.open(filled_0011) as ledger:
        yield ledger


def test_every_arrival_is_as_it_was(upgraded: Ledger) -> None:
    names = ("arrival_id", "key", "run_key", "disposition", "reason", "detail", "study_key", "sop_instance_uid")
    given = [{"run_key": "a", "key": f"in/{name.split()[0]}"} | values for name, values in ARRIVALS.items()]
    before = sorted((tuple(row.get(column) for column in names) for row in given), key=str)
    assert rows_of(upgraded, *(arrival_states.c[name] for name in names)) == before


def test_what_is_open_is_found_without_the_arrivals(upgraded: Ledger) -> None:
    assert rows_of(upgraded, in_flight.c.study_key, in_flight.c.run_key) == [(study_key("1.9"), "open")]
    assert rows_of(upgraded, owed.c.key, owed.c.arrival_id) == [("in/gone", next_generation(AGAIN))]
    assert (AGAIN, next_generation(AGAIN)) in rows_of(upgraded, successors.c.arrival_id, successors.c.superseded_by)
    assert rows_of(upgraded, newest_contents.c.key, newest_contents.c.arrival_id)[-1] == ("in/twice", digest("2"))


def test_totals_windows_and_decisions_follow(upgraded: Ledger) -> None:
    totals = rows_of(upgraded, run_totals.c.disposition, run_totals.c.reason, run_totals.c.arrivals)
    assert ("released", None, 3) in totals
    assert sum(number for _, _, number in totals) == len(ARRIVALS) - 1
    assert rows_of(upgraded, runs.c.run_key, runs.c.listed_until) == [("a", SEEN_AT), ("open", SEEN_AT)]
    assert rows_of(upgraded, decisions.c.kind, decisions.c.decided_by, decisions.c.why) == [("override", "ada", "seen")]


def test_an_interrupted_upgrade_continues_and_in_between_nobody_opens_or_writes_the_ledger(
    filled_0011: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []

    def copy(connection: Connection, part: tuple[str, str | None]) -> int:
        if len(copied) == 5:
            raise ConnectionError("broken off")
        copied.append(part[0])
        return copying.copy_part(connection, part)

    with monkeypatch.context() as patch:
        patch.setattr(schema, "copy_part", copy)
        with pytest.raises(ConnectionError):
            upgrade(filled_0011)
    with pytest.raises(LedgerSchemaError, match="was interrupted: run"):
        Ledger.open(filled_0011)
    with connection_to(filled_0011) as connection:
        assert "arrivals_before" in inspect(connection).get_table_names(), "an open task finds no column to write"
    told: list[str] = []
    upgrade(filled_0011, told.append)
    assert told[0].startswith("part 6 of 257: ")
    with Ledger.open(filled_0011) as ledger:
        assert len(rows_of(ledger, arrival_states.c.arrival_id)) == len(ARRIVALS)
