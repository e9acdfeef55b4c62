"""Tags of data stores and image sets."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.errors import invalid, not_found
from localaws.imaging.resources import datastore_arn, image_set_arn

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

    from localaws.protocol import Params, Result
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


class Tags:
    """TagResource, ListTagsForResource, UntagResource."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def _check_resource(self, connection: sqlite3.Connection, arn: str) -> None:
        datastore_id, _, image_set_id = arn.rpartition(":datastore/")[2].partition("/imageset/")
        if image_set_id:
            query = "SELECT 1 FROM image_set WHERE datastore_id = ? AND id = ? AND deleted_at IS NULL"
            expected = image_set_arn(self._runtime.settings, datastore_id, image_set_id)
            found = connection.execute(query, (datastore_id, image_set_id)).fetchone()
        else:
            query = "SELECT 1 FROM datastore WHERE id = ? AND status != 'DELETED'"
            expected = datastore_arn(self._runtime.settings, datastore_id)
            found = connection.execute(query, (datastore_id,)).fetchone()
        if found is None or arn != expected:
            raise not_found("resource", arn)

    def tag(self, params: Params) -> Result:
        """Answer TagResource."""
        with self._runtime.state.write() as connection:
            self._check_resource(connection, params["resourceArn"])
            put_tags(connection, params["resourceArn"], params["tags"])
        return {}

    def list_tags(self, params: Params) -> Result:
        """Answer ListTagsForResource."""
        with self._runtime.state.read() as connection:
            self._check_resource(connection, params["resourceArn"])
            rows = connection.execute(
                "SELECT key, value FROM tag WHERE arn = ? ORDER BY key", (params["resourceArn"],)
            ).fetchall()
        return {"tags": {row["key"]: row["value"] for row in rows}}

    def untag(self, params: Params) -> Result:
        """Answer UntagResource; keys that the resource does not have are passed over."""
        with self._runtime.state.write() as connection:
            self._check_resource(connection, params["resourceArn"])
            connection.executemany(
                "DELETE FROM tag WHERE arn = ? AND key = ?", [(params["resourceArn"], key) for key in params["tagKeys"]]
            )
        return {}
