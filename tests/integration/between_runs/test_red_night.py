"""A red night is cleared after two later nights: nothing is lost, and nothing is imported or sent twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import by_hand, given

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow


def test_a_night_that_could_not_stage_is_cleared_after_two_later_ones(place: Place) -> None:
    place.s3().delete_bucket(Bucket="staging")
    place.put({"a1.dcm": ct(1, 1, 1), "a2.dcm": ct(1, 1, 2), "b1.dcm": ct(2, 1, 1)}, "in/1/")
    red = by_hand(place, "1", "1")
    with pytest.raises(Exception, match=r"NoSuchBucket|undecided|not"):
        red.run()
    given(red.states["stage"] == "failed")
    place.s3().create_bucket(Bucket="staging")

    place.put({"a3.dcm": ct(1, 1, 3), "c1.dcm": ct(3, 1, 1)}, "in/2/")
    second = by_hand(place, "2", "2")
    assert second.run()["dispositions"] == {"held": 1, "released": 1}
    assert second.rows["2/a3.dcm"]["reason"] == "study_in_flight"
    place.put({"d1.dcm": ct(4, 1, 1)}, "in/3/")
    assert by_hand(place, "3", "3").run()["dispositions"] == {"released": 1}

    assert red.onward("stage")["dispositions"] == {"released": 3}
    newest = {
        contract["StudyInstanceUID"]: contract
        for contract in sorted(place.contracts(), key=lambda contract: int(contract["revision"]))
    }
    numbers = {uid: contract["NumberOfStudyRelatedInstances"] for uid, contract in newest.items()}
    assert numbers == {study_uid(1): 3, study_uid(2): 1, study_uid(3): 1, study_uid(4): 1}
    assert len(place.jobs()) == 3
