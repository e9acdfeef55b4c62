"""A data store's image sets for a reconciliation: listed by SearchImageSets, and read one by one where they differ.

A search may lag behind the store, so it proves nothing by itself: each difference is confirmed by GetImageSet. It is
preferred to GetImageSetMetadata, which moves an image set back to the tier of frequent access for 30 days
(HealthImaging developer guide, "Cost optimization").
"""

from __future__ import annotations

import gzip
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl
from botocore.exceptions import ClientError

from airlock.imaging.adopt import ImageSets
from airlock.ledger.columns import InstanceState
from airlock.stages.reconcile_scope import ReconcileError
from airlock.storage.aws import error_code

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.storage.requests import RequestMeter

AT_A_TIME = 8  # image sets or studies that are asked at the same time
LISTED = pl.Schema(
    {
        "image_set_id": pl.String,
        "StudyInstanceUID": pl.String,  # "" where the service does not say it
        "version": pl.Int64,
        "is_primary": pl.Boolean,
    }
)
_NOT_FOUND = "ResourceNotFoundException"
_BUSY = frozenset({"ThrottlingException", "InternalServerException"})
ReplyT = TypeVar("ReplyT")


@dataclass(frozen=True)
class Seen:
    """An image set as GetImageSet describes it."""

    state: str  # ACTIVE or LOCKED
    version: int
    is_primary: bool | None


def state_of(seen: Seen) -> str:
    """Return the `InstanceState` of the instances in an image set."""
    return (InstanceState.NON_PRIMARY if seen.is_primary is False else InstanceState.IMPORTED).value


class ImageSetStore:
    """One data store's image sets.

    Parameters
    ----------
    client
        A boto3 client of ``medical-imaging``, which repeats requests by itself.
    datastore_id
        The data store.
    meter
        Counts and paces the client's requests.
    """

    def __init__(self, client: Any, datastore_id: str, meter: RequestMeter) -> None:
        self.datastore_id = datastore_id
        self.meter = meter
        self._client = client
        self._sets = ImageSets(client, datastore_id)
        meter.attach(client)

    def check(self) -> None:
        """Refuse a data store that does not exist, is not ACTIVE, or may not be read.

        Raises
        ------
        ReconcileError
            With the remedy.
        """
        try:
            reply = self._client.get_datastore(datastoreId=self.datastore_id)
        except ClientError as error:
            if error_code(error) in _BUSY:
                raise
            raise self._explain(error_code(error)) from None
        status = reply["datastoreProperties"]["datastoreStatus"]
        if status != "ACTIVE":
            raise ReconcileError(f"The data store {self.datastore_id} is {status}. Reconcile it when it is ACTIVE.")

    def _explain(self, code: str) -> ReconcileError:
        if code == _NOT_FOUND:
            return ReconcileError(
                f"There is no data store {self.datastore_id}. Correct healthimaging.datastore_id of the pipeline, or "
                f"the region (AWS_REGION)."
            )
        return ReconcileError(
            f"The data store {self.datastore_id} cannot be read ({code}). Give the role the rights in "
            f"iam/reconcile-policy.json."
        )

    def list_all(self, since: str | None, number: int) -> Iterator[tuple[pl.DataFrame, str]]:
        """Yield image sets by the time of their creation as `LISTED`, so many at a time, with the time of the last one.

        Parameters
        ----------
        since
            Only those created at or after this time.
        number
            Image sets in a frame.
        """
        for found in self._sets.list_created(since, number):
            yield _frame(found), found[-1]["createdAt"].isoformat()

    def list_studies(self, uids: Iterable[str]) -> pl.DataFrame:
        """Return the image sets of these studies, as `LISTED`."""
        return pl.concat([LISTED.to_frame(), *_ask_all(self._list_study, uids).values()])

    def _list_study(self, uid: str) -> pl.DataFrame:
        named = {"operator": "EQUAL", "values": [{"DICOMStudyInstanceUID": uid}]}
        replies = self._sets.search({"filters": [named]})
        return _frame([item for reply in replies for item in reply["imageSetsMetadataSummaries"]])

    def look_up(self, image_sets: Iterable[str]) -> dict[str, Seen | None]:
        """Return these image sets by GetImageSet; None for those that are gone."""
        return _ask_all(self._look_up, image_sets)

    def _look_up(self, image_set_id: str) -> Seen | None:
        reply = self._ask(self._client.get_image_set, image_set_id)
        if reply is None or reply["imageSetState"] == "DELETED":
            return None
        return Seen(reply["imageSetState"], int(reply["versionId"]), reply.get("isPrimary"))

    def read(self, image_sets: Iterable[str]) -> dict[str, dict[str, Any]]:
        """Return the metadata documents of these image sets; empty for one that is gone."""
        return _ask_all(self._read, image_sets)

    def _read(self, image_set_id: str) -> dict[str, Any]:
        reply = self._ask(self._client.get_image_set_metadata, image_set_id)
        if reply is None:
            return {}
        body = reply["imageSetMetadataBlob"].read()
        document: dict[str, Any] = json.loads(gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body)
        return document

    def _ask(self, call: Any, image_set_id: str) -> dict[str, Any] | None:
        """Return the answer about an image set; None if it is gone."""
        try:
            reply: dict[str, Any] = call(datastoreId=self.datastore_id, imageSetId=image_set_id)
        except ClientError as error:
            if error_code(error) != _NOT_FOUND:
                raise
            return None
        return reply


def _ask_all(ask: Callable[[str], ReplyT], names: Iterable[str]) -> dict[str, ReplyT]:
    """Return an answer by name, of which several are asked for at a time."""
    asked = list(dict.fromkeys(names))
    with ThreadPoolExecutor(AT_A_TIME) as pool:
        return dict(zip(asked, pool.map(ask, asked), strict=True))


def _frame(summaries: list[dict[str, Any]]) -> pl.DataFrame:
    """Return image sets of an answer of SearchImageSets, as `LISTED`."""
    rows = [
        (
            item["imageSetId"],
            item.get("DICOMTags", {}).get("DICOMStudyInstanceUID", ""),
            item.get("version"),
            item.get("isPrimary"),
        )
        for item in summaries
    ]
    return pl.DataFrame(rows, LISTED, orient="row")
