"""Image sets are compared by what a listing says; what GetImageSet does not confirm is no difference."""

from __future__ import annotations

from typing import Any

import polars as pl

from airlock.imaging.reconcile_content import compare_content
from airlock.imaging.reconcile_sets import find_candidates, group_sets, judge
from airlock.imaging.reconcile_store import LISTED, Seen
from airlock.ledger.reconciled import STORED
from airlock.records import CONTRACTS, study_key


def stored(*rows: dict[str, Any]) -> pl.DataFrame:
    usual = {"StudyInstanceUID": "1", "state": "imported", "image_set_id": "set", "image_set_version": 1}
    return pl.DataFrame([usual | row for row in rows], STORED)


def listed(*rows: tuple[str, str, int | None, bool | None]) -> pl.DataFrame:
    return pl.DataFrame(rows, LISTED, orient="row")


INSTANCES = stored({"SOPInstanceUID": "1.1", "arrival_id": "a"}, {"SOPInstanceUID": "1.2", "image_set_version": 2})


def candidates(*rows: tuple[str, str, int | None, bool | None], instances: pl.DataFrame = INSTANCES) -> list[str]:
    return find_candidates(group_sets(instances), listed(*rows))["image_set_id"].to_list()


def test_an_image_set_as_the_ledger_has_it_is_no_candidate() -> None:
    assert candidates(("set", "1", 2, True)) == []  # the version after its last import


def test_absent_unknown_and_changed_image_sets_are_candidates() -> None:
    assert candidates() == ["set"]
    assert candidates(("set", "1", 2, True), ("foreign", "1", 1, True)) == ["foreign"]
    assert candidates(("set", "1", 3, True)) == ["set"]
    assert candidates(("set", "1", 2, False)) == ["set"]


def test_what_a_listing_or_the_ledger_does_not_say_differs_in_nothing() -> None:
    assert candidates(("set", "1", None, None)) == []
    unknown = stored({"SOPInstanceUID": "1.1", "image_set_version": None})
    assert candidates(("set", "1", 7, True), instances=unknown) == []


def judged(one: Seen | None, *rows: tuple[str, str, int | None, bool | None]) -> list[tuple[str, str]]:
    found = find_candidates(group_sets(INSTANCES), listed(*rows))
    seen = dict.fromkeys(found["image_set_id"], one)
    findings = [finding for row in found.iter_rows(named=True) for finding in judge(row, seen, INSTANCES)]
    assert {finding["study_key"] for finding in findings} <= {study_key("1")}
    return [(finding["kind"], finding["subject"]) for finding in findings]


def test_an_image_set_that_is_gone_misses_its_instances() -> None:
    assert judged(None) == [("missing_in_store", "1.1"), ("missing_in_store", "1.2")]


def test_an_image_set_that_the_search_only_did_not_find_yet_differs_in_nothing() -> None:
    assert judged(Seen("ACTIVE", 2, is_primary=True)) == []
    assert judged(Seen("ACTIVE", 2, is_primary=None)) == []


def test_another_version_and_a_foreign_image_set_are_found() -> None:
    assert judged(Seen("ACTIVE", 3, is_primary=True), ("set", "1", 3, True)) == [("other_version", "set")]
    other = ("foreign", "1", 1, True), ("set", "1", 2, True)
    assert judged(Seen("ACTIVE", 1, is_primary=True), *other) == [("foreign_in_store", "foreign")]
    assert judged(None, *other) == []  # it was deleted after the listing


def test_an_image_set_that_is_being_changed_is_not_judged() -> None:
    assert judged(Seen("LOCKED", 3, is_primary=True), ("set", "1", 3, True)) == []


def document(*instances: str, patient: str = "P", frames: int = 1) -> dict[str, Any]:
    held = {uid: {"ImageFrames": [{}] * frames} for uid in instances}
    return {
        "Patient": {"DICOM": {"PatientID": patient}},
        "Study": {"DICOM": {}, "Series": {"1.9": {"Instances": held}}},
    }


def differences(content: dict[str, Any], frames: str | None = None) -> list[tuple[str, str]]:
    instances = [{"SOPInstanceUID": uid, "NumberOfFrames": frames} for uid in ("1.1", "1.2")]
    contract = pl.Series([{"PatientID": "P", "StudyDate": None, "series": [{"instances": instances}]}]).to_frame("c")
    text = contract["c"].struct.json_encode()[0]
    contracts = pl.DataFrame([("1", study_key("1"), 1, "digest", text)], CONTRACTS, orient="row")
    found = compare_content(INSTANCES, {"set": content}, contracts)
    return found.select("kind", "subject").rows()


def test_content_as_it_was_imported_differs_in_nothing() -> None:
    assert differences(document("1.1", "1.2")) == []
    assert differences(document("1.1", "1.2", patient=" P "), frames="1") == []


def test_a_lacking_instance_is_missing_and_changes_the_count() -> None:
    assert differences(document("1.1")) == [("other_instance_count", "set"), ("missing_in_store", "1.2")]


def test_an_instance_of_others_changes_the_count() -> None:
    assert differences(document("1.1", "1.2", "1.3")) == [("other_instance_count", "set")]


def test_another_patient_and_other_frames_are_other_content() -> None:
    assert differences(document("1.1", "1.2", patient="Q")) == [("other_content", "set")]
    assert differences(document("1.1", "1.2", frames=2), frames="1") == [
        ("other_content", "1.1"),
        ("other_content", "1.2"),
    ]
    assert differences(document("1.1", "1.2", frames=0), frames="1") == []  # not extracted: the service has warned
