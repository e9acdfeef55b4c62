"""Image sets are fetched and held against what was sent; here, from the emulator."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import boto3
import polars as pl
import pytest
from botocore.config import Config
from botocore.exceptions import ClientError

from airlock.imaging.gate import flag_blocking
from airlock.imaging.read_back import TRIES, ask_primary, choose_image_sets, read_back
from airlock.pipelines import Audit
from localaws.server import serve
from localaws.settings import Seed
from tests.dicom_files import ct, sop_uid
from tests.unit.airlock.job_output import output
from tests.unit.airlock.world import STORE, dicom, outcomes

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.unit.airlock.world import World

ROLE = "arn:aws:iam::123456789012:role/import"
HERE, TOO = (dicom(f"{n}", SOPInstanceUID=sop_uid(1, 1, n)) for n in (1, 2))


@pytest.fixture(scope="module")
def imaging(s3_server: str) -> Iterator[Any]:
    store = (Seed(STORE, "test"),)
    with serve(s3_endpoint=s3_server, datastore=store, submitted_seconds=0.02, change_seconds=0.05) as url:
        once = Config(inject_host_prefix=False, retries={"total_max_attempts": 1})
        yield boto3.client("medical-imaging", region_name="us-east-1", endpoint_url=url, config=once)


@pytest.fixture
def image_set(world: World, imaging: Any) -> str:
    """The image set of two slices."""
    for number in (1, 2):
        world.put(f"s3://work/batch/{number}.dcm", ct(1, 1, number))
    places = {"inputS3Uri": "s3://work/batch/", "outputS3Uri": "s3://work/output/"}
    job = imaging.start_dicom_import_job(datastoreId=STORE, dataAccessRoleArn=ROLE, **places)["jobId"]
    deadline = time.monotonic() + 20
    while True:
        status = imaging.get_dicom_import_job(datastoreId=STORE, jobId=job)["jobProperties"]["jobStatus"]
        assert status != "FAILED"
        assert time.monotonic() < deadline
        if status == "COMPLETED":
            break
        time.sleep(0.02)
    found = imaging.search_image_sets(datastoreId=STORE, searchCriteria={})["imageSetsMetadataSummaries"]
    return str(found[0]["imageSetId"])


def reasons(
    imaging: Any,
    *files: dict[str, Any],
    image_set: str,
    frames: str | None = None,
    fraction: float = 1.0,
    **changes: Any,
) -> list[str | None]:
    facts = flag_blocking(outcomes(*files, image_set_id=image_set, **changes), Audit(), [])
    declared = facts.select("arrival_id", NumberOfFrames=pl.lit(frames, pl.String))
    rows = read_back(
        imaging, STORE, facts, declared, choose_image_sets([image_set], fraction), pause=lambda _seconds: None
    )
    assert rows.columns == facts.columns
    assert rows["arrival_id"].equals(facts["arrival_id"])
    assert (rows["blocks"] == rows["reason"].is_not_null()).all()
    return rows["reason"].to_list()


def test_what_is_there_is_left_as_it_is(imaging: Any, image_set: str) -> None:
    assert reasons(imaging, HERE, TOO, image_set=image_set) == [None, None]
    assert reasons(imaging, HERE, image_set=image_set, frames="1") == [None]
    assert reasons(imaging, HERE, image_set=image_set, frames=" 1 ") == [None]
    assert reasons(imaging, HERE, image_set=image_set, frames="many") == [None]
    assert reasons(imaging, HERE, image_set=image_set, frames="0001") == [None]


def test_a_number_of_thousands_of_digits_is_another_one(imaging: Any, image_set: str) -> None:
    assert reasons(imaging, HERE, image_set=image_set, frames="9" * 5000) == ["read_back_mismatch"]


def test_an_instance_that_is_not_there_blocks(imaging: Any, image_set: str) -> None:
    lost = dicom("lost", SOPInstanceUID="1.2.3")
    assert reasons(imaging, HERE, lost, image_set=image_set) == [None, "read_back_mismatch"]


def test_another_number_of_frames_blocks(imaging: Any, image_set: str) -> None:
    assert reasons(imaging, HERE, image_set=image_set, frames="2") == ["read_back_mismatch"]


def test_what_blocks_already_keeps_its_reason(imaging: Any, image_set: str) -> None:
    lost = dicom("lost", SOPInstanceUID="1.2.3")
    found = reasons(imaging, lost, image_set=image_set, outcome="non_primary", reason="non_primary")
    assert found == ["non_primary"]


def test_a_mismatch_is_graver_than_a_warning_of_the_service(imaging: Any, image_set: str) -> None:
    """The reason decides whether an edge is told that the data store has the instance."""
    lost = dicom("lost", SOPInstanceUID="1.2.3")
    facts = {"outcome": "imported_with_warning", "reason": "service_warning", "warnings": ["Harmful"]}
    assert reasons(imaging, lost, image_set=image_set, **facts) == ["read_back_mismatch"]


class Reluctant:
    """A client whose first answers are refusals; then, the service's own."""

    def __init__(self, imaging: Any, code: str, refusals: int) -> None:
        self.imaging, self.code, self.refusals = imaging, code, refusals
        self.asked: list[str] = []

    def get_image_set_metadata(self, *, datastoreId: str, imageSetId: str) -> Any:
        self.asked.append(imageSetId)
        if len(self.asked) <= self.refusals:
            raise ClientError({"Error": {"Code": self.code, "Message": "not yet"}}, "GetImageSetMetadata")
        return self.imaging.get_image_set_metadata(datastoreId=datastoreId, imageSetId=imageSetId)


@pytest.mark.parametrize("code", ["ConflictException", "ResourceNotFoundException", "ThrottlingException"])
def test_not_yet_is_asked_again_within_bounds(imaging: Any, image_set: str, code: str) -> None:
    patient = Reluctant(imaging, code, TRIES - 1)
    assert reasons(patient, HERE, image_set=image_set) == [None]


@pytest.mark.parametrize("code", ["ConflictException", "ThrottlingException"])
def test_not_yet_for_too_long_is_an_error(imaging: Any, image_set: str, code: str) -> None:
    stubborn = Reluctant(imaging, code, TRIES)
    with pytest.raises(ClientError, match=code):
        reasons(stubborn, HERE, image_set=image_set)
    assert len(stubborn.asked) == TRIES


def test_an_image_set_that_is_gone_blocks_its_own_files_only(imaging: Any, image_set: str) -> None:
    stubborn = Reluctant(imaging, "ResourceNotFoundException", TRIES)
    assert reasons(stubborn, HERE, image_set=image_set) == ["read_back_mismatch"]
    assert len(stubborn.asked) == TRIES


def test_any_other_refusal_is_an_error_at_once(imaging: Any, image_set: str) -> None:
    refused = Reluctant(imaging, "AccessDeniedException", 1)
    with pytest.raises(ClientError, match="AccessDeniedException"):
        reasons(refused, HERE, image_set=image_set)
    assert len(refused.asked) == 1


@pytest.mark.parametrize(("fraction", "number"), [(0.0, 0), (0.01, 1), (0.25, 1), (0.5, 2), (0.51, 3), (1.0, 4)])
def test_the_same_share_is_read_every_time_and_at_least_one(
    imaging: Any, image_set: str, fraction: float, number: int
) -> None:
    sets = ["c", "a", "d", "b"]
    facts = pl.concat(
        [outcomes(dicom(each), image_set_id=each) for each in [*sets, "a"]] + [outcomes(HERE, image_set_id=None)]
    )
    facts = flag_blocking(facts, Audit(), [])
    declared = facts.unique("arrival_id").select("arrival_id", NumberOfFrames=pl.lit(None, pl.String))

    class Recording(Reluctant):
        def get_image_set_metadata(self, *, datastoreId: str, imageSetId: str) -> Any:
            self.asked.append(imageSetId)
            return self.imaging.get_image_set_metadata(datastoreId=datastoreId, imageSetId=image_set)

    client = Recording(imaging, "", 0)
    read_back(client, STORE, facts, declared, choose_image_sets(sets, fraction))
    assert client.asked == ["a", "b", "c", "d"][:number]


def silent(image_set: str, **more: Any) -> dict[str, Any]:
    return {"staged_key": "a", "kind": "success", "image_set_id": image_set, "is_primary": None} | more


class TestPrimary:
    """Where no line of a job says whether an image set is primary, the image set itself is asked."""

    def asked(self, imaging: Any, *lines: dict[str, Any]) -> tuple[frozenset[str], frozenset[str]]:
        found = ask_primary(imaging, STORE, output(*lines), pause=lambda _seconds: None)
        return found.primary_sets, found.non_primary_sets

    def test_an_image_set_says_it_for_all_its_files(self, imaging: Any, image_set: str) -> None:
        lines = silent(image_set), silent(image_set, staged_key="b"), {"staged_key": "c", "kind": "failure"}
        assert self.asked(imaging, *lines) == ({image_set}, frozenset())

    def test_one_that_is_gone_says_nothing(self, imaging: Any, image_set: str) -> None:
        assert self.asked(imaging, silent(image_set), silent("0" * 32)) == ({image_set}, frozenset())

    @pytest.mark.parametrize(
        ("answer", "primary", "non_primary"),
        [({"isPrimary": True}, {"x"}, set()), ({"isPrimary": False}, set(), {"x"}), ({}, set(), set())]
        + [({"isPrimary": odd}, set(), set()) for odd in ("true", 1, None)],
    )
    def test_only_true_and_false_are_answers(
        self, answer: dict[str, Any], primary: set[str], non_primary: set[str]
    ) -> None:
        client = SimpleNamespace(get_image_set=lambda **_: answer)
        assert self.asked(client, silent("x")) == (primary, non_primary)

    def test_nobody_is_asked_if_a_line_says_so(self) -> None:
        lines = silent("x"), silent("y", staged_key="b", is_primary=True)
        assert self.asked(None, *lines) == (frozenset(), frozenset())
        assert self.asked(None, {"staged_key": "a", "kind": "failure"}) == (frozenset(), frozenset())

    def test_a_refusal_is_an_error(self) -> None:
        def refuse(**_: Any) -> Any:
            raise ClientError({"Error": {"Code": "AccessDeniedException", "Message": "no"}}, "GetImageSet")

        with pytest.raises(ClientError, match="AccessDeniedException"):
            self.asked(SimpleNamespace(get_image_set=refuse), silent("x"))
