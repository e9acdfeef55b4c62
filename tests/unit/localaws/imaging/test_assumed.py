"""Jobs that read no file: image sets are assumed by the order of the keys."""

from __future__ import annotations

import gzip
import json
from typing import TYPE_CHECKING, Any

import pytest

from tests.contract.localaws.endpoint import DATASTORE, local_endpoint

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.contract.localaws.endpoint import Endpoint

pytestmark = pytest.mark.slow

NO_DICOM = {f"{number}.dcm": b"nothing to read" for number in range(5)}


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    with local_endpoint(assumed_image_set_files=2) as made:
        yield made


def metadata(endpoint: Endpoint, image_set: str) -> dict[str, Any]:
    answer = endpoint.imaging.get_image_set_metadata(datastoreId=DATASTORE, imageSetId=image_set)
    content: dict[str, Any] = json.loads(gzip.decompress(answer["imageSetMetadataBlob"].read()))
    return content


def test_files_that_follow_each_other_are_one_image_set(endpoint: Endpoint) -> None:
    job = endpoint.import_files(NO_DICOM)
    assert (job.summary["numberOfImportedFiles"], len(job.image_set_ids), job.failure) == (5, 3, [])
    sets = [job.of(name)["importResponse"]["imageSetId"] for name in sorted(NO_DICOM)]
    assert [sets.count(each) for each in job.image_set_ids] == [2, 2, 1]
    assert sets[0] == sets[1] != sets[2]


def test_search_and_metadata_agree_with_the_lines(endpoint: Endpoint) -> None:
    job = endpoint.import_files(NO_DICOM)
    study = metadata(endpoint, job.image_set_ids[0])["Study"]
    ((_, series),) = study["Series"].items()
    assert len(series["Instances"]) == 2
    uid = study["DICOM"]["StudyInstanceUID"]
    criteria = {"filters": [{"operator": "EQUAL", "values": [{"DICOMStudyInstanceUID": uid}]}]}
    found = endpoint.imaging.search_image_sets(datastoreId=DATASTORE, searchCriteria=criteria)
    assert {item["imageSetId"] for item in found["imageSetsMetadataSummaries"]} == set(job.image_set_ids)


def test_the_same_prefix_again_is_the_same_instances(endpoint: Endpoint) -> None:
    uri = endpoint.upload(NO_DICOM)
    once, again = (endpoint.output(endpoint.ended(endpoint.start(uri))) for _ in range(2))
    assert once.image_set_ids == again.image_set_ids
    assert {item["imageSetVersion"] for item in again.summary["imageSetsSummary"]} == {2}


def test_without_the_setting_files_are_read() -> None:
    with local_endpoint() as endpoint:
        assert endpoint.import_files(NO_DICOM).summary["numberOfImportedFiles"] == 0
