"""A released study has all that is known of it: unreadable files, files of other runs, files that were mended."""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from tests.chain import pipeline
from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import BAD, by_hand, given, newest_contract, redrive, released, slices
from tests.ledger_rows import count_arrivals

if TYPE_CHECKING:
    from datetime import tzinfo

    from airlock.pipelines import ImagingPipeline
    from tests.chain import Place

pytestmark = pytest.mark.slow


class TestUnreadableFiles:
    def test_a_study_with_an_unreadable_sibling_is_held(self, place: Place) -> None:
        place.put({"empty/001.dcm": ct(1, 1, 1), "empty/002.dcm": ct(1, 1, 2), "empty/003.dcm": b""})
        place.put({"garbage/001.dcm": ct(2, 1, 1), "garbage/002.dcm": ct(2, 1, 2), "garbage/003.dcm": b"\0" * 4000})
        report = by_hand(place, "one").run()
        given(report["dispositions"]["quarantined"] == 2)
        assert report["studies"]["released"] == 0
        assert place.contracts() == []

    def test_a_study_with_fewer_instances_than_it_declares_is_not_passed_off_as_complete(self, place: Place) -> None:
        place.put({f"{n:03}.dcm": ct(1, 1, n, NumberOfStudyRelatedInstances=300) for n in (1, 2)})
        by_hand(place, "one").run()
        contract = newest_contract(place)  # none if the policy holds the study
        assert contract is None or "300" in json.dumps(contract.get("completeness"))

    def test_a_redrive_of_a_file_that_has_vanished_does_not_release_its_study(self, place: Place) -> None:
        place.put({"001.dcm": ct(1, 1, 1), "002.dcm": BAD})
        given(by_hand(place, "one").run()["studies"]["held"] == 1)
        place.s3().delete_object(Bucket="archive", Key="in/002.dcm")
        again = redrive(place, "two", "element_too_long").run()
        given("object_gone" in again["reasons"])
        assert again["studies"]["released"] == 0
        assert place.contracts() == []

    def test_a_study_is_released_when_its_unreadable_files_come_again_mended(self, place: Place) -> None:
        place.put({"001.dcm": ct(1, 1, 1), "002.dcm": b"", "003.dcm": bytes(range(256)) * 9})
        first = by_hand(place, "one").run()
        given(first["studies"]["held"] == 1)
        assert set(first["reasons"]) == {"sibling_unread", "empty_object", "not_dicom"}
        place.put({"002.dcm": ct(1, 1, 2), "003.dcm": ct(1, 1, 3)})
        assert by_hand(place, "two").run()["studies"] == {"released": 1, "held": 0, "stopped": 0}
        assert released(place) == slices(1, 2, 3)

    def test_stray_files_in_a_folder_of_many_studies_hold_none(self, place: Place) -> None:
        studies = {f"all/{study}-{n}.dcm": ct(study, 1, n) for study in range(1, 9) for n in (1, 2)}
        strays = {"all/viewer.dll": b"MZ" + bytes(900), "all/7-3.dcm": b"", "all/INDEX": b"1 2 3"}
        place.put(studies | strays)
        report = by_hand(place, "one").run()
        assert report["studies"] == {"released": 8, "held": 0, "stopped": 0}
        assert report["unattributed"]["files"] == 3

    def test_an_unreadable_file_holds_its_study_in_later_nights_too(self, place: Place) -> None:
        place.put({"001.dcm": ct(1, 1, 1), "002.dcm": b""})
        by_hand(place, "one").run()
        place.put({"elsewhere/003.dcm": ct(1, 1, 3)})
        assert by_hand(place, "two").run()["studies"]["held"] == 1
        assert place.contracts() == []

    def test_a_good_file_that_is_replaced_by_garbage_holds_what_comes_later(self, place: Place) -> None:
        place.put({"one/001.dcm": ct(1, 1, 1), "one/002.dcm": ct(1, 1, 2), "one/003.dcm": ct(2, 1, 1)})
        by_hand(place, "one").run()
        place.put({"one/002.dcm": b""})
        by_hand(place, "two").run()
        place.put({"two/004.dcm": ct(1, 1, 4)})
        assert by_hand(place, "three").run()["studies"]["held"] == 1

    def test_a_file_that_comes_unreadable_after_its_siblings_holds_what_comes_later(self, place: Place) -> None:
        place.put({"one/001.dcm": ct(1, 1, 1)})
        by_hand(place, "one").run()
        place.put({"one/002.dcm": b""})
        assert by_hand(place, "two").run()["unattributed"]["files"] == 0
        place.put({"two/003.dcm": ct(1, 1, 3)})
        assert by_hand(place, "three").run()["studies"]["held"] == 1


class TestLater:
    def test_a_release_stands_when_its_run_is_audited_again_after_a_bad_sibling_came(self, place: Place) -> None:
        place.put({"001.dcm": ct(1, 1, 1)}, "in/one/")
        place.put({"bad.dcm": BAD}, "in/two/")
        one = by_hand(place, "one", "one")
        given(one.run()["dispositions"] == {"released": 1})
        by_hand(place, "two", "two").run()
        assert one.onward("audit")["dispositions"] == {"released": 1}

    def test_a_study_is_released_when_its_bad_files_are_mended_under_their_keys(self, place: Place) -> None:
        without_uid = {"002.dcm": ct(1, 1, 2, SOPInstanceUID="")}
        under_one_uid = {"003.dcm": ct(1, 1, 3, pixel=1), "004.dcm": ct(1, 1, 3, pixel=2)}
        place.put({"001.dcm": ct(1, 1, 1)} | without_uid | under_one_uid)
        given(by_hand(place, "one").run()["dispositions"] == {"quarantined": 3, "held": 1})
        place.put({"002.dcm": ct(1, 1, 2), "003.dcm": ct(1, 1, 5, pixel=1), "004.dcm": ct(1, 1, 6, pixel=2)})
        by_hand(place, "two").run()
        assert released(place) == slices(1, 2, 5, 6)

    def test_what_was_held_for_a_sibling_is_released_with_its_study(self, place: Place) -> None:
        place.put({"001.dcm": ct(1, 1, 1), "002.dcm": BAD})
        by_hand(place, "one").run()
        place.put({"002.dcm": ct(1, 1, 2)})
        by_hand(place, "two").run()
        given(released(place) == slices(1, 2))
        with place.ledger() as ledger:
            assert "held" not in {state for state, number in count_arrivals(ledger, "nightly").items() if number}


def deliver_listed(place: Place, folder: str, files: dict[str, bytes], instances: int) -> None:
    """Deliver files with a manifest that declares this number of instances of study 1."""
    manifest = {"objects": len(files), "studies": {study_uid(1): instances}}
    place.put(files | {"delivery.json": json.dumps(manifest).encode()}, f"in/{folder}/")


def listed(**policy: Any) -> ImagingPipeline:
    audit = {"manifest_wait_seconds": 3, "declared_count": policy}
    return pipeline(receive={"mode": "manifest", "quiet_seconds": 0}, audit=audit)


class TestDeclaredNumbers:
    def test_a_study_is_held_until_as_many_instances_have_come_as_its_manifest_declares(self, place: Place) -> None:
        deliver_listed(place, "one", {"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2)}, 3)
        report = by_hand(place, "one", "one", listed()).run()
        assert report["dispositions"] == {"held": 2, "ignored": 1}
        assert report["reasons"]["fewer_than_declared"]["arrivals"] == 2
        (finding,) = report["declared"]["findings"]
        assert (finding["known"], finding["declared"], finding["declared_by"]) == (2, 3, "manifest")
        place.put({"003.dcm": ct(1, 1, 3)}, "in/two/")
        assert report["completeness"] == {}
        report = by_hand(place, "two", "two").run()
        assert (report["dispositions"], report["completeness"]) == ({"released": 1}, {"complete": 1})
        contract = newest_contract(place)
        assert contract is not None
        assert contract["completeness"] == {
            "state": "complete",
            "released": 3,
            "known": 3,
            "declared": 3,
            "declared_by": "manifest",
            "waiting": 0,
            "quarantined": 0,
            "unattributed": 0,
        }

    def test_a_manifest_that_declares_too_few_or_another_study_holds_nothing(self, place: Place) -> None:
        deliver_listed(place, "one", {"001.dcm": ct(1, 1, 1), "002.dcm": ct(2, 1, 1)}, 0)
        assert by_hand(place, "one", "one", listed()).run()["dispositions"] == {"released": 2, "ignored": 1}
        states = {contract["StudyInstanceUID"]: contract["completeness"]["state"] for contract in place.contracts()}
        assert states == {study_uid(1): "complete", study_uid(2): "unknown"}

    def test_a_study_still_waits_when_a_delivery_that_does_not_name_it_brings_some_of_it(self, place: Place) -> None:
        line = listed(wait_hours=24, then="release_partial")
        deliver_listed(place, "one", {"001.dcm": ct(1, 1, 1)}, 3)
        given("awaiting_declared" in by_hand(place, "one", "one", line).run()["reasons"])
        place.put({"002.dcm": ct(1, 1, 2), "delivery.json": b'{"objects": 1}'}, "in/two/")
        assert by_hand(place, "two", "two", line).run()["reasons"].keys() == {"awaiting_declared", "sidecar"}
        assert place.contracts() == []

    def test_a_study_that_waited_gets_one_revision_from_the_run_that_brings_the_rest(self, place: Place) -> None:
        line = listed(wait_hours=24, then="hold")
        deliver_listed(place, "one", {"001.dcm": ct(1, 1, 1)}, 2)
        first = by_hand(place, "one", "one", line)
        given("awaiting_declared" in first.run()["reasons"])
        deliver_listed(place, "two", {"002.dcm": ct(1, 1, 2)}, 2)
        by_hand(place, "two", "two", line).run()
        first.onward("audit")
        assert [contract["revision"] for contract in place.contracts()] == [2]

    def test_a_study_that_has_waited_is_released_as_partial_by_a_later_night(
        self, place: Place, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        line = listed(wait_hours=24, then="release_partial")
        line = line.model_copy(update={"audit": line.audit.model_copy(update={"hold_incomplete_studies": False})})
        deliver_listed(place, "one", {"001.dcm": ct(1, 1, 1), "bad.dcm": BAD}, 3)
        assert by_hand(place, "one", "one", line).run()["reasons"].keys() == {
            "awaiting_declared",
            "element_too_long",
            "sidecar",
        }
        deliver_listed(place, "two", {"002.dcm": ct(2, 1, 1)}, 0)
        by_hand(place, "two", "two", line).run()
        given({contract["StudyInstanceUID"] for contract in place.contracts()} == {study_uid(2)})

        class TwoDaysLater(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:
                return datetime.now(tz) + timedelta(days=2)

        monkeypatch.setattr("airlock.imaging.settle.datetime", TwoDaysLater)
        deliver_listed(place, "three", {"003.dcm": ct(3, 1, 1)}, 0)
        by_hand(place, "three", "three", line).run()
        (late,) = (one for one in place.contracts() if one["StudyInstanceUID"] == study_uid(1))
        assert (late["completeness"]["state"], late["completeness"]["declared"]) == ("partial", 3)
        assert (late["completeness"]["known"], late["completeness"]["quarantined"]) == (2, 1)
