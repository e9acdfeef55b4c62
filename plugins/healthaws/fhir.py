"""Signed requests to the FHIR interface of a data store."""

from __future__ import annotations

import os
import re
import socket
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlencode, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionError as BrokenConnection
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.utils import get_environ_proxies

from healthaws.exceptions import FhirConflictError, FhirRejectedError, FhirUnavailableError
from healthaws.fhir_json import dump, load
from healthaws.outcomes import issues_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from botocore.config import Config
    from botocore.credentials import Credentials

    from healthaws.refusals import Backoff

SERVICE = "healthlake"
MEDIA_TYPE = "application/fhir+json"
FORM = "application/x-www-form-urlencoded"
RESOURCE_TYPE = re.compile(r"[A-Z][A-Za-z]{1,63}")
# https://hl7.org/fhir/R4/datatypes.html#id, without what a URL takes for this folder and the one above
RESOURCE_ID = re.compile(r"(?!\.{1,2}$)[A-Za-z0-9.-]{1,64}")
# As botocore's clients do. Without it the system keeps a request's body back until its head is confirmed: 40 ms.
AT_ONCE = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
TOO_MANY_REQUESTS = 429
SERVER_ERROR = 500
CONFLICTS = frozenset({409, 412})


@dataclass(frozen=True)
class FhirReply:
    """
    An answer with any status.

    Attributes
    ----------
    status : int
        The HTTP status.
    headers : Mapping
        The headers; their names are case-insensitive.
    body : Any
        The parsed JSON, decimals as :class:`decimal.Decimal`; None if there is none.
    """

    status: int
    headers: Mapping[str, str]
    body: Any

    def require(self, interaction: str, *statuses: int) -> FhirReply:
        """
        Return this answer if it has one of the statuses.

        Parameters
        ----------
        interaction : str
            The name of the request for messages, without anything that may identify a patient.
        *statuses : int
            The statuses that are accepted.

        Raises
        ------
        FhirConflictError
            For HTTP 409 and 412.
        FhirRejectedError
            For any other status.
        """
        if self.status in statuses:
            return self
        kind = FhirConflictError if self.status in CONFLICTS else FhirRejectedError
        raise kind(interaction, self.status, issues_of(self.body))


class FhirEndpoint:
    """
    The FHIR interface of one data store, over botocore's HTTP session, signed as boto3 would sign.

    Throttled requests are repeated. A request that fails with 5xx or a broken connection may have been carried out, and
    is repeated only if that does no harm.

    Parameters
    ----------
    url : str
        The base, as DescribeFHIRDatastore returns it.
    credentials : botocore.credentials.Credentials
        The credentials to sign with; read again for each request, because they may expire.
    region : str
        The region of the data store.
    config : botocore.config.Config
        Timeouts, proxies and pool size of the client.
    verify : bool or str, optional
        Whether to verify SSL certificates, or the path of a CA bundle.
    max_attempts : int
        The most times that a request is sent.
    backoff : Backoff
        Pauses between the attempts.
    """

    def __init__(
        self,
        url: str,
        credentials: Credentials,
        region: str,
        *,
        config: Config,
        verify: bool | str | None,
        max_attempts: int,
        backoff: Backoff,
    ) -> None:
        self.url = url
        self._credentials = credentials
        self._region = region
        self._max_attempts = max_attempts
        self._backoff = backoff
        if verify is None:
            verify = os.environ.get("AWS_CA_BUNDLE") or os.environ.get("REQUESTS_CA_BUNDLE") or True
        self._session = URLLib3Session(
            verify=verify,
            proxies=config.proxies or get_environ_proxies(url),
            proxies_config=config.proxies_config,
            timeout=(config.connect_timeout, config.read_timeout),
            max_pool_connections=config.max_pool_connections,
            socket_options=AT_ONCE,
        )

    def send(
        self,
        interaction: str,
        method: str,
        path: str = "",
        *,
        query: str = "",
        body: Mapping[str, Any] | str | None = None,
        headers: Mapping[str, str | None] | None = None,
        repeatable: bool = True,
    ) -> FhirReply:
        """
        Send a request, and repeat it after a refusal or failure.

        Parameters
        ----------
        interaction : str
            The name of the request for messages, without anything that may identify a patient.
        method : str
            The HTTP method.
        path : str
            The path below the base, from :func:`resource_path`.
        query : str
            The query, from :func:`encode_query`.
        body : Mapping or str, optional
            Sent as JSON, a text as it is.
        headers : Mapping, optional
            Further headers, or another ``Content-Type``; those without a value are left out.
        repeatable : bool
            Whether a request that may have been carried out may be sent again. (default: True)

        Returns
        -------
        FhirReply
            The answer, which may be an error of the caller's (4xx).

        Raises
        ------
        FhirUnavailableError
            If every attempt was refused, failed with a server error or got no answer.
        """
        attempt = 0
        while True:
            attempt += 1
            answer = self._try(interaction, self._signed(method, path, query, body, headers or {}))
            if isinstance(answer, FhirReply):
                return answer
            if attempt >= self._max_attempts or not (repeatable or answer.status == TOO_MANY_REQUESTS):
                raise answer
            time.sleep(self._backoff.delay(attempt))

    def _signed(
        self,
        method: str,
        path: str,
        query: str,
        body: Mapping[str, Any] | str | None,
        headers: Mapping[str, str | None],
    ) -> AWSRequest:
        request = AWSRequest(
            method=method,
            url=f"{self.url}{path}{'?' if query else ''}{query}",
            data=None if body is None else _text(body).encode(),
            headers={**_media_types(body), **{name: value for name, value in headers.items() if value}},
        )
        SigV4Auth(self._credentials.get_frozen_credentials(), SERVICE, self._region).add_auth(request)
        return request.prepare()

    def _try(self, interaction: str, request: AWSRequest) -> FhirReply | FhirUnavailableError:
        try:
            response = self._session.send(request)
            body = load(response.content) if response.content and _is_json(response.headers) else None
        except (BrokenConnection, HTTPClientError) as error:
            # The error's text has the address, which may identify a patient.
            return FhirUnavailableError(interaction, reason=type(error).__name__)
        except ValueError:
            return FhirUnavailableError(interaction, reason="the reply broke off")
        if response.status_code == TOO_MANY_REQUESTS or response.status_code >= SERVER_ERROR:
            return FhirUnavailableError(interaction, response.status_code, issues_of(body))
        return FhirReply(response.status_code, response.headers, body)


def resource_path(resource_type: str, resource_id: str | None = None, *more: str) -> str:
    """
    Return the path of a resource below the base.

    Parameters
    ----------
    resource_type : str
        As in ``Patient``.
    resource_id : str, optional
        Its id.
    *more : str
        Further parts, which are sent as they are.

    Raises
    ------
    ValueError
        If the type or the id is not valid; the message does not repeat the id.
    """
    if not RESOURCE_TYPE.fullmatch(resource_type):
        raise ValueError(f"{resource_type!r} is not a resource type of FHIR, such as Patient.")
    if resource_id is not None and not RESOURCE_ID.fullmatch(resource_id):
        raise ValueError(f"The id of the {resource_type} is not valid in FHIR: 1 to 64 letters, digits, '-' and '.'.")
    return "/".join(part for part in (resource_type, resource_id, *more) if part)


def encode_query(params: Mapping[str, Any] | Iterable[tuple[str, Any]]) -> str:
    """
    Return search parameters as a query or form, percent-encoded as a signature needs them: all but unreserved ones.

    Parameters
    ----------
    params : Mapping or Iterable
        Names and values. A sequence as value repeats the name, which means "and". A value of None is left out.
    """
    pairs = params.items() if hasattr(params, "items") else params
    return urlencode(
        [(name, value) for name, value in pairs if value is not None], doseq=True, quote_via=quote, safe=""
    )


def query_of_link(url: str) -> str:
    """
    Return the search parameters of a Bundle's link, encoded as by :func:`encode_query`.

    HealthLake's ``next`` links hold a token that ends in a raw ``==``.

    Parameters
    ----------
    url : str
        The link.
    """
    pairs = (pair.partition("=") for pair in urlsplit(url).query.split("&") if pair)
    # unquote, not unquote_plus: a raw "+" is the token's own, as its raw "=" is.
    return encode_query([(unquote(name), unquote(value)) for name, _, value in pairs])


def _is_json(headers: Mapping[str, str]) -> bool:
    return "json" in headers.get("Content-Type", "")


def _media_types(body: Mapping[str, Any] | str | None) -> dict[str, str]:
    return {"Accept": MEDIA_TYPE} | ({} if body is None else {"Content-Type": MEDIA_TYPE})


def _text(body: Mapping[str, Any] | str) -> str:
    return body if isinstance(body, str) else dump(body)
