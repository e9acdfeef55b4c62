"""The primary hierarchy in the database: the image sets that an instance or a change must agree with."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.imaging.grouping import Grouping

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable

QUERY = (
    "SELECT id, grouping FROM image_set WHERE datastore_id = ? AND is_primary AND deleted_at IS NULL "
    "AND (study_uid = ? OR series_uid = ?) ORDER BY created_at, id"
)


def find_primaries(
    connection: sqlite3.Connection, datastore_id: str, uids: Iterable[tuple[str, str]]
) -> dict[str, Grouping]:
    """Return the undeleted primary image sets of these pairs of study and series UID, by identifier."""
    found = [row for pair in sorted(set(uids)) for row in connection.execute(QUERY, (datastore_id, *pair)).fetchall()]
    return {row["id"]: Grouping.load(row["grouping"]) for row in found}


def contradicts(grouping: Grouping, others: Iterable[Grouping]) -> bool:
    """Return whether a primary image set with `grouping` would contradict one of `others`."""
    return any(
        (other.study_uid == grouping.study_uid and other.study != grouping.study)
        or (other.series_uid == grouping.series_uid and other != grouping)
        for other in others
    )
