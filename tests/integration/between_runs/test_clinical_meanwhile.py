"""A patient who lacks an allergy is held, whichever run knows of it, also before that run's audit."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.chain import clinical_pipeline
from tests.clinical_files import allergy, ndjson, observation, patient
from tests.integration.between_runs.runs import by_hand, given

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow

STRICT = clinical_pipeline(audit={"manifest_wait_seconds": 3, "hold_incomplete_patients": True})
BAD_ALLERGY = allergy("a1") | {"criticality": 7}


def test_a_patient_whose_allergy_an_open_run_has_quarantined_is_held(place: Place) -> None:
    place.put({"0.ndjson": ndjson(patient("p1"))}, "in/zero/")
    by_hand(place, "zero", "zero", STRICT).run()
    place.put({"1.ndjson": ndjson(BAD_ALLERGY, patient("p2"))}, "in/one/")
    by_hand(place, "one", "one", STRICT).until("validate")
    place.put({"2.ndjson": ndjson(observation("o1"))}, "in/two/")
    by_hand(place, "two", "two", STRICT).run()
    assert "Observation/o1" not in place.routed()


def test_a_patient_is_released_by_a_redrive_when_the_allergy_was_mended_under_another_key(place: Place) -> None:
    old, new = ({"meta": {"lastUpdated": f"2026-11-0{day}T00:00:00Z"}} for day in (1, 2))
    place.put({"1.ndjson": ndjson(patient("p1"), BAD_ALLERGY | old)})
    given(by_hand(place, "one", line=STRICT).run()["dispositions"] == {"held": 1, "quarantined": 1})
    place.put({"2.ndjson": ndjson(allergy("a1") | new)})
    given(by_hand(place, "two", line=STRICT).run()["dispositions"] == {"released": 1})
    asked = {"redrive_why": "it is mended", "redrive_by": "an operator"}
    by_hand(place, "three", line=STRICT, redrive_reasons=["patient_held"], **asked).run()
    assert place.routed() == {"Patient/p1", "AllergyIntolerance/a1"}
