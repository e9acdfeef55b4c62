"""A file that cannot be read holds its study until it is mended, whatever comes into its folder meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import by_hand, given

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow


def test_an_audit_that_is_cleared_after_another_study_came_still_holds_it(place: Place) -> None:
    place.put({"1.dcm": ct(1, 1, 1), "2.dcm": ct(1, 1, 2)[:200]}, "in/d/")
    first = by_hand(place, "first", "d")
    given(first.run()["dispositions"] == {"held": 1, "quarantined": 1})
    place.put({"3.dcm": ct(2, 1, 1)}, "in/d/")
    given(by_hand(place, "second", "d").run()["dispositions"] == {"released": 1})
    assert first.onward("audit")["dispositions"] == {"held": 1, "quarantined": 1}
    assert [contract["StudyInstanceUID"] for contract in place.contracts()] == [study_uid(2)]
