"""AWS HealthLake hook of the control plane: the client, and data stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import botocore
from typing_extensions import override

from healthaws.exceptions import DatastoreNotReadyError, IncompleteReplyError, UnknownOperationError
from healthaws.hooks.service import HealthServiceHook
from healthaws.replies import member

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

UNREACHABLE_DATASTORE_STATUS = frozenset({"CREATING", "CREATE_FAILED", "DELETING", "DELETED"})


class HealthLakeHook(HealthServiceHook):
    """
    Interact with the control plane of AWS HealthLake: a thin wrapper around ``boto3.client("healthlake")``.

    It pages where boto3 cannot (ListFHIRImportJobs, ListFHIRExportJobs, ListFHIRDatastores). Its waiters replace
    botocore's, which take COMPLETED_WITH_ERRORS for success and poll a cancelled import to the end of their attempts.

    Parameters
    ----------
    *args, **kwargs
        Of :class:`HealthServiceHook`.

    Notes
    -----
    boto3 puts ``datatransformation.`` before the host name of the data transformation operations. With an endpoint URL
    of one's own, set ``"config_kwargs": {"inject_host_prefix": false}`` in the extra of the connection.
    """

    client_type = "healthlake"

    def describe_fhir_datastore(self, datastore_id: str) -> dict[str, Any]:
        """
        Get the properties of a data store.

        Parameters
        ----------
        datastore_id : str
            The data store.

        Returns
        -------
        dict
            ``DatastoreProperties``.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/APIReference/API_DescribeFHIRDatastore.html
        """
        properties: dict[str, Any] = self._ask("DescribeFHIRDatastore", "DatastoreProperties", DatastoreId=datastore_id)
        return properties

    def list_fhir_datastores(self, **request: Any) -> Iterator[dict[str, Any]]:
        """
        List the data stores of the account, page after page.

        Parameters
        ----------
        **request
            As boto3 names it: ``Filter``, ``MaxResults``.

        Yields
        ------
        dict
            ``DatastoreProperties`` of each data store.
        """
        return self._pages("ListFHIRDatastores", "DatastorePropertiesList", **request)

    @override
    def datastore_status(self, datastore_id: str) -> str | None:
        try:
            return str(self.describe_fhir_datastore(datastore_id)["DatastoreStatus"])
        except self.conn.exceptions.ResourceNotFoundException:
            return None

    def datastore_endpoint(self, datastore_id: str) -> str:
        """
        Get the base of a data store's FHIR interface, with the slash at the end.

        Parameters
        ----------
        datastore_id : str
            The data store.

        Raises
        ------
        DatastoreNotReadyError
            If the data store does not exist yet, or any more.
        """
        properties = self.describe_fhir_datastore(datastore_id)
        status = properties["DatastoreStatus"]
        if status in UNREACHABLE_DATASTORE_STATUS:
            raise DatastoreNotReadyError(
                f"The data store {datastore_id} is {status}. It can be used once it is ACTIVE."
            )
        return str(member(properties, "DatastoreEndpoint", "DescribeFHIRDatastore")).rstrip("/") + "/"

    def _reply(self, operation: str, request: Mapping[str, Any]) -> dict[str, Any]:
        method = getattr(self.conn, botocore.xform_name(operation), None)
        if method is None:
            raise UnknownOperationError(
                f"botocore {botocore.__version__} does not know HealthLake's {operation}. Install a newer boto3 with "
                "the aiobotocore that fits it, or switch off the feature that needs this operation."
            )
        reply: dict[str, Any] = method(**given(request))
        return reply

    def _ask(self, operation: str, wanted: str, **request: Any) -> Any:
        return member(self._reply(operation, request), wanted, operation)

    def _pages(self, operation: str, listed: str, **request: Any) -> Iterator[dict[str, Any]]:
        token = None
        while True:
            reply = self._reply(operation, {**request, "NextToken": token})
            yield from member(reply, listed, operation)
            following = reply.get("NextToken")
            if not following:
                return
            if following == token:
                raise IncompleteReplyError(f"{operation}: the service returned the same NextToken twice.")
            token = following


def given(request: Mapping[str, Any]) -> dict[str, Any]:
    """
    Return a request without the members that have no value.

    Parameters
    ----------
    request : Mapping
        As boto3 names its members.
    """
    return {name: value for name, value in request.items() if value not in (None, "")}
