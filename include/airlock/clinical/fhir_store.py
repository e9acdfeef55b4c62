"""A HealthLake data store without Airflow, for commands: FHIR search, read and $validate."""

from __future__ import annotations

import json
import os
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionError as BrokenConnection
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session
from botocore.session import Session
from botocore.utils import get_environ_proxies

from airlock.storage.aws import error_code
from airlock.storage.requests import RequestMeter

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from botocore.credentials import Credentials

AT_A_TIME = 8  # resources that are read at the same time
# As botocore's clients do. Without it the system keeps a request's body back until its head is confirmed: 40 ms.
AT_ONCE = [(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)]
PAUSES = (0.5, 1, 2, 4, 8, 16, 30)  # seconds before a request is repeated
_FHIR_JSON, _FORM = "application/fhir+json", "application/x-www-form-urlencoded"
_VALIDATE = "ValidateResource"
_CHECKS = {
    "ProxyConnectionError": "the proxy in HTTPS_PROXY",
    "SSLError": "the certificate authority in AWS_CA_BUNDLE",
}


@dataclass(frozen=True)
class _Answer:
    """An answer, or why there is none."""

    reason: str
    status: int | None = None
    body: dict[str, Any] | None = None

    @property
    def is_busy(self) -> bool:
        """Whether to ask again."""
        status = self.status
        return status is None or status == HTTPStatus.TOO_MANY_REQUESTS or status >= HTTPStatus.INTERNAL_SERVER_ERROR


class FhirStoreError(RuntimeError):
    """A data store refuses a request or does not answer; the text has no identifiers.

    Attributes
    ----------
    status
        The HTTP status; None without an answer.
    """

    def __init__(self, text: str, status: int | None = None) -> None:
        super().__init__(text)
        self.status = status


@dataclass(frozen=True)
class FhirStore:
    """The FHIR interface of one data store: signed as boto3 would sign, with its proxies and certificate authorities.

    Parameters
    ----------
    url
        The base, as DescribeFHIRDatastore returns it.
    credentials
        Read again for each request, because they may expire.
    region
        The region of the data store.
    meter
        Counts and paces the requests.
    pause
        How to wait for some seconds.
    """

    url: str
    credentials: Credentials
    region: str
    meter: RequestMeter = field(default_factory=RequestMeter)
    pause: Callable[[float], None] = time.sleep

    def search(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the resources that are found, page after page.

        The parameters are in the body: an identifier in an address would be in the logs of proxies and of CloudTrail.
        """
        query: list[tuple[str, str]] = [(name, str(value)) for name, value in params.items()]
        while True:
            page = self._search(resource_type, query)
            yield from (entry["resource"] for entry in page.get("entry", ()))
            following = [link["url"] for link in page.get("link", ()) if link["relation"] == "next"]
            if not following:
                return
            # The links hold a token that ends in a raw "=="; a "+" in the token does not mean a space.
            before = query
            query = parse_qsl(urlsplit(following[0]).query.replace("+", "%2B"), keep_blank_values=True)
            if query == before:
                raise FhirStoreError(f"A search for {resource_type} returned a page a second time.")

    def count(self, resource_type: str) -> int:
        """Return how many resources of a type a search finds."""
        return int(self._search(resource_type, [("_count", "1"), ("_total", "accurate")])["total"])

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return a resource; None if there is none. Decimals are ``decimal.Decimal``, which keeps their digits."""
        gone = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.GONE})
        return self._ask("ReadResource", resource_type, f"{resource_type}/{resource_id}", gone=gone)

    def read_all(self, names: Iterable[str]) -> dict[str, dict[str, Any] | None]:
        """Return these resources (``Type/id``), several at a time."""
        asked = list(dict.fromkeys(names))
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return dict(zip(asked, pool.map(lambda name: self.read(*name.split("/", 1)), asked), strict=True))

    def validate(self, resource: str, profile: str | None = None) -> dict[str, Any]:
        """Return $validate's OperationOutcome on a resource's text, which is sent as it is; nothing is stored.

        Raises
        ------
        FhirStoreError
            With the ``status`` of a refusal.
        """
        kind = json.loads(resource)["resourceType"]
        query = f"?{urlencode({'profile': profile}, quote_via=quote, safe='')}" if profile else ""
        return self._ask(_VALIDATE, kind, f"{kind}/$validate{query}", body=resource.encode()) or {}

    def _search(self, resource_type: str, query: list[tuple[str, str]]) -> dict[str, Any]:
        form = urlencode(query, quote_via=quote, safe="").encode()
        path = f"{resource_type}/_search"
        return self._ask("SearchWithPost", resource_type, path, body=form, media_type=_FORM) or {}

    @cached_property
    def _session(self) -> URLLib3Session:
        return URLLib3Session(
            verify=_find_ca_bundle() or True,
            proxies=get_environ_proxies(self.url),
            timeout=60,
            max_pool_connections=AT_A_TIME,
            socket_options=AT_ONCE,
        )

    def _ask(
        self,
        operation: str,
        resource_type: str,
        path: str,
        *,
        gone: frozenset[int] = frozenset(),
        body: bytes | None = None,
        media_type: str = _FHIR_JSON,
    ) -> dict[str, Any] | None:
        """Return the answer to a request, which is repeated for a minute; None for one of the statuses *gone*."""
        answer = self._try(operation, path, body, media_type)
        for seconds in PAUSES:
            if not answer.is_busy:
                break
            self.pause(seconds)
            answer = self._try(operation, path, body, media_type)
        if answer.status in gone:
            return None
        if answer.status == HTTPStatus.OK:
            return answer.body
        check = _CHECKS.get(answer.reason, f"the credentials and the right healthlake:{operation}")
        raise FhirStoreError(
            f"{operation} of {resource_type} failed ({answer.reason}). Check {check}, and repeat the command"
            f"{'.' if operation == _VALIDATE else ': it goes on where it was.'}",
            answer.status,
        )

    def _try(self, operation: str, path: str, body: bytes | None, media_type: str) -> _Answer:
        self.meter.count(operation)
        headers = {"Accept": _FHIR_JSON} | ({} if body is None else {"Content-Type": media_type})
        request = AWSRequest("GET" if body is None else "POST", f"{self.url}{path}", headers, body)
        SigV4Auth(self.credentials.get_frozen_credentials(), "healthlake", self.region).add_auth(request)
        try:
            reply = self._session.send(request.prepare())
            is_found = reply.status_code == HTTPStatus.OK
            content = json.loads(reply.content, parse_float=Decimal) if is_found else None
        except (BrokenConnection, HTTPClientError, ValueError) as error:
            return _Answer(error_code(error))
        return _Answer(f"HTTP {reply.status_code}", reply.status_code, content)


def _find_ca_bundle() -> str | None:
    """Return the file of certificate authorities that boto3 would use; None for its own."""
    named: str | None = Session().get_config_variable("ca_bundle")  # AWS_CA_BUNDLE, or of the profile
    return named or os.environ.get("REQUESTS_CA_BUNDLE")
