"""Tags of data stores and data-transformation profiles: TagResource, ListTagsForResource, UntagResource."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.errors import not_found
from localaws.healthlake.resources import datastore_arn
from localaws.healthlake.transformation.profiles import profile_arn
from localaws.tags import ResourceTags

if TYPE_CHECKING:
    import sqlite3

    from localaws.protocol import Params, Result

TAGGED = (
    (datastore_arn, "SELECT id FROM fhir_datastore WHERE id = ? AND status != 'DELETED'"),
    (profile_arn, "SELECT id FROM transformation_profile WHERE id = ?"),
)
"""The resources that can have tags: how an ARN is made, and the query for the identifier."""


def as_mapping(tags: list[dict[str, str]]) -> dict[str, str]:
    """Return HealthLake's list of ``Key`` and ``Value`` as a mapping."""
    return {tag["Key"]: tag["Value"] for tag in tags}


class Tags(ResourceTags):
    """The three operations on tags."""

    def check_resource(self, connection: sqlite3.Connection, arn: str) -> None:
        """Raise ResourceNotFoundException unless the ARN is that of a data store that is not deleted, or a profile."""
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
        self.add_tags(params["ResourceARN"], as_mapping(params["Tags"]))
        return {}

    def list_tags(self, params: Params) -> Result:
        """Answer ListTagsForResource."""
        tags = self.read_tags(params["ResourceARN"])
        return {"Tags": [{"Key": key, "Value": value} for key, value in tags.items()]}

    def untag(self, params: Params) -> Result:
        """Answer UntagResource."""
        self.remove_tags(params["ResourceARN"], params["TagKeys"])
        return {}
