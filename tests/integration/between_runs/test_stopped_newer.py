"""What a run has quarantined is missing until the same content, or one that is not older, has come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chain import clinical_pipeline
from tests.clinical_files import allergy, ndjson, observation, patient
from tests.integration.between_runs.runs import by_hand

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

STRICT = clinical_pipeline(audit={"manifest_wait_seconds": 3, "hold_incomplete_patients": True})


def of_night(day: int) -> dict[str, dict[str, str]]:
    return {"meta": {"lastUpdated": f"2026-11-0{day}T00:00:00Z"}}


def test_a_backfill_from_newest_to_oldest_holds_the_patient_until_the_newest_allergy_is_mended(place: Place) -> None:
    bad = allergy("a1") | {"criticality": 7}
    nights = {9: [patient("p1"), bad | of_night(9)], 8: [allergy("a1") | of_night(8)], 7: [observation("o1")]}
    for day, resources in nights.items():
        place.put({f"{day}.ndjson": ndjson(*resources)}, f"in/{day}/")
        by_hand(place, f"night-{day}", f"{day}", STRICT).run()
        assert place.routed() == set(), day
    place.put({"mended.ndjson": ndjson(allergy("a1", code={"text": "mended"}) | of_night(9))}, "in/mended/")
    by_hand(place, "mended", "mended", STRICT).run()
    assert place.routed() == {"AllergyIntolerance/a1"}
