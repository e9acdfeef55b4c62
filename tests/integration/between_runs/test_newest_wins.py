"""Older clinical content never overwrites newer content, in the store or downstream, and content may come back."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock.stages.plan import read_plan
from tests.chain import clinical_pipeline
from tests.clinical_files import ndjson, observation, patient
from tests.integration.between_runs.runs import DAY, by_hand, find_last_night, given, put_at

if TYPE_CHECKING:
    from tests.chain import Chain, Place
    from tests.clinical_files import Resource

pytestmark = pytest.mark.slow

MONDAY = find_last_night() - 7 * DAY


def deliver(place: Place, day: int, name: str, *resources: Resource) -> Chain:
    """Deliver a file on this day, and return the run that follows."""
    put_at(place, MONDAY + day * DAY, {f"{name}.ndjson": ndjson(*resources)})
    return by_hand(place, f"day-{day}", line=clinical_pipeline(audit={"manifest_wait_seconds": 0.1}))


def updated(day: int) -> dict[str, str]:
    return {"lastUpdated": (MONDAY + day * DAY).isoformat()}


def gender(place: Place) -> str | None:
    return (place.stored("Patient/p1") or {}).get("gender")


def test_a_night_that_is_cleared_after_a_later_one_does_not_write_its_older_content(place: Place) -> None:
    first = deliver(place, 1, "first", patient(gender="male", meta=updated(1)))
    first.until("buffer")
    deliver(place, 2, "second", patient(gender="female", meta=updated(2))).run()
    given(gender(place) == "female")
    first.onward("parse")
    assert gender(place) == "female"
    assert first.words == {"Patient/p1": ("ignored", "newer_content")}


def test_content_that_returns_under_its_key_is_imported_again(place: Place) -> None:
    for day, said in enumerate(("male", "female", "male")):
        deliver(place, day, "Patient-p1", patient(gender=said)).run()
    assert gender(place) == "male"


def test_content_that_returns_while_a_run_stores_another_one_is_imported_after_it(place: Place) -> None:
    deliver(place, 1, "first", patient(gender="male", meta=updated(1))).run()
    second = deliver(place, 2, "second", patient(gender="female", meta=updated(2)))
    second.until("import")
    third = deliver(place, 3, "third", patient(gender="male", meta=updated(3)))
    plan = by_hand(place, "plan", line=third.pipeline, plan_only=True)
    plan.until("normalize")
    assert [item.reason for item in read_plan(place._wrapped, third.pipeline, plan.run_id).findings] == [
        "instance_claimed"
    ]
    third.run()
    assert third.words == {"Patient/p1": ("quarantined", "instance_claimed")}
    second.onward("audit")
    given(gender(place) == "female")
    deliver(place, 4, "fourth", observation("o1")).run()  # what is owed comes again
    assert gender(place) == "male"


def test_a_patient_in_doubt_is_held_in_the_next_run_too(place: Place) -> None:
    place.faults({"kind": "manifest_partial", "key": "Observation/o1", "times": 1})
    first = deliver(place, 1, "first", patient(), observation("o1"))
    first.run()
    given(first.words["Patient/p1"][0] == "held")
    deliver(place, 2, "second", observation("o2")).run()
    assert place.routed() == set()
