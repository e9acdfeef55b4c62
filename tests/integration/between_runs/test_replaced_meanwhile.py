"""A manifest that is written again while two runs take its folder holds nothing, whichever run settles last."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.chain import pipeline
from tests.dicom_files import ct, study_uid
from tests.integration.between_runs.runs import by_hand, given, released, slices

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow
LINE = pipeline(receive={"mode": "folder_manifests"})


def deliver(place: Place, number: int) -> None:
    """Store one more slice of a study and the manifest that counts it, as the edge does."""
    manifest = {"objects": number, "studies": {study_uid(1): number}}
    place.put({f"s/{number}.dcm": ct(1, 1, number)})
    place.put({"s/delivery.json": json.dumps(manifest).encode()})


@pytest.mark.parametrize("first", ["the older run", "the newer run"])
def test_a_manifest_that_is_written_again_between_claim_and_reading_holds_nothing(place: Place, first: str) -> None:
    older, newer = by_hand(place, "older", line=LINE), by_hand(place, "newer", line=LINE)
    deliver(place, 1)
    older.until("buffer")
    deliver(place, 2)
    if first == "the older run":
        newer.until("buffer")
        older.onward("parse")
        newer.onward("parse")
    else:
        newer.run()
        given(newer.report["studies"]["released"] == 0)
        older.onward("parse")
    assert released(place) == slices(1, 2)
    assert "object_changed" not in older.report["reasons"]
