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
from botocore.session import Session

from healthaws.exceptions import FhirUnavailableError, IncompleteReplyError
from healthaws.fhir import FORM, RESOURCE_ID, FhirEndpoint, FhirReply, encode_query, query_of_link, resource_path
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

    Neither boto3 nor the amazon provider supports it. Requests go to the endpoint that DescribeFHIRDatastore returns,
    signed with the credentials of the connection; timeouts, proxies and certificate authorities are those of the
    botocore client.

    Throttled requests are repeated with growing pauses. Requests that end in 5xx or a broken connection are repeated
    too, unless the change could be made twice.

    Parameters
    ----------
    datastore_id : str
        The data store.
    *args
        Passed on, as ``**kwargs``.
    max_attempts : int
        The most times that a request is sent. (default: 6)
    backoff : Backoff
        Pauses between the attempts. (default: from half a second to 20 seconds)
    **kwargs
        Passed to :class:`airflow.providers.amazon.aws.hooks.base_aws.AwsBaseHook` (``aws_conn_id``, ``region_name``,
        ``verify``, ``config``).

    Notes
    -----
    Decimals in resources, sent or returned, are :class:`decimal.Decimal` and keep their digits.

    Messages name the interaction, the resource type, the HTTP status and the codes of the OperationOutcome. Messages
    and log hold no address, id or diagnostics: the package keeps the clients' loggers above DEBUG.
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
        """The data store's endpoint; the service is asked for it once."""
        credentials = self.get_session(region_name=self.region_name).get_credentials()
        if credentials is None:
            raise NoCredentialsError
        return FhirEndpoint(
            self.datastore_endpoint(self.datastore_id),
            credentials,
            self.conn_region_name,
            config=self.conn_client_meta.config,
            verify=self._find_ca_bundle() if self.verify is None else self.verify,
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
            A version other than the current one.

        Returns
        -------
        dict or None
            None if it never existed (404) or was deleted (410).
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
            A UUID that identifies the request: a repetition with the same key creates nothing and returns the first
            resource. (default: a new one for each call)
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
        if reply.status == HTTPStatus.CONFLICT and (original := self._find_original(reply, resource["resourceType"])):
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
            The version that must be the current one, as in ``meta.versionId``. This request is not repeated if it may
            have been carried out: the repetition would fail on the version that the first one made.
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
        Delete a resource; a missing resource is not an error.

        Parameters
        ----------
        resource_type : str
            As in ``Patient``.
        resource_id : str
            Its id, which cannot be used again.
        """
        interaction = f"delete {resource_type}"
        reply = self.endpoint.send(interaction, "DELETE", resource_path(resource_type, resource_id))
        gone = (HTTPStatus.OK, HTTPStatus.NO_CONTENT, HTTPStatus.NOT_FOUND, HTTPStatus.GONE)
        reply.require(interaction, *gone)

    def search(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """
        Search by POST, page after page: an identifier in an address would be in the logs of proxies and of CloudTrail.

        The service finds a resource only some time after it was written. To prove that a resource exists, read it.

        Parameters
        ----------
        resource_type : str
            As in ``Patient``.
        params : Mapping
            Search parameters, not yet encoded; a sequence as value repeats the name.

        Yields
        ------
        dict
            Each resource: the matches, and those that ``_include`` and ``_revinclude`` add.

        See Also
        --------
        https://docs.aws.amazon.com/healthlake/latest/devguide/searching-fhir-resources.html
        """
        interaction, path = f"search {resource_type}", resource_path(resource_type, None, "_search")
        form: str | None = encode_query(params)
        seen: set[str] = set()
        while form is not None:
            reply = self.endpoint.send(interaction, "POST", path, body=form, headers={"Content-Type": FORM})
            seen.add(form)
            page = _resource(reply.require(interaction, HTTPStatus.OK), interaction)
            yield from (entry["resource"] for entry in page.get("entry", ()) if _is_found(entry))
            links = [link["url"] for link in page.get("link", ()) if link["relation"] == "next"]
            form = query_of_link(links[0]) if links else None
            if form in seen:
                raise IncompleteReplyError(f"{interaction}: the service returned a page a second time.")

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

        A Bundle that creates a resource or depends on a version is not repeated if it may have been carried out.

        Parameters
        ----------
        bundle : Mapping
            A Bundle of type ``batch`` or ``transaction``.
        asynchronous : bool
            Whether the service may answer later; required for a transaction of more than 100 entries.
            (default: False)
        validation_level : str, optional
            ``strict``, ``structure-only`` or ``minimal``. (default: the service's, ``strict``)
        poll_delay : float
            Seconds between two polls of an asynchronous transaction. (default: 5)
        timeout : float
            How long to poll, in seconds. (default: 3600)

        Returns
        -------
        dict
            The Bundle of answers. A batch gets an answer even if all its entries failed: check each
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
        Validate a resource without storing it.

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
            The OperationOutcome. The service answers 200 for valid and invalid resources; a resource is valid if no
            issue is an error, see :func:`healthaws.outcomes.issues_of`.

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

    def _find_ca_bundle(self) -> str | None:
        """Return the file of certificate authorities that botocore's client of this hook uses; None for its own."""
        session = self.get_session(region_name=self.region_name)
        profile = session.profile_name if session.profile_name in session.available_profiles else None
        bundle: str | None = Session(profile=profile).get_config_variable("ca_bundle")  # or AWS_CA_BUNDLE
        return bundle

    def _find_original(self, reply: FhirReply, resource_type: str) -> dict[str, Any] | None:
        """Find the resource that an idempotency key has created: AWS documents it as body, but sends its Location."""
        if isinstance(reply.body, dict) and reply.body.get("resourceType") == resource_type:
            return reply.body
        location = re.search(
            rf"\b{resource_type}/({RESOURCE_ID.pattern})(?:/_history/|$)", reply.headers.get("Location", "")
        )
        return self.read(resource_type, location.group(1)) if location else None

    def _await_transaction(self, reply: FhirReply, interaction: str, delay: float, until: float) -> FhirReply:
        location = TRANSACTION.search(reply.headers.get("Content-Location", ""))
        if location is None:
            raise IncompleteReplyError(f"{interaction}: the reply does not name the address of its result.")
        while reply.status == HTTPStatus.ACCEPTED:
            if time.monotonic() >= until:
                raise FhirUnavailableError(interaction, reply.status, reason="not done in time")
            time.sleep(delay)
            reply = self.endpoint.send(interaction, "GET", location.group())
        return reply


def _resource(reply: FhirReply, interaction: str) -> dict[str, Any]:
    if not isinstance(reply.body, dict):
        raise IncompleteReplyError(f"{interaction}: the reply has no resource.")
    return reply.body


def _is_found(entry: Mapping[str, Any]) -> bool:
    return "resource" in entry and entry.get("search", {}).get("mode") != "outcome"


def _is_repeatable(entry: Mapping[str, Any]) -> bool:
    request = entry.get("request", {})
    return request.get("method") in {"GET", "PUT", "DELETE"} and "ifMatch" not in request
