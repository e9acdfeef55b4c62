"""The part of step 0012 that takes long: each row of the old arrivals becomes a fact, a verdict and a word.

It copies in parts, each in a transaction of its own, so that an interrupted upgrade continues with the next part. In
the meantime the ledger has the revision `BEGUN`, which no Airlock opens, and its old arrivals are under another name: a
task that has opened the ledger before fails at its next statement instead of writing what is copied already.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Column, Connection, MetaData, Table, Text, inspect, text

if TYPE_CHECKING:
    from collections.abc import Iterator

BEGUN = "0011+"
BEFORE = "arrivals_before"  # the old table, until it is copied
_progress = Table("upgrade_progress", MetaData(), Column("part", Text, primary_key=True))
_BOUNDS = [f"{number:02x}" for number in range(256)]  # arrival ids are hex digits
PARTS = list(zip(["", *_BOUNDS], [*_BOUNDS, None], strict=True))
_COPY = (
    """INSERT INTO arrivals (arrival_id, pipeline, run_key, bucket, key, version_id, etag, size, last_modified,
    site, generation, carries, claimed_at) SELECT arrival_id, pipeline, run_key, bucket, key, version_id, etag, size,
    last_modified, '', generation, carries, claimed_at FROM arrivals_before WHERE {part}""",
    """INSERT INTO verdicts (arrival_id, pipeline, study_key, sop_instance_uid, series_instance_uid, study_instance_uid)
    SELECT arrival_id, pipeline, study_key, sop_instance_uid, series_instance_uid, study_instance_uid
    FROM arrivals_before
    WHERE coalesce(study_key, sop_instance_uid, series_instance_uid, study_instance_uid) IS NOT NULL AND {part}""",
    """INSERT INTO words (arrival_id, pipeline, number, said_by, disposition, stage, reason, detail, study_key,
    unreleased_instance_uid, batch_id, job_id, image_set_id, settled_at) SELECT arrival_id, pipeline, 1, run_key,
    disposition, stage, reason, detail, study_key, CASE WHEN disposition <> 'released' THEN sop_instance_uid END,
    batch_id, job_id, image_set_id, settled_at FROM arrivals_before WHERE disposition IS NOT NULL AND {part}""",
    """INSERT INTO successors (arrival_id, pipeline, superseded_by, superseded_before) SELECT arrival_id, pipeline,
    superseded_by, superseded_before FROM arrivals_before
    WHERE coalesce(superseded_by, superseded_before) IS NOT NULL AND {part}""",
)


def create_copies(connection: Connection) -> None:
    """Create the tables to copy to, without their indexes, unless an interrupted upgrade has done so."""
    from airlock.ledger.migrations import tables_0012  # noqa: PLC0415  # only an upgrade needs them, not every task

    if inspect(connection).has_table(BEFORE):
        return
    connection.execute(text(f"ALTER TABLE arrivals RENAME TO {BEFORE}"))
    if connection.dialect.name == "postgresql":
        connection.execute(text(f"ALTER INDEX pk_arrivals RENAME TO pk_{BEFORE}"))
    _progress.create(connection)
    for table in tables_0012.COPIED:
        copy = table.to_metadata(MetaData(naming_convention=tables_0012.metadata.naming_convention))
        copy.indexes.clear()
        copy.create(connection)


def find_remaining(connection: Connection) -> Iterator[tuple[str, str | None]]:
    """Yield the bounds of the parts that are not copied yet."""
    done = set(connection.execute(_progress.select()).scalars())
    yield from (part for part in PARTS if part[0] not in done)


def copy_part(connection: Connection, part: tuple[str, str | None]) -> int:
    """Copy the arrivals whose ids lie between two bounds, and note it in the same transaction; return their number."""
    first, end = part
    within = "arrival_id >= :first" + ("" if end is None else " AND arrival_id < :end")
    bounds = {"first": first} if end is None else {"first": first, "end": end}
    copied = [connection.execute(text(statement.format(part=within)), bounds).rowcount for statement in _COPY]
    connection.execute(_progress.insert().values(part=first))
    return copied[0]


def create_indexes(connection: Connection) -> None:
    """Drop the old arrivals, and create the indexes of all copies."""
    from airlock.ledger.migrations import tables_0012  # noqa: PLC0415  # only an upgrade needs them, not every task

    connection.execute(text(f"DROP TABLE {BEFORE}"))
    for table in tables_0012.COPIED:
        for index in sorted(table.indexes, key=lambda one: str(one.name)):
            index.create(connection)
    connection.execute(text("DROP TABLE upgrade_progress"))
