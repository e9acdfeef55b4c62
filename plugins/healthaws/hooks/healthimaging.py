"""AWS HealthImaging hook: the client, and data stores."""

from __future__ import annotations

from typing_extensions import override

from healthaws.hooks.service import HealthServiceHook


class HealthImagingHook(HealthServiceHook):
    """
    Interact with AWS HealthImaging: a thin wrapper around ``boto3.client("medical-imaging")``.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`HealthServiceHook`.

    Notes
    -----
    boto3 puts ``runtime-`` before the host name of eight image-set operations. With an endpoint URL of one's own, set
    ``"config_kwargs": {"inject_host_prefix": false}`` in the extra of the connection.
    """

    client_type = "medical-imaging"

    @override
    def datastore_status(self, datastore_id: str) -> str | None:
        try:
            reply = self.conn.get_datastore(datastoreId=datastore_id)
        except self.conn.exceptions.ResourceNotFoundException:
            return None
        return str(reply["datastoreProperties"]["datastoreStatus"])
