"""A data store's image sets for a reconciliation: listed by SearchImageSets, and read one by one where they differ.

A search may lag behind the store, so it proves nothing by itself: each difference is confirmed by GetImageSet. It is
preferred to GetImageSetMetadata, which moves an image set back to the tier of frequent access for 30 days
(HealthImaging developer guide, "Cost optimization").
"""

from __future__ import annotations

import gzip
import json
import sqlite3
import tempfile
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import polars as pl
from botocore.exceptions import BotoCoreError, ClientError

from airlock.records import TIMESTAMP, schema
from airlock.stages.reconcile import ReconcileError
from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from types import TracebackType
    from typing import Self

    from airlock.stages.reconcile_meter import Meter

PAGE = 50  # image sets in an answer of SearchImageSets
AT_A_TIME = 8  # image sets that are asked at the same time
LISTED = schema(
    {
        "image_set_id": pl.String,
        "StudyInstanceUID": pl.String,  # "" where the service does not say it
        "version": pl.Int64,
        "is_primary": pl.Boolean,
    },
    {"created_at": TIMESTAMP},
)
_NOT_FOUND = "ResourceNotFoundException"
_BUSY = frozenset({"ThrottlingException", "InternalServerException", "ServiceUnavailable", "429", "500", "503"})
_DENIED = frozenset({"AccessDeniedException", "UnrecognizedClientException", "ExpiredTokenException"})
_CREATE = (
    "CREATE TABLE listed (image_set_id TEXT PRIMARY KEY, study TEXT NOT NULL, version INTEGER, is_primary INTEGER)",
    "CREATE INDEX listed_by_study ON listed (study)",
)


class ImagingClient(Protocol):
    """A boto3 ``medical-imaging`` client, as far as it is needed."""

    def get_datastore(self, **asked: Any) -> dict[str, Any]:
        """Return a data store's properties."""

    def search_image_sets(self, **asked: Any) -> dict[str, Any]:
        """Return a page of image sets."""

    def get_image_set(self, **asked: Any) -> dict[str, Any]:
        """Return an image set's properties."""

    def get_image_set_metadata(self, **asked: Any) -> dict[str, Any]:
        """Return an image set's metadata document."""


@dataclass(frozen=True)
class Seen:
    """An image set as GetImageSet describes it."""

    state: str  # ACTIVE or LOCKED
    version: int
    is_primary: bool | None


class ImageSetStore:
    """One data store's image sets.

    Parameters
    ----------
    client
        Its errors must be those of the first try: the meter repeats requests.
    datastore_id
        The data store.
    meter
        Counts and paces the requests.
    """

    def __init__(self, client: ImagingClient, datastore_id: str, meter: Meter) -> None:
        self.datastore_id = datastore_id
        self.meter = meter
        self._client = client

    def check(self) -> None:
        """Refuse a data store that does not exist, is not ACTIVE, or may not be read.

        Raises
        ------
        ReconcileError
            With the remedy.
        """
        try:
            reply = self._ask("GetDatastore", self._client.get_datastore)
        except ClientError as error:
            raise self._explain(error) from None
        status = reply["datastoreProperties"]["datastoreStatus"]
        if status != "ACTIVE":
            raise ReconcileError(f"The data store {self.datastore_id} is {status}. Reconcile it when it is ACTIVE.")

    def _explain(self, error: ClientError) -> ReconcileError:
        code = error_code(error)
        if code == _NOT_FOUND:
            return ReconcileError(
                f"There is no data store {self.datastore_id}. Correct healthimaging.datastore_id of the pipeline, or "
                f"the region (AWS_REGION)."
            )
        return ReconcileError(
            f"The data store {self.datastore_id} cannot be read ({code}). Give the role the rights in "
            f"iam/reconcile-policy.json."
        )

    def list_all(self, since: datetime | None) -> Iterator[pl.DataFrame]:
        """Yield all image sets by the time of their creation, page by page, as `LISTED`.

        Parameters
        ----------
        since
            Only those created at or after this time.
        """
        start = datetime(2020, 1, 1, tzinfo=UTC) if since is None else since - timedelta(seconds=1)  # it may be rounded
        created = {
            "operator": "BETWEEN",
            "values": [{"createdAt": start}, {"createdAt": datetime.now(UTC) + timedelta(days=1)}],
        }
        yield from self._search({"filters": [created], "sort": {"sortField": "createdAt", "sortOrder": "ASC"}})

    def list_studies(self, uids: Sequence[str]) -> pl.DataFrame:
        """Return the image sets of these studies, as `LISTED`."""
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return pl.concat([LISTED.to_frame(), *pool.map(self._list_study, uids)])

    def _list_study(self, uid: str) -> pl.DataFrame:
        named = {"operator": "EQUAL", "values": [{"DICOMStudyInstanceUID": uid}]}
        return pl.concat([LISTED.to_frame(), *self._search({"filters": [named]})])

    def _search(self, criteria: dict[str, Any]) -> Iterator[pl.DataFrame]:
        asked: dict[str, Any] = {"searchCriteria": criteria, "maxResults": PAGE}
        while True:
            reply = self._ask("SearchImageSets", self._client.search_image_sets, **asked)
            yield pl.DataFrame([_read_summary(item) for item in reply["imageSetsMetadataSummaries"]], LISTED)
            if not reply.get("nextToken"):
                return
            asked["nextToken"] = reply["nextToken"]

    def look_up(self, image_sets: Iterable[str]) -> dict[str, Seen | None]:
        """Return these image sets by GetImageSet; None for those that are gone."""
        names = list(dict.fromkeys(image_sets))
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return dict(zip(names, pool.map(self._look_up, names), strict=True))

    def _look_up(self, image_set_id: str) -> Seen | None:
        try:
            reply = self._ask("GetImageSet", self._client.get_image_set, imageSetId=image_set_id)
        except ClientError as error:
            if error_code(error) != _NOT_FOUND:
                raise
            return None
        if reply["imageSetState"] == "DELETED":
            return None
        return Seen(reply["imageSetState"], int(reply["versionId"]), reply.get("isPrimary"))

    def read(self, image_sets: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the metadata documents of these image sets; empty for one that is gone."""
        names = list(dict.fromkeys(image_sets))
        with ThreadPoolExecutor(AT_A_TIME) as pool:
            return dict(zip(names, pool.map(self._read, names), strict=True))

    def _read(self, image_set_id: str) -> dict[str, Any]:
        try:
            reply = self._ask("GetImageSetMetadata", self._client.get_image_set_metadata, imageSetId=image_set_id)
        except ClientError as error:
            if error_code(error) != _NOT_FOUND:
                raise
            return {}
        body = reply["imageSetMetadataBlob"].read()
        document: dict[str, Any] = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        return document

    def _ask(self, operation: str, call: Any, **asked: Any) -> Any:
        return self.meter.ask(operation, lambda: call(datastoreId=self.datastore_id, **asked), _is_busy)


def _is_busy(error: Exception) -> bool:
    """Return whether a later try may succeed; the service does not answer, or refuses."""
    return isinstance(error, BotoCoreError) or (isinstance(error, ClientError) and error_code(error) in _BUSY)


def _read_summary(item: dict[str, Any]) -> dict[str, Any]:
    return {
        "image_set_id": item["imageSetId"],
        "StudyInstanceUID": item.get("DICOMTags", {}).get("DICOMStudyInstanceUID", ""),
        "version": item.get("version"),
        "is_primary": item.get("isPrimary"),
        "created_at": item.get("createdAt"),
    }


class Listing:
    """The listed image sets of a whole data store, by study, on the local disk. A context manager.

    The file is deleted at the end: it has the UIDs of all studies.
    """

    def __init__(self) -> None:
        self._folder = tempfile.TemporaryDirectory(prefix="airlock-")
        self._connection = sqlite3.connect(Path(self._folder.name) / "listed.db", isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        for statement in _CREATE:
            self._connection.execute(statement)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()
        self._folder.cleanup()

    def add(self, rows: pl.DataFrame) -> None:
        """Add rows of `LISTED`; an image set that was listed twice counts as the later row says."""
        self._connection.execute("BEGIN")
        self._connection.executemany(
            "INSERT OR REPLACE INTO listed VALUES (?, ?, ?, ?)", rows.drop("created_at").iter_rows()
        )
        self._connection.execute("COMMIT")

    def count(self) -> int:
        """Return the number of image sets."""
        (number,) = self._connection.execute("SELECT count(*) FROM listed").fetchone()
        return int(number)

    def find_studies(self, uids: Sequence[str]) -> pl.DataFrame:
        """Return the image sets of these studies, as `LISTED`."""
        return self._find("study", uids)

    def find_sets(self, image_sets: Sequence[str]) -> pl.DataFrame:
        """Return those of these image sets that were listed, as `LISTED`."""
        return self._find("image_set_id", image_sets)

    def studies(self, after: str, limit: int) -> list[str]:
        """Return the next StudyInstanceUIDs after one, in order."""
        query = "SELECT DISTINCT study FROM listed WHERE study > ? ORDER BY study LIMIT ?"
        return [uid for (uid,) in self._connection.execute(query, (after, limit))]

    def _find(self, column: str, values: Sequence[str]) -> pl.DataFrame:
        query = f"SELECT * FROM listed WHERE {column} IN (SELECT value FROM json_each(?))"  # noqa: S608 - our own names
        with closing(self._connection.execute(query, (json.dumps(list(values)),))) as found:
            rows = [
                (name, study, version, None if primary is None else bool(primary), None)
                for name, study, version, primary in found
            ]
        return pl.DataFrame(rows, LISTED, orient="row")
