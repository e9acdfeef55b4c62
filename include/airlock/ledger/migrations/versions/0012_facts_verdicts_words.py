"""Arrivals become facts, verdicts and words; tables for what is open, for decisions, reviews, totals and the census.

Revision ID: 0012
Revises: 0011
"""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from alembic import op
from sqlalchemy import text

from airlock.ledger.columns import UtcDateTime
from airlock.ledger.generations import next_generation
from airlock.ledger.migrations import copying
from airlock.ledger.migrations import tables_0012 as tables
from airlock.ledger.migrations.routing_0012 import upgrade_outbox, upgrade_releases
from airlock.records import study_key

revision = "0012"
down_revision = "0011"

# The reasons of arrivals that came again by themselves, and those of schema 0011 that did not come yet are owed.
_COME_AGAIN = ("access_denied", "object_changed", "object_gone", "instance_claimed")
_VIEW = """CREATE VIEW arrival_states AS
SELECT a.arrival_id, a.pipeline, a.run_key, a.bucket, a.key, a.version_id, a.etag, a.size, a.last_modified, a.site,
    a.generation, a.carries, a.claimed_at, v.verdict, v.datastore_id, v.study_key, v.sop_instance_uid,
    v.series_instance_uid, v.study_instance_uid, w.number, w.said_by, w.disposition, w.stage, w.reason, w.detail,
    w.unreleased_instance_uid, w.batch_id, w.job_id, w.image_set_id, w.settled_at, s.superseded_by, s.superseded_before
FROM arrivals a
LEFT JOIN verdicts v ON v.arrival_id = a.arrival_id AND v.pipeline = a.pipeline
LEFT JOIN words w ON w.arrival_id = a.arrival_id AND w.pipeline = a.pipeline AND NOT EXISTS (
    SELECT 1 FROM words l
    WHERE l.number > 1 AND l.arrival_id = w.arrival_id AND l.pipeline = w.pipeline AND l.number > w.number)
LEFT JOIN successors s ON s.arrival_id = a.arrival_id AND s.pipeline = a.pipeline"""


def upgrade() -> None:
    """Copy what `copying` has not copied, and derive the tables of open rows from it."""
    connection = op.get_bind()
    copying.create_copies(connection)
    for part in list(copying.find_remaining(connection)):
        copying.copy_part(connection, part)
    _drop_foreign_keys()
    copying.create_indexes(connection)
    for table in tables.NEW:
        table.create(connection)
    _change_runs()
    _log_overrides()
    _index_gates()
    upgrade_outbox()
    upgrade_releases()
    _add_totals()
    _find_newest_contents()
    _find_in_flight(connection)
    _find_owed(connection)
    connection.execute(text(_VIEW))


def _drop_foreign_keys() -> None:
    with op.batch_alter_table("instances") as instances:
        instances.drop_constraint("fk_instances_arrival_id", type_="foreignkey")
    with op.batch_alter_table("resources") as resources:
        for column in ("arrival_id", "run_key", "claimed_by"):
            resources.drop_constraint(f"fk_resources_{column}", type_="foreignkey")
        for column in ("clock", "claimed_clock", "patient"):
            resources.add_column(sa.Column(column, sa.Text()))
    op.create_index("ix_resources_patient", "resources", ["patient", "datastore_id"])


def _change_runs() -> None:
    """Add the columns; a run that has arrivals has listed its window."""
    for column in ("listed_until", "marker_at"):
        op.add_column("runs", sa.Column(column, UtcDateTime()))
    op.add_column("runs", sa.Column("marker", sa.Text()))
    op.execute(
        "UPDATE runs SET listed_until = coalesce(window_end, started_at) "
        "WHERE EXISTS (SELECT 1 FROM arrivals WHERE arrivals.run_key = runs.run_key)"
    )


def _log_overrides() -> None:
    op.execute(
        "INSERT INTO decisions (kind, datastore_id, subject, run_key, reason, reasons, seen, decided_by, why, "
        "decided_at) SELECT 'override', datastore_id, subject, run_key, held_reason, reasons, findings, overridden_by, "
        "override_reason, overridden_at FROM overrides ORDER BY id"
    )
    op.drop_table("overrides")


def _index_gates() -> None:
    waits = text("reason IN ('study_in_flight', 'awaiting_declared')")
    op.create_index("ix_gates_waiting", "gates", ["datastore_id"], sqlite_where=waits, postgresql_where=waits)


def _add_totals() -> None:
    op.execute(
        "INSERT INTO run_totals (run_key, pipeline, site, disposition, reason, arrivals, bytes, said_by, said_at) "
        "SELECT a.run_key, a.pipeline, '', w.disposition, w.reason, count(*), sum(a.size), a.run_key, "
        "max(w.settled_at) FROM words w JOIN arrivals a ON a.arrival_id = w.arrival_id AND a.pipeline = w.pipeline "
        "GROUP BY a.run_key, a.pipeline, w.disposition, w.reason"
    )


def _find_newest_contents() -> None:
    op.execute(
        "INSERT INTO newest_contents (key, bucket, pipeline, arrival_id, last_modified) "
        "SELECT key, bucket, pipeline, arrival_id, last_modified FROM (SELECT key, bucket, pipeline, arrival_id, "
        "last_modified, count(*) OVER (PARTITION BY key, bucket, pipeline) AS contents, row_number() OVER "
        "(PARTITION BY key, bucket, pipeline ORDER BY last_modified DESC, generation DESC) AS place FROM arrivals) "
        "all_of WHERE contents > 1 AND place = 1"
    )


def _find_in_flight(connection: sa.Connection) -> None:
    """Note the studies that open runs have claimed instances of; what they quarantined is known when they settle."""
    found = connection.execute(
        text(
            "SELECT DISTINCT i.study_instance_uid, i.datastore_id, a.run_key, a.pipeline FROM instances i "
            "JOIN arrivals a ON a.arrival_id = i.arrival_id AND a.pipeline = i.pipeline WHERE NOT EXISTS "
            "(SELECT 1 FROM words w WHERE w.arrival_id = a.arrival_id AND w.pipeline = a.pipeline)"
        )
    )
    rows = [
        {"study_key": study_key(uid), "datastore_id": store, "run_key": run, "pipeline": pipeline}
        for uid, store, run, pipeline in found
    ]
    if rows:
        connection.execute(tables.in_flight.insert(), rows)


def _find_owed(connection: sa.Connection) -> None:
    """Link arrivals that came again with their next generation, and owe those that did not."""
    states, known = tables.words, tables.arrivals
    again = sa.select(known, states.c.reason, states.c.settled_at).join(
        states, sa.and_(states.c.arrival_id == known.c.arrival_id, states.c.pipeline == known.c.pipeline)
    )
    for row in connection.execute(again.where(states.c.reason.in_(_COME_AGAIN))).all():
        following = next_generation(row.arrival_id)
        key = {"arrival_id": row.arrival_id, "pipeline": row.pipeline}
        is_next = sa.and_(known.c.arrival_id == following, known.c.pipeline == row.pipeline)
        linked = connection.scalar(sa.select(sa.func.count()).where(*_same(tables.successors, key)))
        if connection.scalar(sa.select(sa.func.count()).where(is_next)):
            if not linked:
                connection.execute(tables.successors.insert().values(**key, superseded_by=following))
        elif not linked:
            _owe(connection, row)


def _same(table: sa.Table, values: dict[str, Any]) -> list[sa.ColumnElement[bool]]:
    return [table.c[name] == value for name, value in values.items()]


def _owe(connection: sa.Connection, row: Any) -> None:
    key = {name: getattr(row, name) for name in ("bucket", "key", "pipeline")}
    if connection.scalar(sa.select(sa.func.count()).where(*_same(tables.owed, key))):
        return
    times = {"since": row.settled_at, "next_attempt_at": row.settled_at, "attempts": 0}
    values = {name: getattr(row, name) for name in ("arrival_id", "reason", "run_key")}
    connection.execute(tables.owed.insert().values(**key, **values, **times))
