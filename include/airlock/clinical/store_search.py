"""The FHIR search of a HealthLake data store, without Airflow: for commands that read what a store holds."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionError as BrokenConnection
from botocore.exceptions import HTTPClientError
from botocore.httpsession import URLLib3Session

from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from botocore.credentials import Credentials

TRIES = 8
_LONGEST_PAUSE = 30.0  # seconds
_OK, _TOO_MANY, _SERVER_ERROR = 200, 429, 500


class StoreSearchError(RuntimeError):
    """A data store refuses a search or does not answer; the text has no identifiers."""


@dataclass(frozen=True)
class StoreSearch:
    """The FHIR search of one data store, signed as boto3 would sign.

    Parameters
    ----------
    url
        The base, as DescribeFHIRDatastore returns it.
    credentials
        Read again for each request, because they may expire.
    region
        The region of the data store.
    """

    url: str
    credentials: Credentials
    region: str

    def search(self, resource_type: str, params: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the resources that are found, page after page."""
        query: list[tuple[str, str]] = [(name, str(value)) for name, value in params.items()]
        while True:
            page = self._get(resource_type, query)
            yield from (entry["resource"] for entry in page.get("entry", ()))
            following = [link["url"] for link in page.get("link", ()) if link["relation"] == "next"]
            if not following:
                return
            # The links hold a token that ends in a raw "==", which must be encoded before it is signed.
            before = query
            query = parse_qsl(urlsplit(following[0]).query.replace("+", "%2B"), keep_blank_values=True)
            if query == before:
                raise StoreSearchError(f"A search for {resource_type} returned a page a second time.")

    def count(self, resource_type: str) -> int:
        """Return how many resources of a type a search finds."""
        return int(self._get(resource_type, [("_count", "1"), ("_total", "accurate")])["total"])

    @cached_property
    def _session(self) -> URLLib3Session:
        return URLLib3Session()

    def _get(self, resource_type: str, query: list[tuple[str, str]]) -> dict[str, Any]:
        """Return the Bundle of an answer; a refusal or a broken connection is tried again."""
        reason = ""
        for attempt in range(TRIES):
            try:
                status, body = self._send(resource_type, query)
            except (BrokenConnection, HTTPClientError, ValueError) as error:
                reason = error_code(error)
            else:
                if status == _OK:
                    return body
                reason = f"HTTP {status}"
                if status != _TOO_MANY and status < _SERVER_ERROR:
                    break
            time.sleep(min(_LONGEST_PAUSE, 0.25 * 2.0**attempt))
        raise StoreSearchError(
            f"A search for {resource_type} in the data store failed ({reason}). Check the credentials and the right "
            f"healthlake:SearchWithGet, and repeat the command: it goes on where it was."
        )

    def _send(self, resource_type: str, query: list[tuple[str, str]]) -> tuple[int, dict[str, Any]]:
        encoded = urlencode(query, quote_via=quote, safe="")
        request = AWSRequest("GET", f"{self.url}{resource_type}?{encoded}", {"Accept": "application/fhir+json"})
        SigV4Auth(self.credentials.get_frozen_credentials(), "healthlake", self.region).add_auth(request)
        reply = self._session.send(request.prepare())
        return reply.status_code, json.loads(reply.content) if reply.status_code == _OK else {}
