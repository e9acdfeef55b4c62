"""A data store's resources for a reconciliation: listed by FHIR search, and read by their ids where they differ."""

from __future__ import annotations

import json
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from decimal import Decimal
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.exceptions import ConnectionError as BrokenConnection
from botocore.exceptions import HTTPClientError

from airlock.clinical.store_search import StoreSearch, StoreSearchError

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType
    from typing import Self

    import polars as pl

    from airlock.stages.reconcile_meter import Meter

AT_A_TIME = 8  # resources that are read at the same time


class BusyError(RuntimeError):
    """HealthLake refuses a request for now, or does not answer."""


@dataclass(frozen=True)
class ResourceStore(StoreSearch):
    """One data store's resources; a `StoreSearch` that also reads, at a rate."""

    meter: Meter

    def _send(self, resource_type: str, query: list[tuple[str, str]]) -> tuple[int, dict[str, Any]]:
        self.meter.wait("SearchWithGet")
        return super()._send(resource_type, query)

    def read(self, resource_type: str, resource_id: str) -> dict[str, Any] | None:
        """Return a resource; None if there is none. Decimals are ``decimal.Decimal``, which keeps their digits."""
        return self.meter.ask("ReadResource", lambda: self._read(f"{resource_type}/{resource_id}"), _is_busy)

    def read_all(self, names: Iterable[str]) -> dict[str, dict[str, Any] | None]:
        """Return these resources (``Type/id``), several at a time."""
        asked = list(dict.fromkeys(names))
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return dict(zip(asked, pool.map(lambda name: self.read(*name.split("/", 1)), asked), strict=True))

    def _read(self, name: str) -> dict[str, Any] | None:
        request = AWSRequest("GET", f"{self.url}{name}", headers={"Accept": "application/fhir+json"})
        SigV4Auth(self.credentials.get_frozen_credentials(), "healthlake", self.region).add_auth(request)
        try:
            reply = self._session.send(request.prepare())
        except (BrokenConnection, HTTPClientError) as error:
            raise BusyError(type(error).__name__) from None
        if reply.status_code in {HTTPStatus.NOT_FOUND, HTTPStatus.GONE}:
            return None
        if reply.status_code == HTTPStatus.TOO_MANY_REQUESTS or reply.status_code >= HTTPStatus.INTERNAL_SERVER_ERROR:
            raise BusyError(f"HTTP {reply.status_code}")
        if reply.status_code != HTTPStatus.OK:
            raise StoreSearchError(
                f"A resource cannot be read (HTTP {reply.status_code}). Check the credentials and the right "
                f"healthlake:ReadResource, and repeat the command: it goes on where it was."
            )
        found: dict[str, Any] = json.loads(reply.content, parse_float=Decimal)
        return found


def _is_busy(error: Exception) -> bool:
    return isinstance(error, BusyError)


class ListedResources:
    """The names of a whole data store's resources, on the local disk. A context manager: it is deleted at its end."""

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="airlock-")
        self._connection = sqlite3.connect(Path(self._folder.name) / "listed.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("CREATE TABLE listed (name TEXT PRIMARY KEY) WITHOUT ROWID")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._folder.cleanup()

    def add(self, names: pl.Series) -> None:
        """Add names, as ``Type/id``."""
        self._connection.execute("BEGIN")
        self._connection.executemany("INSERT OR IGNORE INTO listed VALUES (?)", ((name,) for name in names))
        self._connection.execute("COMMIT")

    def find(self, names: Iterable[str]) -> set[str]:
        """Return those of the names that were listed."""
        query = "SELECT name FROM listed WHERE name IN (SELECT value FROM json_each(?))"
        return {name for (name,) in self._connection.execute(query, (json.dumps(list(names)),))}

    def after(self, name: str, limit: int) -> list[str]:
        """Return the next names after one, in order."""
        query = "SELECT name FROM listed WHERE name > ? ORDER BY name LIMIT ?"
        return [found for (found,) in self._connection.execute(query, (name, limit))]
