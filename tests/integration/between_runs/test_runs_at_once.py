"""A study that several runs bring at once is released whole or not at all, whoever ends first or is killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chain import pipeline
from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import BAD, by_hand, give_back, given, kill_audit, released, slices

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

WITHOUT_FRAMES = ct(1, 1, 1, PixelData=b"\0\0")  # imported with a warning that holds
REJECTED = {"kind": "all_files_rejected", "key": "*/000001.dcm", "times": 1}  # the second file of a batch


def test_a_slice_rejected_in_a_run_whose_audit_was_killed_holds_the_study(place: Place) -> None:
    place.put({"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2)}, "in/one/")
    place.put({"003.dcm": ct(1, 1, 3)}, "in/two/")
    place.faults(REJECTED)
    one, two = by_hand(place, "one", "one"), by_hand(place, "two", "two")
    one.until("import")
    kill_audit(one, "GetImageSetMetadata")
    two.run()
    one.onward("audit")
    assert [two.report["studies"]["released"], one.report["studies"]["released"]] == [0, 0]
    assert place.contracts() == []


def test_an_instance_that_a_killed_audit_has_not_decided_goes_into_no_contract(place: Place) -> None:
    place.put({"001.dcm": WITHOUT_FRAMES}, "in/one/")
    place.put({"002.dcm": ct(1, 1, 2)}, "in/two/")
    one, two = by_hand(place, "one", "one"), by_hand(place, "two", "two")
    one.until("import")
    kill_audit(one, "PutObject", key="audit/report.json")
    two.run()
    one.onward("audit")
    given(one.report["reasons"].keys() == {"service_warning"})
    assert place.contracts() == []


def test_a_file_quarantined_by_a_run_that_still_imports_holds_the_study(place: Place) -> None:
    place.put({"bad.dcm": BAD, "other.dcm": ct(9, 1, 1)}, "in/one/")
    place.put({"good.dcm": ct(1, 1, 1)}, "in/two/")
    one, two = by_hand(place, "one", "one"), by_hand(place, "two", "two")
    one.until("validate")
    two.run()
    one.onward("normalize")
    assert [contract["StudyInstanceUID"] for contract in place.contracts()] == [study_uid(9)]


def test_two_runs_that_import_into_one_series_at_once_release_it_whole(place: Place) -> None:
    place.put({"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2)}, "in/one/")
    place.put({"003.dcm": ct(1, 1, 3)}, "in/two/")
    one, two = by_hand(place, "one", "one"), by_hand(place, "two", "two")
    one.until("import")
    two.run()
    one.onward("audit")
    assert "version_above_one" not in two.report["reasons"]
    assert released(place) == slices(1, 2, 3)


def test_a_study_held_for_a_claim_that_was_given_back_and_mended_is_released(place: Place) -> None:
    place.put({"001.dcm": ct(1, 2, 1)}, "in/one/")
    place.put({"002.dcm": ct(1, 1, 2)}, "in/two/")
    one = by_hand(place, "one", "one")
    one.until("validate")
    given(by_hand(place, "two", "two").run()["studies"]["held"] == 1)
    give_back(one)
    place.put({"001.dcm": ct(9, 1, 1)}, "in/one/")  # it was sent with the UIDs of another study
    by_hand(place, "three").run()
    assert {contract["StudyInstanceUID"] for contract in place.contracts()} == {study_uid(1), study_uid(9)}


def test_a_file_quarantined_by_another_pipeline_of_the_data_store_holds_the_study(place: Place) -> None:
    place.put({"bad.dcm": BAD}, "in/one/")
    place.put({"good.dcm": ct(1, 1, 1)}, "in/two/")
    by_hand(place, "one", "one", pipeline("first")).run()
    assert by_hand(place, "two", "two", pipeline("second")).run()["studies"]["released"] == 0
