"""``validation.park_on`` and ``park_days``: which types are waited for, and how long each type waits."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from airlock.pipelines.clinical import ClinicalValidate
from airlock.pipelines.parking import PARK_DAYS, choose_days, is_urgent


@pytest.mark.parametrize(
    ("resource_type", "days"),
    [
        ("AllergyIntolerance", 3),
        ("Condition", 3),
        ("MedicationRequest", 3),
        ("MedicationAdministration", 3),
        ("Observation", 30),
        ("ConditionX", 30),
    ],
)
def test_what_can_harm_at_once_waits_for_a_short_time(resource_type: str, days: int) -> None:
    assert choose_days(ClinicalValidate().park_days, resource_type) == days
    assert ClinicalValidate().park_days == PARK_DAYS


def test_a_name_counts_before_the_longest_beginning_and_others_last() -> None:
    days = ClinicalValidate(park_days={"Medication*": 4, "MedicationA*": 5, "MedicationRequest": 6}).park_days
    found = [choose_days(days, f"Medication{end}") for end in ("Request", "Administration", "Statement")]
    assert found == [6, 5, 4]
    assert choose_days(days, "Patient") == 30


def test_the_days_of_one_type_change_those_of_no_other() -> None:
    days = ClinicalValidate(park_days={"Observation": 60}).park_days
    found = [choose_days(days, kind) for kind in ("Observation", "AllergyIntolerance", "MedicationRequest", "Patient")]
    assert found == [60, 3, 3, 30]


def test_these_are_named_first_where_they_wait() -> None:
    types = ("AllergyIntolerance", "Condition", "Medication", "MedicationDispense", "MedicationAdministration")
    assert all(map(is_urgent, types))
    assert not is_urgent("Observation")


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ({"Observaton": 3}, "'Observaton' is not a resource type of FHIR R4"),
        ({"*": 3}, "does not begin a resource type"),
        ({"Observation": 0}, "Observation waits 0 days: choose 1 to 366"),
        ({"others": 367}, "others waits 367 days: choose 1 to 366"),
    ],
)
def test_what_is_not_possible_is_refused(given: dict[str, int], told: str) -> None:
    with pytest.raises(ValidationError) as refused:
        ClinicalValidate(park_days=given)
    assert told in str(refused.value)


def test_only_types_of_r4_are_waited_for() -> None:
    with pytest.raises(ValidationError, match="'Pation' is not a resource type"):
        ClinicalValidate(park_on=("Pation",))
