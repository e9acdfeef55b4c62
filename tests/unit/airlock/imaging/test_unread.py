"""Unread files: which study they are counted to, by their key and by the files beside them, and which hold nothing."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.imaging.books import name_pattern, open_books
from airlock.imaging.unread import attribute, find_causes, name_studies
from airlock.pipelines import Audit
from airlock.reasons import Reason
from airlock.records import ARRIVALS, ATTRIBUTES, DISPOSITIONS
from tests.dicom_files import ct, study_uid
from tests.media import burn
from tests.unit.airlock.world import dicom, frame, pipeline, verdicts

if TYPE_CHECKING:
    from airlock.pipelines import ImagingPipeline
    from tests.unit.airlock.world import World

STOPPED = {"verdict": "quarantine"}


def of(study: str, *names: str, **changes: Any) -> list[dict[str, Any]]:
    """Return accepted files of a study."""
    return [dicom(name, StudyInstanceUID=study, **changes) for name in names]


def lost(name: str, reason: str = "empty_object", **changes: Any) -> dict[str, Any]:
    """Return a quarantined file of which nothing was read."""
    return dicom(name, **dict.fromkeys(ATTRIBUTES) | {"reason": reason} | STOPPED | changes)


@pytest.fixture(params=[1, 7])
def partitions(request: pytest.FixtureRequest) -> int:
    return int(request.param)


class Attribution:
    """Attributes the unread files of a delivery."""

    def __init__(self, world: World, partitions: int) -> None:
        self.world, self.partitions = world, partitions
        self.unattributed: dict[str, int] = {}
        self.by_file = self.by_study = pl.DataFrame()

    def __call__(self, *files: dict[str, Any], line: ImagingPipeline | None = None, **policy: Any) -> dict[str, set]:
        """Return the studies of the attributed files by name."""
        line = with_sites(line or pipeline(audit=policy))
        with open_books(self.partitions) as books:
            for each in files:
                books.add_verdicts(verdicts(each))
            attribute(self.world.run("today", line), books)
            self.by_file, self.by_study = (
                pl.concat([spool.partition(number) for number in range(self.partitions)])
                for spool in (books.unread_by_file, books.unread_by_study)
            )
            self.unattributed = dict(books.unattributed)
        names = {each["arrival_id"]: each["key"].removeprefix("in/") for each in files}
        found: dict[str, set[str]] = {}
        for arrival, uid in self.by_file.select("arrival_id", "StudyInstanceUID").iter_rows():
            found.setdefault(names[arrival], set()).add(uid)
        return found

    def before(self, *files: dict[str, Any], run: str = "earlier") -> None:
        """Let an earlier run settle these files: those with a study as released, the others as they are."""
        ledger, earlier = self.world.ledger, self.world.run(run)
        ledger.open_run(earlier.key, "nightly", earlier.run_id, None)
        ledger.claim("nightly", earlier.key, frame(list(files), ARRIVALS))
        words = [
            {
                "arrival_id": each["arrival_id"],
                "key": each["key"],
                "size": each["size"],
                "study_instance_uid": each["StudyInstanceUID"],
                "disposition": "quarantined" if each["reason"] else "released",
                "reason": each["reason"],
                "stage": "audit",
            }
            for each in files
        ]
        ledger.settle("nightly", earlier.key, frame(words, DISPOSITIONS))


def with_sites(line: ImagingPipeline) -> ImagingPipeline:
    """Return the pipeline with the first folder below the source as the site."""
    source = line.source.model_copy(update={"site_pattern": "^in/(?P<site>[^/]+)/"})
    return line.model_copy(update={"source": source})


@pytest.fixture
def attributed(world: World, partitions: int) -> Attribution:
    return Attribution(world, partitions)


class TestByFolder:
    def test_a_file_belongs_to_the_one_study_in_its_folder(self, attributed: Attribution) -> None:
        found = attributed(*of("1.1", "s1/1.dcm", "s1/2.dcm"), *of("1.2", "s2/1.dcm"), lost("s1/3.dcm"))
        assert found == {"s1/3.dcm": {"1.1"}}
        assert attributed.unattributed == {}

    def test_a_flat_folder_of_many_studies_holds_none_for_stray_files(self, attributed: Attribution) -> None:
        files = [dicom(f"all/{n}.dcm", StudyInstanceUID=f"1.{n}") for n in range(300)]
        strays = [lost("all/viewer.dll", "not_dicom"), lost("all/7-3.dcm"), lost("all/INDEX", "not_dicom")]
        assert attributed(*files, *strays) == {}
        assert attributed.unattributed == {"all": 3}

    def test_a_file_that_is_alone_in_its_folder_belongs_to_the_nearest_folder_with_files(
        self, attributed: Attribution
    ) -> None:
        others = [*of("1.1", "p0/st0/se1/1"), *of("1.2", "p0/st1/se1/1")]
        assert attributed(*others, lost("p0/st0/se2/3")) == {"p0/st0/se2/3": {"1.1"}}

    def test_the_nearest_folder_answers_even_if_it_has_too_many_studies(self, attributed: Attribution) -> None:
        beside = [*of("1.1", "p0/a/1.dcm"), *of("1.2", "p0/a/2.dcm")]
        assert attributed(*beside, lost("p0/a/b/3.dcm")) == {}

    def test_files_of_subfolders_count_as_under_the_folder(self, attributed: Attribution) -> None:
        assert attributed(*of("1.1", "s/se1/1.dcm", "s/se2/1.dcm"), lost("s/x.dcm")) == {"s/x.dcm": {"1.1"}}
        assert attributed(*of("1.1", "s/se1/1.dcm"), *of("1.2", "s/se2/1.dcm"), lost("s/x.dcm")) == {}

    def test_the_source_itself_answers_only_for_files_directly_in_it(self, attributed: Attribution) -> None:
        assert attributed(*of("1.1", "1.dcm"), lost("2.dcm")) == {"2.dcm": {"1.1"}}
        assert attributed(*of("1.1", "1.dcm"), lost("elsewhere/2.dcm")) == {}
        assert attributed(*of("1.1", "s/1.dcm"), lost("elsewhere/2.dcm")) == {}

    def test_more_studies_may_be_held_if_the_policy_says_so(self, attributed: Attribution) -> None:
        files = [*of("1.1", "a/1.dcm"), *of("1.2", "a/2.dcm"), lost("a/3.dcm")]
        assert attributed(*files, unread_siblings_studies=2) == {"a/3.dcm": {"1.1", "1.2"}}
        assert attributed(*files, unread_siblings_studies=1) == {}

    def test_none_is_held_by_its_folder_if_the_policy_says_so(self, attributed: Attribution) -> None:
        assert attributed(*of("1.1", "a/1.dcm"), lost("a/2.dcm"), unread_siblings_studies=0) == {}
        assert attributed.unattributed == {"a": 1}

    def test_only_accepted_files_and_their_duplicates_name_a_folder(self, attributed: Attribution) -> None:
        stopped = of("1.2", "a/2.dcm", reason="element_too_long", **STOPPED)
        assert attributed(*of("1.1", "a/1.dcm"), *stopped, lost("a/3.dcm")) == {"a/3.dcm": {"1.1"}}
        assert attributed(*of("1.2", "c/2.dcm", reason="element_too_long", **STOPPED), lost("c/3.dcm")) == {}
        again = of("1.3", "b/1.dcm", verdict="duplicate")
        assert attributed(*again, lost("b/3.dcm")) == {"b/3.dcm": {"1.3"}}

    def test_a_file_whose_study_was_read_or_that_is_ignored_is_not_asked_about(self, attributed: Attribution) -> None:
        read = of("1.2", "a/2.dcm", reason="no_preamble", **STOPPED)
        ignored = [lost("a/notes.txt", "sidecar", verdict="ignore"), lost("a/DICOMDIR", "dicomdir", verdict="ignore")]
        assert attributed(*of("1.1", "a/1.dcm"), *read, *ignored) == {}
        assert attributed.unattributed == {}

    def test_a_header_without_a_study_counts_as_unread(self, attributed: Attribution) -> None:
        empty = dicom("a/2.dcm", StudyInstanceUID="", reason="missing_study_instance_uid", **STOPPED)
        assert attributed(*of("1.1", "a/1.dcm"), empty) == {"a/2.dcm": {"1.1"}}


class TestByFolderOfEarlierRuns:
    """Siblings that came in an earlier night name the study too, whatever became of the run's books on the disk."""

    def test_a_file_that_comes_after_its_siblings_belongs_to_their_study(self, attributed: Attribution) -> None:
        attributed(*of("1.1", "st1/se1/1.dcm", "st1/se1/2.dcm"), *of("1.2", "st2/se1/1.dcm"))
        assert attributed(lost("st1/se1/3.dcm"), lost("st2/se2/1.dcm")) == {
            "st1/se1/3.dcm": {"1.1"},
            "st2/se2/1.dcm": {"1.2"},
        }

    def test_a_folder_that_had_other_studies_before_has_too_many(self, attributed: Attribution) -> None:
        attributed(*of("1.1", "inbox/1.dcm"))
        assert attributed(*of("1.2", "inbox/2.dcm"), lost("inbox/3.dcm")) == {}
        assert attributed.unattributed == {"inbox": 1}

    def test_not_dicom_needs_a_name_like_one_of_them(self, attributed: Attribution) -> None:
        attributed(*of("1.1", "s/1.dcm"))
        found = attributed(lost("s/2.dcm", "not_dicom"), lost("s/viewer.dll", "not_dicom"))
        assert found == {"s/2.dcm": {"1.1"}}

    def test_another_pipeline_knows_nothing_of_them(self, attributed: Attribution) -> None:
        attributed(*of("1.1", "s/1.dcm"))
        assert attributed(lost("s/2.dcm"), line=pipeline(name="other")) == {}


class TestLikeness:
    @pytest.mark.parametrize("stray", ["viewer.dll", "INDEX", "AUTORUN", "setup.bin", "a.b.c.dat"])
    def test_what_is_not_dicom_and_is_named_otherwise_holds_nothing(self, attributed: Attribution, stray: str) -> None:
        assert attributed(*of("1.1", "s/1.dcm", "s/2.dcm"), lost(f"s/{stray}", "not_dicom")) == {}
        assert attributed.unattributed == {"s": 1}

    @pytest.mark.parametrize(
        ("sibling", "name"),
        [
            ("001.dcm", "006.dcm"),
            ("001.DCM", "other name.dcm"),
            ("IM1", "IM22"),
            ("I10", "i9"),
            ("1.2.840.1.5", "1.2.840.1.77.3"),
            ("0d5e3a1c-7f1e-4b1a-9c00-0123456789ab", "ffffffff-7f1e-4b1a-9c00-0123456789ab"),
        ],
    )
    def test_what_is_named_like_its_siblings_holds_their_study(
        self, attributed: Attribution, sibling: str, name: str
    ) -> None:
        assert attributed(*of("1.1", f"s/{sibling}"), lost(f"s/{name}", "not_dicom")) == {f"s/{name}": {"1.1"}}

    def test_other_reasons_need_no_likeness(self, attributed: Attribution) -> None:
        assert attributed(*of("1.1", "s/1.dcm"), lost("s/viewer.dll", "empty_object")) == {"s/viewer.dll": {"1.1"}}

    def test_the_pattern_is_the_extension_or_the_letters_around_the_numbers(self) -> None:
        keys = pl.DataFrame({"key": ["a/IM 01", "a/x.DCM", "a/1.2.3", "a/MR.0001.0002", "a/", "A"]})
        assert keys.select(name_pattern()).to_series().to_list() == ["im 9", ".dcm", "9", "mr.9", "a", "a"]


class TestByList:
    """A manifest or DICOMDIR of the delivery that names the file says whose it is, before its folder does."""

    def deliver(self, world: World, files: dict[str, bytes]) -> dict[str, Any]:
        for name, body in files.items():
            world.put(f"s3://archive/in/{name}", body)
        return lost("cd/DICOMDIR", "dicomdir", verdict="ignore", size=len(files["cd/DICOMDIR"]))

    def test_a_dicomdir_in_a_folder_above_names_it(self, attributed: Attribution) -> None:
        medium = {f"cd/{path}": body for path, body in burn([ct(1, 1, 1), ct(2, 1, 1)]).items()}
        directory = self.deliver(attributed.world, medium)
        first, second = sorted(path for path in medium if path != "cd/DICOMDIR")
        files = [*of("1.1", "cd/other.dcm"), directory, lost(first.lower(), "not_dicom"), lost(second), lost("cd/3")]
        found = attributed(*files)
        assert {uid for studies in found.values() for uid in studies} == {study_uid(1), study_uid(2), "1.1"}
        assert found["cd/3"] == {"1.1"}

    def test_a_dicomdir_of_another_folder_is_not_read(self, attributed: Attribution) -> None:
        directory = lost("cd/DICOMDIR", "dicomdir", verdict="ignore")  # S3 has no such object
        assert attributed(directory, lost("elsewhere/1")) == {}

    def test_a_dicomdir_that_has_gone_or_is_damaged_names_nothing(self, attributed: Attribution) -> None:
        assert attributed(lost("cd/DICOMDIR", "dicomdir", verdict="ignore"), lost("cd/1")) == {}
        damaged = self.deliver(attributed.world, {"cd/DICOMDIR": b"noise" * 99})
        assert attributed(damaged, lost("cd/1")) == {}

    def test_the_manifest_names_it(self, attributed: Attribution) -> None:
        manifest = {"objects": 3, "files": {"a/3.dcm": "1.7", "a/4.dcm": 5, "a/5.dcm": "1.7\ud800"}}
        attributed.world.put("s3://archive/in/delivery.json", json.dumps(manifest).encode())
        line = pipeline(receive={"mode": "manifest"})
        found = attributed(*of("1.1", "a/1.dcm"), lost("a/3.dcm"), lost("a/4.dcm"), line=line)
        assert found == {"a/3.dcm": {"1.7"}, "a/4.dcm": {"1.1"}}

    def test_a_manifest_that_is_too_large_by_now_names_nothing(self, attributed: Attribution) -> None:
        attributed.world.put("s3://archive/in/delivery.json", b'{"files": {"a/3.dcm": "1.7"}}'.ljust(2_000))
        line = pipeline(receive={"mode": "manifest", "manifest_mib": 0.001})
        assert attributed(lost("a/3.dcm"), line=line) == {}

    @pytest.mark.parametrize(
        "body",
        [
            b"no JSON",
            b"[]",
            b'{"objects": 1}',
            b'{"files": ["a/3.dcm"]}',
            b'{"files": {"a/3.dcm": "1.7\\ud800"}}',
            b'{"files": {"a/3.dcm\\udfff": "1.7"}}',
        ],
    )
    def test_a_manifest_that_names_no_files_says_nothing(self, attributed: Attribution, body: bytes) -> None:
        attributed.world.put("s3://archive/in/delivery.json", body)
        assert attributed(lost("a/3.dcm"), line=pipeline(receive={"mode": "manifest"})) == {}


class TestByKey:
    def test_the_file_before_it_under_its_key_says_whose_it_is(self, attributed: Attribution) -> None:
        attributed.before(*of("1.5", "a/3.dcm", etag="old"))
        found = attributed(*of("1.1", "a/1.dcm"), *of("1.2", "a/2.dcm"), lost("a/3.dcm"))
        assert found == {"a/3.dcm": {"1.5"}}

    def test_it_comes_before_the_folder_and_needs_no_likeness(self, attributed: Attribution) -> None:
        attributed.before(*of("1.5", "a/odd.bin", etag="old"))
        assert attributed(*of("1.1", "a/1.dcm"), lost("a/odd.bin", "not_dicom")) == {"a/odd.bin": {"1.5"}}

    def test_an_earlier_file_without_a_study_says_nothing(self, attributed: Attribution) -> None:
        attributed.before(lost("a/3.dcm", etag="old"))
        assert attributed(*of("1.1", "a/1.dcm"), lost("a/3.dcm")) == {"a/3.dcm": {"1.1"}}

    def test_what_it_was_counted_to_before_it_is_counted_to_again(self, attributed: Attribution) -> None:
        attributed.before(lost("a/3.dcm", etag="old", StudyInstanceUID="1.5"))
        assert attributed(lost("a/3.dcm")) == {"a/3.dcm": {"1.5"}}


class TestHolds:
    def test_an_attributed_file_holds_its_study_as_sibling_unread(self, attributed: Attribution) -> None:
        file = lost("a/2.dcm")
        attributed(*of("1.1", "a/1.dcm"), file)
        causes = find_causes(attributed.by_study, Audit())
        assert causes[Reason.SIBLING_UNREAD] == [("1.1", file["arrival_id"])]
        assert causes[Reason.WAITING_FOR_FILE] == []

    def test_a_policy_that_holds_no_incomplete_studies_holds_none_for_unread_files(
        self, attributed: Attribution
    ) -> None:
        attributed(*of("1.1", "a/1.dcm"), lost("a/2.dcm"))
        assert find_causes(attributed.by_study, Audit(hold_incomplete_studies=False)) == {}

    @pytest.mark.parametrize("reason", ["access_denied", "object_gone", "object_changed"])
    def test_the_study_waits_for_an_object_that_s3_may_still_give(self, attributed: Attribution, reason: str) -> None:
        for tries in range(3):
            attributed(*of("1.1", "a/1.dcm"), lost("a/2.dcm", reason, etag=f"e{tries}"))
            assert attributed.by_file["code"].to_list() == ["waiting_for_file"]
            attributed.before(lost("a/2.dcm", reason, etag=f"e{tries}"), run=f"try {tries}")
        attributed(*of("1.1", "a/1.dcm"), lost("a/2.dcm", reason, etag="e4"))
        assert attributed.by_file["code"].to_list() == ["sibling_unread"]

    def test_with_no_nights_it_is_held_at_once(self, attributed: Attribution) -> None:
        attributed(*of("1.1", "a/1.dcm"), lost("a/2.dcm", "access_denied"), transient_nights=0)
        assert attributed.by_file["code"].to_list() == ["sibling_unread"]

    def test_the_disposition_names_the_study_and_how_it_was_found(self, attributed: Attribution) -> None:
        file = lost("a/2.dcm", "not_dicom")
        attributed(*of("1.1", "a/1.dcm"), file)
        row = {"arrival_id": file["arrival_id"], "key": file["key"], "detail": "text", "disposition": "quarantined"}
        named = name_studies(
            frame([row, {"arrival_id": "other", "detail": "as it was"}], DISPOSITIONS), attributed.by_file
        )
        assert named["study_instance_uid"].to_list() == ["1.1", None]
        assert named["detail"].to_list() == [
            "text; it counts to the study of the accepted files beside it",
            "as it was",
        ]


class TestSites:
    def test_files_without_a_study_are_counted_by_site(self, attributed: Attribution) -> None:
        attributed(lost("north/a/1.dcm"), lost("north/b/1.dcm"), lost("south/1.dcm"), lost("1.dcm"))
        assert attributed.unattributed == {"north": 2, "south": 1, "": 1}
