"""What a HealthImaging data store holds, by SearchImageSets.

The search gives no total, and its tokens are not documented to outlive an interruption. So image sets are read in the
order of their creation: the time of the last one is the position, and an estimate counts samples of that time.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger import FOREIGN
from airlock.records import study_key
from airlock.stages.adopt import PAGE_ROWS, Estimate, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

PAGE = 50  # image sets in an answer, at most
SAMPLES = 20
_SLACK = timedelta(seconds=1)  # the service may round the times that it returns
_FIRST = datetime(2020, 1, 1, tzinfo=UTC)  # before HealthImaging


class ImageSetSearchError(RuntimeError):
    """SearchImageSets answers otherwise than AWS documents; the text has no identifiers."""


@dataclass(frozen=True)
class ImageSets:
    """The search for image sets of one data store, with a boto3 client of ``medical-imaging``."""

    client: Any
    datastore_id: str
    requests_per_second: float = 25  # "HealthImaging endpoints and quotas"

    def find_any(self) -> str | None:
        """Return "image sets" if there is one."""
        found = self.client.search_image_sets(datastoreId=self.datastore_id, maxResults=1)
        return "image sets" if found["imageSetsMetadataSummaries"] else None

    def estimate(self) -> Estimate:
        """Return how many image sets there are, from samples over the time in which they were created."""
        until = _now()
        first = self._ask(_FIRST, until)
        sets = first["imageSetsMetadataSummaries"]
        exact = "nextToken" not in first
        number = len(sets) if exact else round(self._sample(sets[0]["createdAt"], until))
        return Estimate(number, -(-number // PAGE) + 1, exact, "image sets")

    def _sample(self, since: datetime, until: datetime) -> float:
        """Return the sum over equal spans of time: the number in a span, or the density at its beginning."""
        span, number = (until - since) / SAMPLES, 0.0
        for index in range(SAMPLES):
            start = since + index * span
            reply = self._ask(start, start + span)
            sets = reply["imageSetsMetadataSummaries"]
            share = 1.0
            if "nextToken" in reply:
                share = max((sets[-1]["createdAt"] - start) / span, 1e-6)
            number += len(sets) / share
        return number

    def pages(self, position: dict[str, Any] | None) -> Iterator[Page]:
        """Yield image sets in the order of their creation, from the position on."""
        for found in self.list_created(position["created_at"] if position else None, PAGE_ROWS):
            yield _page(found)

    def list_created(self, since: str | None, number: int) -> Iterator[list[dict[str, Any]]]:
        """Yield the summaries of image sets in the order of their creation, so many at a time, from a time on."""
        found: list[dict[str, Any]] = []
        for reply in self.search(_created(datetime.fromisoformat(since) - _SLACK if since else _FIRST, _now())):
            found += reply["imageSetsMetadataSummaries"]
            if len(found) >= number:
                yield found
                found = []
        if found:
            yield found

    def search(self, criteria: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the answers of a search, page by page.

        Raises
        ------
        ImageSetSearchError
            If an answer leads back to itself: the pages would not end.
        """
        token: dict[str, str] = {}
        while True:
            reply = self.client.search_image_sets(
                datastoreId=self.datastore_id, maxResults=PAGE, searchCriteria=criteria, **token
            )
            yield reply
            if not reply.get("nextToken"):
                return
            following = {"nextToken": reply["nextToken"]}
            if following == token:
                raise ImageSetSearchError(
                    "SearchImageSets returned the same nextToken twice, so that its pages do not end. Repeat the "
                    "command: it goes on where it was. If it fails again, report it to AWS."
                )
            token = following

    def _ask(self, since: datetime, until: datetime) -> dict[str, Any]:
        return next(self.search(_created(since, until)))


def _created(since: datetime, until: datetime) -> dict[str, Any]:
    created = {"operator": "BETWEEN", "values": [{"createdAt": since}, {"createdAt": until}]}
    return {"filters": [created], "sort": {"sortField": "createdAt", "sortOrder": "ASC"}}


def _page(found: list[dict[str, Any]]) -> Page:
    last: datetime = found[-1]["createdAt"].astimezone(UTC)
    rows = [(item["imageSetId"], _study_key(item.get("DICOMTags", {})), item.get("version"), None) for item in found]
    frame = pl.DataFrame(rows, schema=FOREIGN, orient="row")
    return Page(frame, {"created_at": last.isoformat()}, f"up to those created on {last:%Y-%m-%d %H:%M}Z")


def _study_key(tags: dict[str, Any]) -> str | None:
    uid = tags.get("DICOMStudyInstanceUID")
    return study_key(uid) if uid else None


def _now() -> datetime:
    return datetime.now(UTC) + timedelta(minutes=5)  # this machine's clock may be behind the service's
