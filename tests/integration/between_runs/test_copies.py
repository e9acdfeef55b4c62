"""Second copies of what is in the data store: they hold no study, replace nothing, and a person decides on doubts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chain import DATASTORE, pipeline, release
from tests.dicom_files import ct
from tests.integration.between_runs.runs import by_hand, given, redrive, released, slices
from tests.ledger_rows import count_instances

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

HASH = pipeline(validation={"dedupe": "hash"})
WHY = "the first copy is right, as the site says"


def test_other_pixels_of_what_is_in_the_store_do_not_hold_the_slices_beside_them(place: Place) -> None:
    place.put({"001.dcm": ct(1, 1, 1)}, "in/one/")
    given(by_hand(place, "one", "one").run()["dispositions"] == {"released": 1})
    place.put({"001.dcm": ct(1, 1, 1, pixel=9), "002.dcm": ct(1, 1, 2)}, "in/two/")
    report = by_hand(place, "two", "two").run()
    assert report["dispositions"] == {"released": 1, "quarantined": 1}
    assert report["reasons"].keys() == {"duplicate_other_content"}
    assert released(place) == slices(1, 2)


def test_two_mirrors_with_coerced_headers_release_each_study_once(place: Place) -> None:
    mirrored = {f"{n:03}.dcm": n for n in (1, 2, 3)}
    place.put({name: ct(1, 1, n) for name, n in mirrored.items()}, "in/main/")
    place.put({name: ct(1, 1, n, StudyDescription="COERCED") for name, n in mirrored.items()}, "in/mirror/")
    report = by_hand(place, "one", line=HASH).run()
    assert report["dispositions"] == {"released": 3, "duplicate": 3}
    assert report["reasons"].keys() == {"header_changed"}
    assert released(place) == slices(1, 2, 3)
    with place.ledger() as ledger:
        assert count_instances(ledger, DATASTORE) == {"imported": 3}


def test_without_a_proof_neither_mirror_is_taken_in_one_run_and_the_first_in_two(place: Place) -> None:
    place.put({"001.dcm": ct(1, 1, 1)}, "in/main/")
    place.put({"001.dcm": ct(1, 1, 1, StudyDescription="COERCED")}, "in/mirror/")
    assert by_hand(place, "both").run()["dispositions"] == {"quarantined": 2}
    place.put({"001.dcm": ct(2, 1, 1)}, "in/main-2/")
    place.put({"001.dcm": ct(2, 1, 1, StudyDescription="COERCED")}, "in/mirror-2/")
    assert by_hand(place, "main", "main-2").run()["dispositions"] == {"released": 1}
    assert by_hand(place, "mirror", "mirror-2").run()["dispositions"] == {"quarantined": 1}


def test_a_copy_of_another_patient_waits_for_a_person_in_whichever_run_its_study_comes(place: Place) -> None:
    place.put({"001.dcm": ct(1, 1, 1)}, "in/one/")
    given(by_hand(place, "one", "one").run()["dispositions"] == {"released": 1})
    policy = {"manifest_wait_seconds": 3, "on_hold": "review"}
    line = pipeline(audit=policy, review={"by": "the archive team"})
    place.put({"001.dcm": ct(1, 1, 1, PatientID="PID-9")}, "in/two/")
    two = by_hand(place, "two", "two", line)
    two.run()
    assert two.report["dispositions"] == {"held": 1}
    assert two.report["held"][0]["reason"] == "identity_changed"
    place.put({"002.dcm": ct(1, 1, 2)}, "in/three/")
    three = by_hand(place, "three", "three")
    assert three.run()["dispositions"] == {"held": 1}
    assert released(place) == slices(1)

    assert release(two, WHY)["dispositions"] == {"duplicate": 1}
    assert three.onward("audit")["dispositions"] == {"released": 1}
    assert released(place) == slices(1, 2)


def test_of_two_patients_copies_in_one_run_none_is_lost_when_a_person_releases_the_rest(place: Place) -> None:
    line = pipeline(audit={"manifest_wait_seconds": 3, "on_hold": "review"}, review={"by": "the archive team"})
    place.put({"1.dcm": ct(1, 1, 1), "2.dcm": ct(1, 1, 2), "other/1.dcm": ct(1, 1, 1, PatientID="PID-9")})
    one = by_hand(place, "one", line=line)
    one.run()
    assert release(one, WHY)["dispositions"] == {"released": 1, "quarantined": 2}
    place.put({"other/1.dcm": ct(1, 1, 1)})
    assert redrive(place, "again", "identity_changed").run()["dispositions"] == {"released": 1, "duplicate": 1}
    assert released(place) == slices(1, 2)


def test_a_redrive_takes_the_copy_whose_identity_was_corrected_at_the_source(place: Place) -> None:
    place.put({"001.dcm": ct(1, 1, 1)}, "in/one/")
    given(by_hand(place, "one", "one").run()["dispositions"] == {"released": 1})
    place.put({"001.dcm": ct(1, 1, 1, PatientID="PID-9")}, "in/two/")
    given(by_hand(place, "two", "two").run()["dispositions"] == {"held": 1})
    place.put({"001.dcm": ct(1, 1, 1)}, "in/two/")
    assert redrive(place, "again", "identity_changed").run()["dispositions"] == {"duplicate": 1}
    place.put({"002.dcm": ct(1, 1, 2)}, "in/three/")
    assert by_hand(place, "three", "three").run()["dispositions"] == {"released": 1}
