"""Profiles: a draft that changes, published versions that do not."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from localaws.errors import AwsError
from localaws.settings import Seed
from tests.unit.localaws.healthlake.transformation.desk import STARTER, Desk

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import ThreadPoolExecutor
    from pathlib import Path

UNKNOWN = "0" * 32
ONE, TWO = {"a.vtl": "one"}, {"a.vtl": "two", "b.vtl": ""}


@pytest.fixture
def desk(tmp_path: Path, executor: ThreadPoolExecutor) -> Iterator[Desk]:
    found = Desk(tmp_path / "state.db", executor, max_profiles=4, max_versions_per_profile=3)
    yield found
    found.state.close()


def code(call: Callable[[], Any]) -> str:
    with pytest.raises(AwsError) as caught:
        call()
    return caught.value.code


def raw(desk: Desk, mapping: dict[str, str] | None = None, **params: Any) -> str:
    return desk.profile(Source={"ProfileMapping": {"ProfileMapping": ONE if mapping is None else mapping}}, **params)


def mapping(desk: Desk, profile_id: str, **params: Any) -> Any:
    return desk.call("GetDataTransformationProfile", ProfileId=profile_id, **params)["ProfileMapping"]


def update(desk: Desk, profile_id: str, mapping: dict[str, str]) -> Any:
    return desk.call("UpdateDataTransformationProfile", ProfileId=profile_id, ProfileMapping=mapping)


def test_a_new_profile_is_a_draft_of_the_starter(desk: Desk) -> None:
    made = desk.call("CreateDataTransformationProfile", SourceFormat="CCDA", Source=STARTER, ProfileName="intake")
    assert (made["Version"], made["TargetFormat"], made["ProfileName"]) == (0, "FHIR_R4", "intake")
    assert mapping(desk, made["ProfileId"], ProfileVersion=0)


def test_a_published_version_outlives_changes_of_the_draft(desk: Desk) -> None:
    profile_id = raw(desk, versions=1)
    update(desk, profile_id, TWO)
    assert mapping(desk, profile_id) == mapping(desk, profile_id, ProfileVersion=1) == ONE
    assert mapping(desk, profile_id, ProfileVersion=0) == TWO
    assert desk.publish(profile_id) == 2
    assert mapping(desk, profile_id) == TWO


def test_a_rollback_publishes_an_old_version_anew(desk: Desk) -> None:
    profile_id = raw(desk, versions=1)
    update(desk, profile_id, TWO)
    desk.publish(profile_id)
    assert desk.publish(profile_id, FromExistingVersion=1, ChangeDescription="back") == 3
    assert mapping(desk, profile_id) == ONE
    assert mapping(desk, profile_id, ProfileVersion=0) == TWO


def test_a_clone_begins_as_a_draft_of_its_own(desk: Desk) -> None:
    profile_id = raw(desk)
    source = {"ExistingVersionedProfileId": {"ProfileId": profile_id, "Version": 1}}
    clone = desk.profile(versions=0, Source=source, ProfileName="clone")
    update(desk, clone, TWO)
    assert mapping(desk, profile_id) == ONE
    assert mapping(desk, clone, ProfileVersion=0) == TWO


def test_sample_data_leaves_the_mapping_to_be_written(desk: Desk) -> None:
    source = {"SampleData": {"S3Uri": "s3://samples/tables/"}}
    profile_id = desk.profile(versions=0, SourceFormat="CSV", Source=source)
    assert code(lambda: mapping(desk, profile_id, ProfileVersion=0)) == "ValidationException"
    assert code(lambda: desk.publish(profile_id, SourceFormat="CSV")) == "ValidationException"
    update(desk, profile_id, ONE)
    assert desk.publish(profile_id, SourceFormat="CSV") == 1


def test_versions_are_listed_newest_first_in_pages(desk: Desk) -> None:
    profile_id = raw(desk, versions=2)
    first = desk.call("ListDataTransformationProfileVersions", ProfileId=profile_id, MaxResults=2)
    rest = desk.call("ListDataTransformationProfileVersions", ProfileId=profile_id, NextToken=first["NextToken"])
    assert [item["Version"] for item in first["Items"] + rest["Items"]] == [2, 1, 0]
    assert "NextToken" not in rest


def test_profiles_are_listed_by_format_with_their_latest_version(desk: Desk) -> None:
    raw(desk, ProfileName="b", ProfileDescription="second")
    raw(desk, ProfileName="a", versions=0)
    raw(desk, ProfileName="c", SourceFormat="CSV")
    items = desk.call("ListDataTransformationProfiles", SourceFormat="CCDA")["Items"]
    assert [(item["ProfileName"], item["Version"]) for item in items] == [("a", 0), ("b", 1)]
    page = desk.call("ListDataTransformationProfiles", SourceFormat="CCDA", MaxResults=1)
    assert [item["ProfileName"] for item in page["Items"]] == ["a"]
    assert (
        code(lambda: desk.call("ListDataTransformationProfiles", SourceFormat="CCDA", NextToken="made up"))
        == "ValidationException"
    )


def test_a_deleted_profile_is_gone_with_every_version(desk: Desk) -> None:
    profile_id = raw(desk, Tags={"team": "intake"})
    assert desk.call("DeleteDataTransformationProfile", ProfileId=profile_id)["ProfileName"] == "intake"
    for operation in ("GetDataTransformationProfile", "ListDataTransformationProfileVersions"):
        assert code(lambda name=operation: desk.call(name, ProfileId=profile_id)) == "ResourceNotFoundException"
    assert code(lambda: desk.call("DeleteDataTransformationProfile", ProfileId=profile_id)) == (
        "ResourceNotFoundException"
    )


def test_the_same_token_makes_one_profile(desk: Desk) -> None:
    first = raw(desk, ClientToken="once", versions=0)
    assert raw(desk, ClientToken="once", versions=0) == first
    assert code(lambda: raw(desk, ClientToken="once", ProfileName="other")) == "ConflictException"


def test_the_quotas_hold(desk: Desk) -> None:
    profile_id = raw(desk, versions=3)
    assert code(lambda: desk.publish(profile_id)) == "ServiceQuotaExceededException"
    for _ in range(3):
        raw(desk, versions=0)
    assert code(lambda: raw(desk)) == "ServiceQuotaExceededException"


@pytest.mark.parametrize(
    ("source_format", "source", "expected"),
    [
        ("CCDA", {"StarterProfile": {"StarterProfileName": "nobody"}}, "ValidationException"),
        ("CSV", STARTER, "ValidationException"),
        ("CCDA", {"SampleData": {"S3Uri": "s3://samples/tables/"}}, "ValidationException"),
        ("CCDA", {"ProfileMapping": {"ProfileMapping": {}}}, "ValidationException"),
        ("CCDA", {"ProfileMapping": {"ProfileMapping": {"": "x"}}}, "ValidationException"),
        ("CCDA", {"ProfileMapping": {"ProfileMapping": {"a": "x" * 102_401}}}, "ValidationException"),
        (
            "CCDA",
            {"ProfileMapping": {"ProfileMapping": dict.fromkeys(map(str, range(501)), "")}},
            "ValidationException",
        ),
        ("CCDA", {"ExistingVersionedProfileId": {"ProfileId": UNKNOWN, "Version": 1}}, "ResourceNotFoundException"),
    ],
)
def test_a_source_that_cannot_be_is_refused(
    desk: Desk, source_format: str, source: dict[str, Any], expected: str
) -> None:
    assert code(lambda: desk.profile(SourceFormat=source_format, Source=source)) == expected
    assert desk.call("ListDataTransformationProfiles", SourceFormat=source_format)["Items"] == []


def test_versions_and_formats_that_are_not_there_are_refused(desk: Desk) -> None:
    profile_id = raw(desk, versions=0)
    get = "GetDataTransformationProfile"
    assert code(lambda: desk.call(get, ProfileId=profile_id)) == "ResourceNotFoundException"
    assert code(lambda: desk.call(get, ProfileId=profile_id, ProfileVersion=7)) == "ResourceNotFoundException"
    assert code(lambda: desk.publish(profile_id, SourceFormat="CSV")) == "ValidationException"
    assert code(lambda: desk.publish(profile_id, FromExistingVersion=7)) == "ResourceNotFoundException"
    assert code(lambda: update(desk, UNKNOWN, ONE)) == "ResourceNotFoundException"


def test_a_seed_is_published_once_and_then_left_alone(tmp_path: Path, executor: ThreadPoolExecutor) -> None:
    seed = Seed("e" * 32, "pinned")
    for changed in (False, True):
        desk = Desk(tmp_path / "seeded.db", executor, transformation_profile=(seed,))
        versions = desk.call("ListDataTransformationProfileVersions", ProfileId=seed.id)["Items"]
        assert [(item["Version"], item["ProfileName"]) for item in versions] == [(1, "pinned"), (0, "pinned")]
        assert (mapping(desk, seed.id, ProfileVersion=0) == ONE) is changed
        update(desk, seed.id, ONE)
        desk.state.close()


def test_the_agent_is_not_there(desk: Desk) -> None:
    message = {"Body": "map the problem list", "Type": "normal"}
    with pytest.raises(AwsError) as caught:
        desk.call("UpdateProfileWithAgent", ProfileId=UNKNOWN, InputMessage=message)
    assert (caught.value.status, "UpdateProfileWithAgent" in caught.value.message) == (501, True)
