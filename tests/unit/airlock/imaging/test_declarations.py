"""The numbers that headers, a manifest or the source's list declare; what lies or is broken is named before import."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from airlock.imaging.declarations import DATASET, DECLARED, DeclaredListError
from airlock.imaging.validate import validate
from airlock.stages.receive import DeliveryManifestError
from tests.unit.airlock.world import dicom, pipeline, unread

if TYPE_CHECKING:
    from tests.unit.airlock.world import World

LIST = {"audit": {"declared_count": {"list_uri": "s3://archive/lists/studies.csv"}}}
MANIFEST = {"receive": {"mode": "manifest"}}
HEAD = "StudyInstanceUID,NumberOfStudyRelatedInstances\n"
NUMBER = "NumberOfStudyRelatedInstances"


def declared(world: World, *files: dict[str, Any], **changes: Any) -> list[tuple[str, int | None, int | None]]:
    run = world.run("one", pipeline(**changes))
    world.buffered(run, *files)
    validate(run)
    return run.workspace.read(DATASET, DECLARED).select("StudyInstanceUID", "manifest", "header").rows()


class TestHeaders:
    def test_of_several_numbers_of_a_study_the_greatest_counts(self, world: World) -> None:
        values = ["3", "5", " 4 ", None, "", "many", "-7", "1\\6", "999999999999", "2.5"]
        files = [dicom(str(number), **{NUMBER: value}) for number, value in enumerate(values)]
        assert declared(world, *files, limits={"related_instances": 10**13}) == [("1.1", None, 6)]

    def test_a_quarantined_file_has_a_say_and_a_study_without_a_number_no_row(self, world: World) -> None:
        stopped = dicom("a", PatientID="x" * 300, **{NUMBER: "7"})
        files = stopped, dicom("b"), dicom("c", StudyInstanceUID="1.2"), unread("d", "not_dicom")
        assert declared(world, *files) == [("1.1", None, 7)]

    def test_where_studies_wait_the_newest_file_of_each_is_noted(self, world: World) -> None:
        run = world.run("one", pipeline(audit={"declared_count": {"wait_hours": 24, "then": "hold"}}))
        world.buffered(run, dicom("a"), dicom("b", StudyInstanceUID="1.2", **{NUMBER: "2"}))
        validate(run)
        rows = run.workspace.read(DATASET, DECLARED)
        assert rows.select("StudyInstanceUID", "header").rows() == [("1.1", None), ("1.2", 2)]
        assert rows["newest"].null_count() == 0


class TestManifest:
    def test_it_may_name_studies_and_those_that_did_not_come(self, world: World) -> None:
        world.put("s3://archive/in/delivery.json", json.dumps({"objects": 2, "studies": {"1.1": 3, "1.9": 5}}).encode())
        assert declared(world, dicom("a", **{NUMBER: "2"}), **MANIFEST) == [("1.1", 3, 2), ("1.9", 5, None)]

    def test_it_may_name_none_and_counts_only_where_the_pipeline_waits_for_it(self, world: World) -> None:
        world.put("s3://archive/in/delivery.json", b'{"objects": 2}')
        assert declared(world, dicom("a"), **MANIFEST) == []
        world.put("s3://archive/in/delivery.json", b"not JSON at all")
        assert declared(world, dicom("a")) == []

    @pytest.mark.parametrize(
        "studies", [[], "x", {"1.1": -1}, {"1.1": True}, {"1.1": "3"}, {"1.1": 10**10}, {"1.1": None}, None, 7]
    )
    def test_one_that_is_wrong_stops_the_run_before_anything_is_imported(self, world: World, studies: Any) -> None:
        world.put("s3://archive/in/delivery.json", json.dumps({"objects": 1, "studies": studies}).encode())
        with pytest.raises(DeliveryManifestError, match="must name each StudyInstanceUID once, with a whole n") as told:
            declared(world, dicom("a"), **MANIFEST)
        assert "1.1" not in str(told.value).replace("1.2.3", "")

    @pytest.mark.parametrize("studies", ['{"1.1": 300, "1.1": 1}', '{"1.1": 1, " 1.1 ": 300}', '{"1.1\\ud800": 1}'])
    def test_one_that_names_a_study_twice_or_in_no_unicode_is_wrong(self, world: World, studies: str) -> None:
        world.put("s3://archive/in/delivery.json", f'{{"objects": 1, "studies": {studies}}}'.encode())
        with pytest.raises(DeliveryManifestError, match="studies must name each StudyInstanceUID once"):
            declared(world, dicom("a"), **MANIFEST)

    def test_one_that_is_too_large_stops_the_run_too(self, world: World) -> None:
        world.put("s3://archive/in/delivery.json", b'{"objects": 1, "studies": {"1.1": 300}}'.ljust(2_000))
        with pytest.raises(DeliveryManifestError, match="set receive"):
            declared(world, dicom("a"), receive={"mode": "manifest", "manifest_mib": 0.001})

    def test_spaces_around_a_name_do_not_count(self, world: World) -> None:
        world.put("s3://archive/in/delivery.json", b'{"objects": 1, "studies": {" 1.1 ": 300}}')
        assert declared(world, dicom("a"), **MANIFEST) == [("1.1", 300, None)]


class TestList:
    def test_it_names_studies_of_this_run_and_others(self, world: World) -> None:
        text = "\ufeffPatientID,NumberOfStudyRelatedInstances,StudyInstanceUID\nP,3, 1.1 \nP,9,1.7\n\nP,4,1.1\n"
        world.put("s3://archive/lists/studies.csv", text.encode())
        assert declared(world, dicom("a"), **LIST) == [("1.1", 4, None)]

    @pytest.mark.parametrize(
        ("content", "fault"),
        [
            (b"", "its first line does not name the columns"),
            (b"study,number\n1.1,3\n", "its first line does not name the columns"),
            ((HEAD + "1.1,many\n1.2,3\n").encode(), "1 of its lines have no study, or no whole number"),
            ((HEAD + "1.1\n,3\n").encode(), "2 of its lines have no study, or no whole number"),
            (b"\xff\xfe\x00", "it is not a CSV file in UTF-8"),
        ],
    )
    def test_one_that_cannot_be_read_stops_the_run(self, world: World, content: bytes, fault: str) -> None:
        world.put("s3://archive/lists/studies.csv", content)
        with pytest.raises(DeclaredListError, match=f"list_uri: {fault}"):
            declared(world, dicom("a"), **LIST)

    def test_one_that_is_absent_stops_the_run(self, world: World) -> None:
        with pytest.raises(DeclaredListError, match="the object does not exist"):
            declared(world, dicom("a"), **LIST)
