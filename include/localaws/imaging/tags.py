"""Tags of data stores and image sets: TagResource, ListTagsForResource, UntagResource."""

from __future__ import annotations

from typing import TYPE_CHECKING

from localaws.errors import not_found
from localaws.imaging.resources import datastore_arn, image_set_arn
from localaws.tags import ResourceTags

if TYPE_CHECKING:
    import sqlite3

    from localaws.protocol import Params, Result


class Tags(ResourceTags):
    """The three operations on tags."""

    def check_resource(self, connection: sqlite3.Connection, arn: str) -> None:
        """Raise ResourceNotFoundException unless the ARN is that of a data store or image set that is not deleted."""
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
        self.add_tags(params["resourceArn"], params["tags"])
        return {}

    def list_tags(self, params: Params) -> Result:
        """Answer ListTagsForResource."""
        return {"tags": self.read_tags(params["resourceArn"])}

    def untag(self, params: Params) -> Result:
        """Answer UntagResource."""
        self.remove_tags(params["resourceArn"], params["tagKeys"])
        return {}
