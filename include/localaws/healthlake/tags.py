"""Tags of data stores and data-transformation profiles: TagResource, UntagResource, ListTagsForResource."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.errors import not_found
from localaws.healthlake.resources import datastore_arn
from localaws.healthlake.transformation.profiles import profile_arn
from localaws.imaging.tags import put_tags

if TYPE_CHECKING:
    import sqlite3

    from localaws.protocol import Params, Result
    from localaws.runtime import Runtime

TAGGED = (
    (datastore_arn, "SELECT id FROM fhir_datastore WHERE id = ? AND status != 'DELETED'"),
    (profile_arn, "SELECT id FROM transformation_profile WHERE id = ?"),
)
"""What can have tags: how its ARN is made, and what finds it by its identifier."""


def as_mapping(tags: list[dict[str, str]]) -> dict[str, str]:
    """Return HealthLake's list of ``Key`` and ``Value`` as a mapping."""
    return {tag["Key"]: tag["Value"] for tag in tags}


class Tags:
    """The three operations on tags."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def _check_resource(self, connection: sqlite3.Connection, arn: str) -> None:
        identifier = arn.rpartition("/")[2]
        arns = {
            arn_of(self._runtime.settings, row["id"])
            for arn_of, query in TAGGED
            for row in connection.execute(query, (identifier,))
        }
        if arn not in arns:
            raise not_found("resource", arn)

    def tag(self, params: Params) -> Result:
        """Answer TagResource."""
        with self._runtime.state.write() as connection:
            self._check_resource(connection, params["ResourceARN"])
            put_tags(connection, params["ResourceARN"], as_mapping(params["Tags"]))
        return {}

    def list_tags(self, params: Params) -> Result:
        """Answer ListTagsForResource."""
        with self._runtime.state.read() as connection:
            self._check_resource(connection, params["ResourceARN"])
            rows = connection.execute(
                "SELECT key, value FROM tag WHERE arn = ? ORDER BY key", (params["ResourceARN"],)
            ).fetchall()
        return {"Tags": [{"Key": row["key"], "Value": row["value"]} for row in rows]}

    def untag(self, params: Params) -> Result:
        """Answer UntagResource; keys that the resource does not have are passed over."""
        with self._runtime.state.write() as connection:
            self._check_resource(connection, params["ResourceARN"])
            connection.executemany(
                "DELETE FROM tag WHERE arn = ? AND key = ?",
                [(params["ResourceARN"], key) for key in params["TagKeys"]],
            )
        return {}
