"""AWS HealthLake hook of the FHIR interface of a data store."""

from __future__ import annotations

import json
import re
import time
import uuid
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any

from botocore.exceptions import NoCredentialsError

from healthaws.exceptions import FhirUnavailableError, IncompleteReplyError
from healthaws.fhir import RESOURCE_ID, FhirEndpoint, FhirReply, encode_query, query_of_link, resource_path
from healthaws.hooks.healthlake import HealthLakeHook
from healthaws.refusals import Backoff

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

VALIDATION_LEVEL_HEADER = "x-amzn-healthlake-fhir-validation-level"
IDEMPOTENCY_HEADER = "x-amz-fhir-idempotency-key"
PLACE = re.compile(rf"([A-Za-z]+)/({RESOURCE_ID.pattern})(?:/_history/[^/]+)?/?$")
TRANSACTION = re.compile(r"Transaction/[A-Za-z0-9-]+$")


class HealthLakeFhirHook(HealthLakeHook):
    """
    Interact with the FHIR interface of one HealthLake data store.

    Neither boto3 nor the amazon provider has it. Requests go to the endpoint that DescribeFHIRDatastore returns, signed
    with the credentials of the connection; timeouts and proxies are those of the botocore client.

    Throttled requests are repeated with growing pauses. So are those that end in 5xx or in a broken connection, unless
    the repetition could do what was asked twice.

    Parameters
    ----------
    datastore_id : str
        The data store.
    *args
        Passed on, as the rest.
    max_attempts : int
        How often a request is sent at most. (default: 6)
    backoff : Backoff
        Pauses between the attempts. (default: from half a second to 20 seconds)
    **kwargs
        Passed to :class:`airflow.providers.amazon.aws.hooks.base_aws.AwsBaseHook` (``aws_conn_id``, ``region_name``,
        ``verify``, ``config``).

    Notes
    -----
    Decimals of resources are :class:`decimal.Decimal`, in what is returned and in what is sent: they keep their digits.

    Messages name the interaction, the resource type, the HTTP status and the codes of the OperationOutcome. They hold
    no address, no id and no diagnostics. Nor does the log: the package keeps the clients' loggers above DEBUG.
    """

    def __init__(
        self,
        datastore_id: str,
        *args: Any,
        max_attempts: int = 6,
        backoff: Backoff = Backoff(initial=0.5, maximum=20),  # noqa: B008 - immutable
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        self.datastore_id = datastore_id
        self.max_attempts = max_attempts
        self.backoff = backoff

    @cached_property
    def endpoint(self) -> FhirEndpoint:
        """The data store's endpoint, asked of the service once."""
        credentials = self.get_session(region_name=self.region_name).get_credentials()
        if credentials is None:
            raise NoCredentialsError
        return FhirEndpoint(
            self.datastore_endpoint(self.datastore_id),
            credentials,
            self.conn_region_name,
            config=self.conn_client_meta.config,
            verify=self.verify,
            max_attempts=self.max_attempts,
            backoff=self.backoff,
        )

    def read(self, resource_type: str, resource_id: str, version: str | None = None) -> dict[str, Any] | None:
        """
        Read a resource.

        Parameters
        ----------
        resource_type : str
            As in ``Patient``.
        resource_id : str
            Its id.
        version : str, optional
            A version of it, not the current one.

        Returns
        -------
        dict or None
            None if it is not there: never was (404), or was deleted (410).
        """
        interaction = f"read {resource_type}"
        history = ("_history", version) if version else ()
        reply = self.endpoint.send(interaction, "GET", resource_path(resource_type, resource_id, *history))
        if reply.status in (HTTPStatus.NOT_FOUND, HTTPStatus.GONE):
            return None
        return _resource(reply.require(interaction, HTTPStatus.OK), interaction)

    def create(
        self, resource: Mapping[str, Any], *, idempotency_key: str | None = None, validation_level: str | None = None
    ) -> dict[str, Any]:
        """
        Create a resource under an id of the service's choice.

        Parameters
        ----------
        resource : Mapping
            The resource.
        idempotency_key : str, optional
            A UUID that names the request: repeated under the same key, it creates nothing, and the first resource
            is returned. (default: a new one for each call)
        validation_level : str, optional
            ``strict``, ``structure-only`` or ``minimal``. (default: the service's, ``strict``)

        Returns
        -------
        dict
            The resource as stored.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/devguide/managing-fhir-resources-idempotency.html
        """
        interaction = f"create {resource['resourceType']}"
        headers = {
            IDEMPOTENCY_HEADER: idempotency_key or str(uuid.uuid4()),
            VALIDATION_LEVEL_HEADER: validation_level,
        }
        path = resource_path(resource["resourceType"])
        reply = self.endpoint.send(interaction, "POST", path, body=resource, headers=headers)
        if reply.status == HTTPStatus.CONFLICT and (original := self._original(reply, resource["resourceType"])):
            return original
        return _resource(reply.require(interaction, HTTPStatus.OK, HTTPStatus.CREATED), interaction)

    def update(
        self, resource: Mapping[str, Any], if_match: str | None = None, *, validation_level: str | None = None
    ) -> dict[str, Any]:
        """
        Replace a resource, or create it under its id.

        Parameters
        ----------
        resource : Mapping
            The resource, with its id.
        if_match : str, optional
            The version that must be the current one, as in ``meta.versionId``. Such a request is not repeated after
            it may have been carried out: the repetition would fail on the version that it made itself.
        validation_level : str, optional
            ``strict``, ``structure-only`` or ``minimal``. (default: the service's, ``strict``)

        Returns
        -------
        dict
            The resource as stored.

        Raises
        ------
        FhirConflictError
            If ``if_match`` is not the current version.
        """
        interaction = f"update {resource['resourceType']}"
        headers = {
            "If-Match": if_match and f'W/"{if_match}"',
            VALIDATION_LEVEL_HEADER: validation_level,
        }
        path = resource_path(resource["resourceType"], resource["id"])
        reply = self.endpoint.send(
            interaction, "PUT", path, body=resource, headers=headers, repeatable=if_match is None
        )
        return _resource(reply.require(interaction, HTTPStatus.OK, HTTPStatus.CREATED), interaction)

    def delete(self, resource_type: str, resource_id: str) -> None:
        """
        Delete a resource; it is no error if it is not there.

        Parameters
        ----------
        resource_type : str
            As in ``Patient``.
        resource_id : str
            Its id, which stays taken.
        """
        interaction = f"delete {resource_type}"
        reply = self.endpoint.send(interaction, "DELETE", resource_path(resource_type, resource_id))
        gone = (HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
        reply.require(interaction, *gone)

    def search(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """
        Search, page after page.

        The service finds a resource some time after it was written; to prove that one is there, read it.

        Parameters
        ----------
        resource_type : str
            As in ``Patient``.
        params : Mapping
            Search parameters, not yet encoded; a sequence as value repeats the name.

        Yields
        ------
        dict
            Each resource: what matches, and what ``_include`` and ``_revinclude`` add.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/devguide/searching-fhir-resources.html
        """
        interaction, path = f"search {resource_type}", resource_path(resource_type)
        query: str | None = encode_query(params)
        seen: set[str] = set()
        while query is not None:
            reply = self.endpoint.send(interaction, "GET", path, query=query).require(interaction, HTTPStatus.OK)
            seen.add(query)
            page = _resource(reply, interaction)
            yield from (entry["resource"] for entry in page.get("entry", ()) if _is_found(entry))
            links = [link["url"] for link in page.get("link", ()) if link["relation"] == "next"]
            query = query_of_link(links[0]) if links else None
            if query in seen:
                raise IncompleteReplyError(f"{interaction}: the pages go round in a circle.")

    def bundle(
        self,
        bundle: Mapping[str, Any],
        *,
        asynchronous: bool = False,
        validation_level: str | None = None,
        poll_delay: float = 5,
        timeout: float = 3600,
    ) -> dict[str, Any]:
        """
        Send a batch or transaction.

        A Bundle that creates, or depends on a version, is not repeated after it may have been carried out.

        Parameters
        ----------
        bundle : Mapping
            A Bundle of type ``batch`` or ``transaction``.
        asynchronous : bool
            Whether the service may answer later, as it must for a transaction of more than 100 entries.
            (default: False)
        validation_level : str, optional
            ``strict``, ``structure-only`` or ``minimal``. (default: the service's, ``strict``)
        poll_delay : float
            Seconds between the questions whether an asynchronous transaction is done. (default: 5)
        timeout : float
            How long to ask, in seconds. (default: 3600)

        Returns
        -------
        dict
            The Bundle of answers. A batch is answered even if each of its entries failed: look at each
            ``response.status``.

        Raises
        ------
        FhirUnavailableError
            If the transaction is not done in time. It may still be carried out.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/devguide/managing-fhir-resources-bundle.html
        """
        interaction = f"{bundle.get('type', 'untyped')} Bundle"
        headers = {
            "Prefer": "respond-async" if asynchronous else None,
            VALIDATION_LEVEL_HEADER: validation_level,
        }
        repeatable = all(_is_repeatable(entry) for entry in bundle.get("entry", ()))
        reply = self.endpoint.send(interaction, "POST", body=bundle, headers=headers, repeatable=repeatable)
        if reply.status == HTTPStatus.ACCEPTED:
            reply = self._await_transaction(reply, interaction, poll_delay, time.monotonic() + timeout)
        return _resource(reply.require(interaction, HTTPStatus.OK), interaction)

    def validate(
        self, resource: Mapping[str, Any] | str, profile: str | None = None, mode: str | None = None
    ) -> dict[str, Any]:
        """
        Let the service validate a resource without storing it.

        Parameters
        ----------
        resource : Mapping or str
            The resource, or its JSON text, which is sent as it is: its decimals keep their digits.
        profile : str, optional
            The canonical URL of a profile. (default: those in ``meta.profile``, else the base definition)
        mode : str, optional
            ``create`` or ``update``.

        Returns
        -------
        dict
            The OperationOutcome. The service answers 200 whatever it found: the resource is valid if no issue is an
            error, which :func:`healthaws.outcomes.issues_of` tells.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/devguide/reference-fhir-operations-validate.html
        """
        resource_type = (json.loads(resource) if isinstance(resource, str) else resource)["resourceType"]
        interaction = f"validate {resource_type}"
        path = resource_path(resource_type, None, "$validate")
        query = encode_query({"profile": profile, "mode": mode})
        reply = self.endpoint.send(interaction, "POST", path, query=query, body=resource)
        return _resource(reply.require(interaction, HTTPStatus.OK), interaction)

    def _original(self, reply: FhirReply, resource_type: str) -> dict[str, Any] | None:
        """Find the resource that an idempotency key has already made: AWS documents it as body, and sends its place."""
        if isinstance(reply.body, dict) and reply.body.get("resourceType") == resource_type:
            return reply.body
        place = re.search(
            rf"\b{resource_type}/({RESOURCE_ID.pattern})(?:/_history/|$)", reply.headers.get("Location", "")
        )
        return self.read(resource_type, place.group(1)) if place else None

    def _await_transaction(self, reply: FhirReply, interaction: str, delay: float, until: float) -> FhirReply:
        place = TRANSACTION.search(reply.headers.get("Content-Location", ""))
        if place is None:
            raise IncompleteReplyError(f"{interaction}: the reply does not say where its result will be.")
        while reply.status == HTTPStatus.ACCEPTED:
            if time.monotonic() >= until:
                raise FhirUnavailableError(interaction, reply.status, reason="not done in time")
            time.sleep(delay)
            reply = self.endpoint.send(interaction, "GET", place.group())
        return reply


def _resource(reply: FhirReply, interaction: str) -> dict[str, Any]:
    if not isinstance(reply.body, dict):
        raise IncompleteReplyError(f"{interaction}: the reply holds no resource.")
    return reply.body


def _is_found(entry: Mapping[str, Any]) -> bool:
    return "resource" in entry and entry.get("search", {}).get("mode") != "outcome"


def _is_repeatable(entry: Mapping[str, Any]) -> bool:
    request = entry.get("request", {})
    return request.get("method") in {"GET", "PUT", "DELETE"} and "ifMatch" not in request
