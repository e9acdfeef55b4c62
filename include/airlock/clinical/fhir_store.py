"""A HealthLake data store without Airflow, for commands that read what it holds: FHIR search and read."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cached_property
from http import HTTPStatus
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.httpsession import get_cert_path
from urllib3 import PoolManager, Retry
from urllib3.exceptions import HTTPError

from airlock.storage.aws import error_code
from airlock.storage.requests import RequestMeter

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from botocore.credentials import Credentials

AT_A_TIME = 8  # resources that are read at the same time
# A minute in all: a signature is valid for five.
RETRIES = Retry(
    7,
    backoff_factor=0.5,
    backoff_max=30,
    status_forcelist=(HTTPStatus.TOO_MANY_REQUESTS, *range(HTTPStatus.INTERNAL_SERVER_ERROR, 600)),
    raise_on_status=False,
)


class FhirStoreError(RuntimeError):
    """A data store refuses a request or does not answer; the text has no identifiers."""


@dataclass(frozen=True)
class FhirStore:
    """The FHIR interface of one data store, signed as boto3 would sign.

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
    """

    url: str
    credentials: Credentials
    region: str
    meter: RequestMeter = field(default_factory=RequestMeter)

    def search(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the resources that are found, page after page."""
        query: list[tuple[str, str]] = [(name, str(value)) for name, value in params.items()]
        while True:
            page = self._search(resource_type, query)
            yield from (entry["resource"] for entry in page.get("entry", ()))
            following = [link["url"] for link in page.get("link", ()) if link["relation"] == "next"]
            if not following:
                return
            # The links hold a token that ends in a raw "==", which must be encoded before it is signed.
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
        return self._get("ReadResource", resource_type, f"{resource_type}/{resource_id}", gone)

    def read_all(self, names: Iterable[str]) -> dict[str, dict[str, Any] | None]:
        """Return these resources (``Type/id``), several at a time."""
        asked = list(dict.fromkeys(names))
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return dict(zip(asked, pool.map(lambda name: self.read(*name.split("/", 1)), asked), strict=True))

    def _search(self, resource_type: str, query: list[tuple[str, str]]) -> dict[str, Any]:
        path = f"{resource_type}?{urlencode(query, quote_via=quote, safe='')}"
        return self._get("SearchWithGet", resource_type, path) or {}

    @cached_property
    def _pool(self) -> PoolManager:
        return PoolManager(maxsize=AT_A_TIME, retries=RETRIES, timeout=60, ca_certs=get_cert_path(verify=True))

    def _get(
        self, operation: str, resource_type: str, path: str, gone: frozenset[int] = frozenset()
    ) -> dict[str, Any] | None:
        """Return the answer to a request; None for one of the statuses *gone*."""
        self.meter.count(operation)
        request = AWSRequest("GET", f"{self.url}{path}", {"Accept": "application/fhir+json"})
        SigV4Auth(self.credentials.get_frozen_credentials(), "healthlake", self.region).add_auth(request)
        signed = request.prepare()
        try:
            reply = self._pool.request("GET", signed.url, headers=dict(signed.headers.items()), redirect=False)
            for _ in reply.retries.history if reply.retries else ():
                self.meter.count(operation)
            if reply.status in gone:
                return None
            if reply.status == HTTPStatus.OK:
                found: dict[str, Any] = json.loads(reply.data, parse_float=Decimal)
                return found
            reason = f"HTTP {reply.status}"
        except (HTTPError, ValueError) as error:
            reason = error_code(error)
        raise FhirStoreError(
            f"{operation} of {resource_type} failed ({reason}). Check the credentials and the right "
            f"healthlake:{operation}, and repeat the command: it goes on where it was."
        )
