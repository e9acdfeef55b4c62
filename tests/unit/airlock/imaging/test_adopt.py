"""What a HealthImaging data store holds is read in the order of its creation, and counted by samples."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import pytest

from airlock.imaging.adopt import PAGE, ImageSets, ImageSetSearchError
from airlock.records import study_key

STORE = "d" * 32
BEGIN = datetime(2024, 3, 1, tzinfo=UTC)


class Client:
    """A medical-imaging client, with image sets created at these times."""

    def __init__(self, times: list[datetime]) -> None:
        self.sets = [
            {
                "imageSetId": f"i{number}",
                "createdAt": moment,
                "version": 1,
                "DICOMTags": {"DICOMStudyInstanceUID": f"1.2.{number}"},
            }
            for number, moment in enumerate(times)
        ]
        self.requests = 0

    def search_image_sets(
        self, datastoreId: str, maxResults: int, searchCriteria: dict[str, Any] | None = None, nextToken: str = "0"
    ) -> dict[str, Any]:
        assert datastoreId == STORE
        assert maxResults <= PAGE
        self.requests += 1
        found = self.sets
        if searchCriteria is not None:
            ((since, until),) = ([v["createdAt"] for v in one["values"]] for one in searchCriteria["filters"])
            assert searchCriteria["sort"] == {"sortField": "createdAt", "sortOrder": "ASC"}
            found = [item for item in found if since <= item["createdAt"] <= until]
        start = int(nextToken)
        rest = {"nextToken": str(start + maxResults)} if start + maxResults < len(found) else {}
        return {"imageSetsMetadataSummaries": found[start : start + maxResults], **rest}


def every(minutes: float, number: int) -> list[datetime]:
    return [BEGIN + number * timedelta(minutes=minutes) for number in range(number)]


def test_nothing_is_found_in_an_empty_data_store() -> None:
    search = ImageSets(Client([]), STORE)
    assert search.find_any() is None
    assert search.estimate().objects == 0
    assert list(search.pages(None)) == []


def test_one_image_set_is_enough() -> None:
    assert ImageSets(Client(every(1, 1)), STORE).find_any() == "image sets"


def test_what_fits_into_an_answer_is_counted() -> None:
    estimate = ImageSets(Client(every(1, PAGE)), STORE).estimate()
    assert (estimate.objects, estimate.is_exact) == (PAGE, True)


def test_more_is_estimated_from_a_few_requests() -> None:
    client = Client(every(60, 20_000))  # over more than two years
    estimate = ImageSets(client, STORE).estimate()
    assert estimate.objects == pytest.approx(20_000, rel=0.1)
    assert not estimate.is_exact
    assert client.requests <= 22


def test_all_are_read_with_their_studies() -> None:
    pages = list(ImageSets(Client(every(60, 2_345)), STORE).pages(None))
    assert [page.rows.height for page in pages] == [1_000, 1_000, 345]
    assert pages[0].rows.row(1) == ("i1", study_key("1.2.1"), 1, None)
    assert pages[-1].progress == f"up to those created on {BEGIN + timedelta(hours=2_344):%Y-%m-%d %H:%M}Z"


class Stuck(Client):
    """A service whose second page leads back to itself."""

    def search_image_sets(self, *arguments: Any, **more: Any) -> dict[str, Any]:
        return super().search_image_sets(*arguments, **more) | {"nextToken": str(PAGE)}


def test_a_page_that_leads_back_to_itself_ends_the_search_with_an_error() -> None:
    client = Stuck(every(60, 2_345))
    with pytest.raises(ImageSetSearchError, match="returned the same nextToken twice"):
        list(ImageSets(client, STORE).pages(None))
    assert client.requests == 2


def test_an_interrupted_reading_goes_on_by_the_time_of_creation() -> None:
    client = Client([BEGIN + (number // 30) * timedelta(hours=1) for number in range(2_345)])  # 30 at a time
    (first,) = islice(ImageSets(client, STORE).pages(None), 1)
    rest = list(ImageSets(client, STORE).pages(first.position))
    seen = {name for page in [first, *rest] for name in page.rows["object_id"]}
    assert len(seen) == 2_345
    assert sum(page.rows.height for page in rest) < 1_345 + 30 + 1
