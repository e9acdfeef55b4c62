"""Every arrival gets one verdict; what is accepted cannot contradict itself or what is in the store."""

from __future__ import annotations

from itertools import count, islice, permutations
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from airlock.dicom.preconditions import file_rules
from airlock.imaging.copies import decide_among_copies
from airlock.imaging.gate import decide_dispositions
from airlock.imaging.validate import (
    PATIENT_CONFLICTS,
    SERIES_ELEMENTS,
    STUDY_ELEMENTS,
    HeadersIncompleteError,
    apply_file_rules,
    apply_grouping_rules,
    validate,
)
from airlock.ledger import Job
from airlock.pipelines import Limits, Validate
from airlock.records import ATTRIBUTES, BATCHES, GATES, HEADERS, OUTCOMES, VERDICTS, Verdict, digest
from airlock.stages.batches import INDEX
from airlock.storage import spool
from tests.unit.airlock.world import STORE, Unproven, by_name, dicom, frame, joined, pipeline, unread

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.run import Run
    from tests.unit.airlock.world import World

ELEMENTS = {"StudyInstanceUID": STUDY_ELEMENTS, "SeriesInstanceUID": SERIES_ELEMENTS}
GROUPING = [(element, str(reason)) for elements in ELEMENTS.values() for element, reason in elements.items()]
PUT_TO_A_VOTE = [(element, code) for element, code in GROUPING if code not in PATIENT_CONFLICTS]


def decided(*files: dict[str, Any], **policy: Any) -> pl.DataFrame:
    """Decide on a delivery by itself, in the stage's own order of rules."""
    rules, choice = list(file_rules(Limits())), Validate(**policy)
    rows = decide_among_copies(apply_file_rules(joined(*files), rules, choice), Unproven(), choice)
    for group in ("SeriesInstanceUID", "StudyInstanceUID"):
        rows = apply_grouping_rules(rows, group, choice)
    return rows


def verdict(*files: dict[str, Any], **policy: Any) -> dict[str, str]:
    return by_name(decided(*files, **policy), "verdict")


def reason(*files: dict[str, Any], **policy: Any) -> dict[str, str | None]:
    return by_name(decided(*files, **policy), "reason")


def taken_through(
    world: World, run_id: str, *files: dict[str, Any], **changes: Any
) -> dict[str, tuple[str, str | None]]:
    """Validate a run's delivery and return verdict and reason by the file's name."""
    run = world.run(run_id, pipeline(**changes))
    world.buffered(run, *files)
    return again(run)


def again(run: Run) -> dict[str, tuple[str, str | None]]:
    counts = validate(run)
    rows = run.workspace.read("verdicts", VERDICTS)
    assert sum(counts.values()) == rows.height
    return {
        key.removeprefix("in/"): (word, why) for key, word, why in rows.select("key", "verdict", "reason").iter_rows()
    }


def imported(world: World, name: str, *uids: str, **changes: Any) -> None:
    """Record that a run's accepted arrivals (or those with these UIDs) are in the store, as its audit would."""
    run = world.run(name, pipeline(**changes))
    rows = run.workspace.read("verdicts", VERDICTS).filter(pl.col("verdict") == "accept")
    rows = rows.filter(pl.col("SOPInstanceUID").is_in(uids)) if uids else rows
    facts = rows.with_columns(
        state=pl.lit("imported"), image_set_id=pl.lit("i"), image_set_version=pl.lit(1, pl.Int64), batch_id=pl.lit("b")
    )
    world.ledger.record_imported(
        STORE, run.key, facts, rows.unique("StudyInstanceUID"), rows.unique("SeriesInstanceUID")
    )


def begun(run: Run, file: dict[str, Any]) -> None:
    """Plan one file as a batch and begin its job, as normalize and import would."""
    batch = digest(STORE, run.key, file["arrival_id"])
    row = file | {"batch_id": batch, "staged_key": "staged"}
    run.workspace.write(f"batches/{batch}", BATCHES, frame([row], BATCHES))
    run.workspace.write_json(INDEX, [{"batch_id": batch, "input_uri": "s3://work/x/", "files": 1, "bytes": 1}])
    run.ledger.record_job(Job(batch, 0, run.key, "token", "job"))


class TestFileRules:
    def test_a_sound_file_is_accepted_without_a_word(self) -> None:
        rows = decided(dicom("a"))
        assert rows.select("verdict", "reason", "detail", "duplicate_of").row(0) == ("accept", None, None, None)

    @pytest.mark.parametrize("code", ["sidecar", "dicomdir"])
    def test_what_was_never_an_instance_is_ignored(self, code: str) -> None:
        assert verdict(unread("a", code)) == {"a": "ignore"}

    @pytest.mark.parametrize(
        "code", ["empty_object", "not_dicom", "truncated", "unreadable", "object_gone", "access_denied"]
    )
    def test_what_could_not_be_read_is_quarantined_with_its_detail(self, code: str) -> None:
        rows = decided(unread("a", code, "RecursionError"), dicom("b"))
        assert by_name(rows, "verdict") == {"a": "quarantine", "b": "accept"}
        assert rows.select("reason", "detail").row(0) == (code, "RecursionError")

    @pytest.mark.parametrize("value", [None, ""])
    @pytest.mark.parametrize("keyword", ["SOPInstanceUID", "StudyInstanceUID", "SeriesInstanceUID", "SOPClassUID"])
    def test_a_missing_uid_is_quarantined_with_the_attribute(self, keyword: str, value: str | None) -> None:
        rows = decided(dicom("a", **{keyword: value}), dicom("b", **{keyword: value}), dicom("c"))
        assert by_name(rows, "verdict") == {"a": "quarantine", "b": "quarantine", "c": "accept"}
        assert set(rows["detail"][:2]) == {keyword}

    def test_a_soft_reason_is_noted_or_stops_as_the_policy_says(self) -> None:
        bad = dicom("a", SOPInstanceUID="1.02")
        assert decided(bad).select("verdict", "reason", "detail").row(0) == ("accept", "invalid_uid", "SOPInstanceUID")
        assert verdict(bad, warn_only=[]) == {"a": "quarantine"}
        odd = dicom("a", TransferSyntaxUID="1.2.3")
        assert reason(odd) == {"a": "unknown_transfer_syntax"}
        assert verdict(odd) == {"a": "accept"}
        assert verdict(odd, warn_only=["invalid_uid"]) == {"a": "quarantine"}

    def test_what_the_service_would_not_import_is_stopped_by_any_policy(self) -> None:
        assert verdict(dicom("a", StudyDescription="x" * 257)) == {"a": "quarantine"}
        assert verdict(dicom("a", NumberOfStudyRelatedSeries="1000001")) == {"a": "quarantine"}

    def test_undecodable_text_is_noted_or_stops_as_the_policy_says(self) -> None:
        bad = dicom("a", warning="undecodable_text", detail="PatientName")
        assert decided(bad).select("verdict", "reason", "detail").row(0) == (
            "accept",
            "undecodable_text",
            "PatientName",
        )
        stopped = decided(bad, warn_only=[])
        assert stopped.select("verdict", "reason", "detail").row(0) == ("quarantine", "undecodable_text", "PatientName")

    def test_what_stops_a_file_is_named_before_what_is_noted(self) -> None:
        bad = dicom("a", warning="undecodable_text", detail="PatientName", StudyInstanceUID="", SOPInstanceUID="1.02")
        assert decided(bad).select("reason", "detail").row(0) == ("missing_study_instance_uid", "StudyInstanceUID")


class TestDuplicates:
    def test_the_same_content_three_times_is_taken_once(self) -> None:
        copies = [dicom(name, SOPInstanceUID="1.5", etag="e", size=7) for name in ("b", "c", "a")]
        rows = decided(*copies)
        assert by_name(rows, "verdict") == {"a": "accept", "b": "duplicate", "c": "duplicate"}
        first = copies[2]["arrival_id"]
        assert by_name(rows, "duplicate_of") == {"a": None, "b": first, "c": first}
        assert by_name(rows, "reason") == {"a": None, "b": "duplicate_same_content", "c": "duplicate_same_content"}

    @pytest.mark.parametrize("difference", [{"etag": "other"}, {"size": 8}])
    def test_other_content_under_one_uid_is_quarantined_all_of_it(self, difference: dict[str, Any]) -> None:
        same = [dicom(name, SOPInstanceUID="1.5", etag="e", size=7) for name in ("a", "b")]
        other = dicom("c", **({"SOPInstanceUID": "1.5", "etag": "e", "size": 7} | difference))
        assert verdict(*same, other, dicom("d")) == {
            "a": "quarantine",
            "b": "quarantine",
            "c": "quarantine",
            "d": "accept",
        }

    def test_one_uid_in_two_series_loses_none(self) -> None:
        one = dicom("a", SOPInstanceUID="1.5", SeriesInstanceUID="1.1.1")
        two = dicom("b", SOPInstanceUID="1.5", SeriesInstanceUID="1.1.2")
        assert reason(one, two) == {"a": "identity_changed", "b": "identity_changed"}

    def test_a_whole_delivery_with_one_uid_loses_none(self) -> None:
        files = [dicom(f"{number:03}", SOPInstanceUID="1.5") for number in range(426)]
        rows = decided(*files)
        assert rows["verdict"].value_counts().rows() == [("quarantine", 426)]

    def test_a_file_that_is_stopped_anyway_has_no_say(self) -> None:
        bad = dicom("a", SOPInstanceUID="1.5", StudyInstanceUID=None)
        assert verdict(bad, dicom("b", SOPInstanceUID="1.5")) == {"a": "quarantine", "b": "accept"}

    def test_files_without_a_uid_are_no_duplicates_of_each_other(self) -> None:
        assert set(reason(unread("a", "not_dicom"), unread("b", "not_dicom")).values()) == {"not_dicom"}


def pair(element: str, one: str | None, two: str | None) -> list[dict[str, Any]]:
    """Return three files of one series that differ in one element: a and b say one thing, c another."""
    return [dicom(name, **{element: value}) for name, value in (("a", one), ("b", one), ("c", two))]


@pytest.mark.parametrize(("element", "code"), GROUPING)
class TestGroupingElements:
    def test_one_that_varies_is_rejected_all_of_it(self, element: str, code: str) -> None:
        assert reason(*pair(element, "1.7", "1.8")) == {"a": code, "b": code, "c": code}
        assert set(verdict(*pair(element, "1.7", "1.8")).values()) == {"quarantine"}

    @pytest.mark.parametrize("empty", ["", " ", "  "])
    def test_absent_and_empty_are_one_value(self, element: str, code: str, empty: str) -> None:
        if element == "StudyInstanceUID":
            return  # which must be there
        assert set(verdict(*pair(element, None, empty)).values()) == {"accept"}
        assert reason(*pair(element, "1.7", empty)) == {"a": code, "b": code, "c": code}

    def test_padding_does_not_count(self, element: str, code: str) -> None:
        if element != "StudyInstanceUID":  # where it is another study
            assert set(verdict(*pair(element, "1.7", "1.7 ")).values()) == {"accept"}

    def test_other_studies_are_not_concerned(self, element: str, code: str) -> None:
        other = dicom("z", StudyInstanceUID="1.9", SeriesInstanceUID="1.9.1")
        assert verdict(*pair(element, "1.7", "1.8"), other)["z"] == "accept"

    def test_a_conflict_with_the_store_is_found(self, world: World, element: str, code: str) -> None:
        assert taken_through(world, "one", dicom("a", **{element: "1.7"})) == {"a": ("accept", None)}
        imported(world, "one")
        assert taken_through(world, "two", dicom("b", **{element: "1.8"})) == {"b": ("quarantine", code)}
        assert taken_through(world, "three", dicom("c", **{element: "1.7"})) == {"c": ("accept", None)}


@pytest.mark.parametrize(("element", "code"), PUT_TO_A_VOTE)
class TestPoliciesForConflicts:
    def test_by_majority_the_smaller_part_is_rejected(self, element: str, code: str) -> None:
        assert verdict(*pair(element, "1.7", "1.8"), grouping_conflict="majority") == {
            "a": "accept",
            "b": "accept",
            "c": "quarantine",
        }
        assert reason(*pair(element, "1.7", "1.8"), grouping_conflict="majority") == {"a": None, "b": None, "c": code}

    def test_a_tie_has_no_majority(self, element: str, code: str) -> None:
        files = pair(element, "1.7", "1.8")[1:]
        assert verdict(*files, grouping_conflict="majority") == {"b": "quarantine", "c": "quarantine"}
        three = [*files, dicom("d", **{element: "1.7"}), dicom("e", **{element: "1.8"}), dicom("f", **{element: "1.9"})]
        assert set(verdict(*three, grouping_conflict="majority").values()) == {"quarantine"}

    def test_accepted_it_is_noted_on_all(self, element: str, code: str) -> None:
        rows = decided(*pair(element, "1.7", "1.8"), grouping_conflict="accept")
        assert set(rows["verdict"]) == {"accept"}
        assert set(rows["reason"]) == {code}
        assert set(rows["detail"]) == {f"2 values of {element} in this delivery"}

    def test_accepted_a_conflict_with_the_store_is_noted(self, world: World, element: str, code: str) -> None:
        taken_through(world, "one", dicom("a", **{element: "1.7"}))
        imported(world, "one")
        accepting = {"validation": {"grouping_conflict": "accept"}}
        assert taken_through(world, "two", dicom("b", **{element: "1.8"}), **accepting) == {"b": ("accept", code)}


@pytest.mark.parametrize("warn_only", [[], ["undecodable_text"]])
def test_an_image_without_pixel_data_is_noted_whatever_the_policy(warn_only: list[str]) -> None:
    rows = decided(dicom("a", warning="no_pixel_data"), warn_only=warn_only)
    assert rows.select("verdict", "reason").row(0) == ("accept", "no_pixel_data")


@pytest.mark.parametrize("other", ["01", " 1", "+1", "001 "])
def test_a_series_number_is_an_integer_however_it_is_written(world: World, other: str) -> None:
    files = dicom("a", SeriesNumber="1"), dicom("b", SeriesNumber=other)
    assert reason(*files) == {"a": None, "b": None}
    assert taken_through(world, "one", files[0]) == {"a": ("accept", None)}
    imported(world, "one")
    assert taken_through(world, "two", files[1]) == {"b": ("accept", None)}


def test_a_series_number_that_is_not_an_integer_is_compared_as_it_is_written() -> None:
    for other in ("1.0", "x", "1" * 30):
        assert set(reason(dicom("a", SeriesNumber="1"), dicom("b", SeriesNumber=other)).values()) == {
            "series_number_conflict"
        }


TWO_PATIENTS = [
    dicom("a", PatientID="1", SeriesNumber="1", StudyDate="20260301"),
    dicom("b", PatientID="2", SeriesNumber="2", StudyDate="20260302"),
]


class TestPatientConflicts:
    """Whose study it is, is asked first."""

    @pytest.mark.parametrize("lesser", [{}, {"grouping_conflict": "accept"}])
    def test_one_is_named_beside_lesser_conflicts_of_the_same_files(self, lesser: dict[str, Any]) -> None:
        assert reason(*TWO_PATIENTS, **lesser) == dict.fromkeys("ab", "patient_id_conflict")

    def test_one_is_named_of_all_files_of_the_study_though_some_have_a_lesser_conflict(self) -> None:
        other_series = dicom("c", PatientID="1", SeriesInstanceUID="1.1.9", StudyDate="20260301")
        assert reason(*TWO_PATIENTS, other_series) == dict.fromkeys("abc", "patient_id_conflict")

    @pytest.mark.parametrize("policy", ["majority", "accept"])
    @pytest.mark.parametrize("element", ["PatientID", "IssuerOfPatientID"])
    def test_one_is_not_put_to_a_vote(self, world: World, element: str, policy: str) -> None:
        code = str(STUDY_ELEMENTS[element])
        assert reason(*pair(element, "1.7", "1.8"), grouping_conflict=policy) == dict.fromkeys("abc", code)
        assert set(verdict(*pair(element, "1.7", "1.8"), grouping_conflict=policy).values()) == {"quarantine"}
        taken_through(world, "one", dicom("a", **{element: "1.7"}))
        imported(world, "one")
        policies = {"validation": {"grouping_conflict": policy}}
        late = taken_through(world, "two", dicom("b", **{element: "1.8"}), **policies)
        assert late == {"b": ("quarantine", code)}

    def test_by_majority_a_lesser_conflict_of_other_files_is_hidden_by_one(self) -> None:
        files = [*TWO_PATIENTS, dicom("c", PatientID="1", SeriesNumber="1", StudyDate="20260301")]
        odd = dicom("d", PatientID="1", SeriesNumber="7", StudyDate="20260301")
        assert reason(*files, odd, grouping_conflict="majority") == dict.fromkeys("abcd", "patient_id_conflict")

    def test_one_with_the_store_is_named_beside_a_lesser_conflict(self, world: World) -> None:
        taken_through(world, "one", dicom("z", PatientID="1", SeriesNumber="1"))
        imported(world, "one")
        wrong = {"PatientID": "2", "StudyInstanceUID": "1.1"}
        files = dicom("a", SeriesNumber="8", **wrong), dicom("b", SeriesNumber="9", **wrong)
        assert taken_through(world, "two", *files) == dict.fromkeys("ab", ("quarantine", "patient_id_conflict"))


def test_the_elements_are_those_of_the_service_and_the_issuer() -> None:
    assert {element for element, _ in GROUPING} == {
        "StudyDate",
        "AccessionNumber",
        "PatientID",
        "StudyID",
        "SeriesNumber",
        "StudyInstanceUID",
        "IssuerOfPatientID",
    }


def test_one_series_may_vary_what_only_a_study_must_keep_apart() -> None:
    files = [
        dicom("a", SeriesInstanceUID="1.1.1", SeriesNumber="1"),
        dicom("b", SeriesInstanceUID="1.1.2", SeriesNumber="2"),
    ]
    assert set(verdict(*files).values()) == {"accept"}


SAME = {"SOPInstanceUID": "1.5", "etag": "e", "size": 7}


class TestLedger:
    def test_the_same_content_again_is_a_duplicate_and_other_content_is_quarantined(self, world: World) -> None:
        taken_through(world, "one", dicom("a", **SAME))
        imported(world, "one")
        assert taken_through(world, "two", dicom("b", **SAME), dicom("c", SOPInstanceUID="1.6")) == {
            "b": ("duplicate", "duplicate_same_content"),
            "c": ("accept", None),
        }
        assert taken_through(world, "three", dicom("d", **SAME | {"etag": "new"})) == {
            "d": ("quarantine", "duplicate_other_content")
        }

    def test_what_another_run_has_not_imported_yet_is_no_duplicate(self, world: World) -> None:
        """Should that run fail, nothing is in the store: nobody may be told that nothing is to do."""
        taken_through(world, "one", dicom("a", **SAME))
        assert taken_through(world, "two", dicom("b", **SAME)) == {"b": ("quarantine", "instance_claimed")}
        assert taken_through(world, "three", dicom("c", **SAME | {"etag": "new"})) == {
            "c": ("quarantine", "duplicate_other_content")
        }

    def test_it_says_of_which_arrival(self, world: World) -> None:
        first = dicom("a", **SAME)
        taken_through(world, "one", first)
        for name in ("two", "three"):
            taken_through(world, name, dicom(name, **SAME))
            rows = world.run(name).workspace.read("verdicts", VERDICTS)
            assert rows["duplicate_of"].to_list() == [first["arrival_id"]]
            imported(world, "one")

    def test_three_copies_of_what_the_store_has_are_all_duplicates(self, world: World) -> None:
        taken_through(world, "one", dicom("a", **SAME))
        imported(world, "one")
        found = taken_through(world, "two", *(dicom(name, **SAME) for name in "bcd"))
        assert set(found.values()) == {("duplicate", "duplicate_same_content")}

    def test_one_object_that_two_pipelines_bring_to_one_store_is_taken_once(self, world: World) -> None:
        taken_through(world, "one", dicom("a", **SAME))
        assert taken_through(world, "one", dicom("a", **SAME), name="weekly") == {
            "a": ("quarantine", "instance_claimed")
        }
        imported(world, "one")
        assert taken_through(world, "two", dicom("a", **SAME), name="monthly") == {
            "a": ("duplicate", "duplicate_same_content")
        }

    def test_another_store_has_instances_of_its_own(self, world: World) -> None:
        taken_through(world, "one", dicom("a", **SAME))
        elsewhere = {"name": "weekly", "healthimaging": {"datastore_id": "e" * 32}}
        assert taken_through(world, "two", dicom("b", **SAME), **elsewhere) == {"b": ("accept", None)}

    def test_what_the_earlier_run_did_not_bring_in_may_come_again(self, world: World) -> None:
        taken_through(world, "one", dicom("a", **SAME))
        world.ledger.drop_instances(STORE, world.run("one").key, pl.Series(["1.5"]))
        assert taken_through(world, "two", dicom("b", **SAME)) == {"b": ("accept", None)}

    def test_a_rerun_decides_the_same_before_and_after_its_import_and_after_other_runs(self, world: World) -> None:
        files = [
            dicom("a"),
            dicom("b", **SAME),
            dicom("c", **SAME),
            unread("d", "not_dicom"),
            dicom("e", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", PatientID="P2"),
            dicom("f", StudyInstanceUID="1.2", SeriesInstanceUID="1.2.1", PatientID="P3"),
        ]
        first = taken_through(world, "one", *files)
        assert {word for word, _ in first.values()} == {"accept", "duplicate", "quarantine"}
        one = world.run("one")
        rows = one.workspace.read("verdicts", VERDICTS)
        assert again(one) == first
        imported(world, "one")
        assert again(one) == first
        late = dicom("late", SOPInstanceUID="1.77"), dicom("twin", **SAME | {"etag": "x"})
        assert taken_through(world, "two", *late)["late"] == ("accept", None)
        imported(world, "two")
        assert again(one) == first
        assert one.workspace.read("verdicts", VERDICTS).equals(rows)

    def test_once_a_job_was_begun_the_verdicts_stand(self, world: World) -> None:
        file = dicom("a", SOPInstanceUID="1.02")
        first = taken_through(world, "one", file)
        strict = world.run("one", pipeline(validation={"warn_only": []}))
        assert again(strict) == {"a": ("quarantine", "invalid_uid")}
        assert again(world.run("one")) == first
        begun(strict, file)
        assert again(strict) == first

    def test_a_rerun_of_an_accepted_conflict_decides_the_same_after_other_runs(self, world: World) -> None:
        accepting = {"validation": {"grouping_conflict": "accept"}}
        first = taken_through(world, "one", dicom("a", StudyID="x"), dicom("b", StudyID="y"), **accepting)
        imported(world, "one", **accepting)
        taken_through(world, "two", dicom("c", StudyID="x"), **accepting)
        imported(world, "two", **accepting)
        assert again(world.run("one", pipeline(**accepting))) == first


def test_an_empty_delivery_has_no_verdicts(world: World) -> None:
    assert taken_through(world, "one") == {}


def test_headers_must_be_there_for_every_arrival(world: World) -> None:
    run = world.run()
    world.buffered(run, dicom("a"), dicom("b"))
    run.workspace.write("headers/0000", HEADERS, frame([dicom("a")], HEADERS))
    with pytest.raises(HeadersIncompleteError, match="2 arrivals, 1 header rows, 1 of them matched: clear parse"):
        validate(run)
    run.workspace.write("headers/0000", HEADERS, frame([dicom("a"), dicom("c")], HEADERS))
    with pytest.raises(HeadersIncompleteError, match="2 arrivals, 2 header rows, 1 of them matched"):
        validate(run)
    assert not run.workspace.is_committed("verdicts")


def test_the_order_of_a_delivery_decides_nothing() -> None:
    files = [
        dicom("a"),
        dicom("b", PatientID="P2"),
        dicom("c", SOPInstanceUID="1.5", etag="e"),
        dicom("d", SOPInstanceUID="1.5", etag="e"),
        unread("e", "truncated"),
    ]
    for policy in ("reject", "majority", "accept"):
        orders = islice(permutations(files), 0, None, 17)
        assert len({tuple(sorted(verdict(*order, grouping_conflict=policy).items())) for order in orders}) == 1


values = st.sampled_from([None, "", "1", "2"])


@st.composite
def deliveries(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Draw small deliveries in which everything clashes with everything."""
    files = []
    for number in range(draw(st.integers(0, 9))):
        if draw(st.integers(0, 9)) == 0:
            files.append(unread(f"{number}", draw(st.sampled_from(["not_dicom", "sidecar", "truncated"]))))
            continue
        changes = {
            keyword: draw(values)
            for keyword in ("PatientID", "StudyDate", "AccessionNumber", "SeriesNumber", "StudyID")
        }
        changes |= {"SOPInstanceUID": draw(st.sampled_from(["1.5", "1.6", "1.7", "1.8", "", "01"]))}
        changes |= {"StudyInstanceUID": draw(st.sampled_from(["1.1", "1.1", "1.2", None]))}
        changes |= {"SeriesInstanceUID": draw(st.sampled_from(["1.1.1", "1.1.2"])), "etag": draw(st.sampled_from("ef"))}
        changes |= {"size": draw(st.sampled_from([1, 2])), "IssuerOfPatientID": draw(values)}
        files.append(dicom(f"{number}", **changes))
    return files


def assert_sound(rows: pl.DataFrame, files: list[dict[str, Any]], policy: str) -> None:
    """Hold verdicts to the design: one each, no instance twice, one value of each grouping element."""
    assert sorted(rows["arrival_id"]) == sorted(each["arrival_id"] for each in files)
    assert rows["verdict"].is_in([*Verdict]).all()
    assert rows.filter(pl.col("verdict") != "accept")["reason"].null_count() == 0
    accepted = rows.filter(pl.col("verdict") == "accept")
    assert accepted["SOPInstanceUID"].n_unique() == accepted.height
    if policy != "accept":
        assert_one_value_each(accepted)
    assert_one_patient_each(accepted)
    copies = rows.filter(pl.col("verdict") == "duplicate").join(rows, left_on="duplicate_of", right_on="arrival_id")
    assert copies.height == rows.filter(pl.col("verdict") == "duplicate").height
    assert (copies["SOPInstanceUID"] == copies["SOPInstanceUID_right"]).all()
    assert ((copies["etag"] == copies["etag_right"]) & (copies["size"] == copies["size_right"])).all()
    undecided = decide_dispositions(
        rows, rows, OUTCOMES.to_frame().with_columns(blocks=pl.lit(None, pl.Boolean)), GATES.to_frame()
    )
    assert undecided.height == len(files)


example = count()  # each has a pipeline and a store of its own


@settings(max_examples=80)
@given(deliveries(), st.sampled_from(["reject", "majority", "accept"]), st.randoms(use_true_random=False))
def test_any_delivery_is_decided_soundly_in_any_order(files: list[dict[str, Any]], policy: str, random: Any) -> None:
    rows = decided(*files, grouping_conflict=policy)
    assert_sound(rows, files, policy)
    shuffled = list(files)
    random.shuffle(shuffled)
    assert verdict(*shuffled, grouping_conflict=policy) == by_name(rows, "verdict")
    assert reason(*shuffled, grouping_conflict=policy) == by_name(rows, "reason")


example = count()  # each has a pipeline and a store of its own


@settings(max_examples=6, phases=[Phase.generate], suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(deliveries(), deliveries(), st.sampled_from(["reject", "majority"]))
def test_two_deliveries_after_each_other_never_bring_one_instance_twice(
    world: World, first: list[dict[str, Any]], second: list[dict[str, Any]], policy: str
) -> None:
    serial = next(example)
    store = f"{serial:032}"
    changes = {
        "validation": {"grouping_conflict": policy},
        "healthimaging": {"datastore_id": store},
        "name": f"n{serial}",
    }
    second = [dicom("", **(each | {"key": each["key"] + "-second"})) for each in second]
    runs = {}
    for name, files in (("one", first), ("two", second)):
        run = runs[name] = world.run(name, pipeline(**changes))
        world.buffered(run, *files)
        validate(run)
        rows = run.workspace.read("verdicts", VERDICTS)
        kept = rows.filter(pl.col("verdict") == "accept")
        facts = kept.with_columns(
            state=pl.lit("imported"),
            image_set_id=pl.lit("i"),
            image_set_version=pl.lit(1, pl.Int64),
            batch_id=pl.lit("b"),
        )
        world.ledger.record_imported(store, run.key, facts, kept, kept)
    before = assert_sound_together(runs.values(), len(first) + len(second))
    validate(runs["one"])  # what it could not accept, the other run may have brought in meanwhile
    after = assert_sound_together(runs.values(), len(first) + len(second))
    assert set(before["arrival_id"]) <= set(after["arrival_id"])


def clashing() -> list[dict[str, Any]]:
    """Return files that clash across series and across studies."""
    same = {"SOPInstanceUID": "1.6", "etag": "e", "size": 7}
    two = {"StudyInstanceUID": "1.2", "SeriesInstanceUID": "1.2.1"}
    three = {"StudyInstanceUID": "1.3", "SeriesInstanceUID": "1.3.1"}
    five = {"StudyInstanceUID": "1.5", "SeriesInstanceUID": "1.5.1"}
    return [
        dicom("a", SOPInstanceUID="1.5"),
        dicom("b", SOPInstanceUID="1.5", **two),
        dicom("c", **same),
        dicom("d", **same, **two),
        dicom("ee", **three),
        dicom("fff", **three | {"StudyInstanceUID": "1.4"}),
        dicom("gggg", **three),
        dicom("hh", **three | {"SeriesInstanceUID": "1.3.2", "PatientID": "P2"}),
        dicom("i", SeriesNumber="1", **five),
        dicom("jj", SeriesNumber="2", **five),
        dicom("kkk", SeriesNumber="2", **five),
        dicom("l", StudyInstanceUID=None),
        unread("m", "not_dicom"),
        unread("n", "sidecar"),
    ]


@pytest.mark.parametrize("policy", ["reject", "majority", "accept"])
def test_how_a_delivery_is_partitioned_decides_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, policy: str
) -> None:
    run = world.run("one", pipeline(validation={"grouping_conflict": policy}))
    world.buffered(run, *clashing())
    at_once = decided(*clashing(), grouping_conflict=policy).select(VERDICTS.names()).cast(VERDICTS)
    for rows in (spool.PARTITION_ROWS, 1):
        monkeypatch.setattr(spool, "PARTITION_ROWS", rows)
        validate(run)
        assert_frame_equal(run.workspace.read("verdicts", VERDICTS), at_once, check_row_order=False)


def test_a_studys_verdicts_are_in_one_part(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spool, "PARTITION_ROWS", 1)
    run = world.run()
    world.buffered(run, *(dicom(f"{number}", StudyInstanceUID=f"1.{number % 5}") for number in range(20)))
    validate(run)
    parts = [set(part["StudyInstanceUID"]) for part in run.workspace.parts("verdicts", VERDICTS)]
    assert len(parts) > 1
    assert sum(map(len, parts)) == len(set().union(*parts)) == 5


def assert_sound_together(runs: Iterable[Run], arrivals: int) -> pl.DataFrame:
    """Hold several runs' verdicts to the design, as if they were one delivery's; return what they accept."""
    rows = pl.concat([run.workspace.read("verdicts", VERDICTS) for run in runs])
    assert rows["arrival_id"].n_unique() == rows.height == arrivals
    accepted = rows.filter(pl.col("verdict") == "accept")
    assert accepted["SOPInstanceUID"].n_unique() == accepted.height
    assert_one_value_each(accepted)
    return accepted


def assert_one_value_each(accepted: pl.DataFrame) -> None:
    for group, elements in ELEMENTS.items():
        for element in elements:
            different = accepted.group_by(group).agg(pl.col(element).fill_null("").str.strip_chars().n_unique())
            assert different.filter(pl.col(element) > 1).is_empty(), element


def assert_one_patient_each(accepted: pl.DataFrame) -> None:
    whose = pl.struct(pl.col("PatientID", "IssuerOfPatientID").fill_null("").str.strip_chars())
    assert (accepted.group_by("StudyInstanceUID").agg(whose.n_unique().alias("patients"))["patients"] == 1).all()


def test_the_words_of_the_attributes_are_kept_as_they_are() -> None:
    rows = decided(dicom("a", PatientName="Müller^É", StudyDescription=" x "))
    assert rows.select("PatientName", "StudyDescription").row(0) == ("Müller^É", " x ")
    assert set(ATTRIBUTES) <= set(rows.columns)
