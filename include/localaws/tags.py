"""The tags of resources, which both services keep in one table and call by other names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from localaws.errors import invalid

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping

    from localaws.runtime import Runtime

MOST_TAGS = 50


def put_tags(connection: sqlite3.Connection, arn: str, tags: Mapping[str, str]) -> None:
    """Set tags of a resource; a key that it has already gets the new value.

    Raises
    ------
    AwsError
        ValidationException: more than 50 tags on the resource.
    """
    connection.executemany("INSERT OR REPLACE INTO tag VALUES (?, ?, ?)", [(arn, *pair) for pair in tags.items()])
    (count,) = connection.execute("SELECT count(*) FROM tag WHERE arn = ?", (arn,)).fetchone()
    if count > MOST_TAGS:
        raise invalid(f"$.tags: a resource has at most {MOST_TAGS} tags")


class ResourceTags(ABC):
    """Sets, lists and removes the tags of the resources of one service."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @abstractmethod
    def check_resource(self, connection: sqlite3.Connection, arn: str) -> None:
        """Raise ResourceNotFoundException for an ARN that no resource of the service has."""

    def add_tags(self, arn: str, tags: Mapping[str, str]) -> None:
        """Set tags of a resource."""
        with self._runtime.state.write() as connection:
            self.check_resource(connection, arn)
            put_tags(connection, arn, tags)

    def read_tags(self, arn: str) -> dict[str, str]:
        """Return the tags of a resource, ordered by key."""
        with self._runtime.state.read() as connection:
            self.check_resource(connection, arn)
            rows = connection.execute("SELECT key, value FROM tag WHERE arn = ? ORDER BY key", (arn,)).fetchall()
        return {row["key"]: row["value"] for row in rows}

    def remove_tags(self, arn: str, keys: Iterable[str]) -> None:
        """Remove tags of a resource; keys that it does not have are skipped."""
        with self._runtime.state.write() as connection:
            self.check_resource(connection, arn)
            connection.executemany("DELETE FROM tag WHERE arn = ? AND key = ?", [(arn, key) for key in keys])
