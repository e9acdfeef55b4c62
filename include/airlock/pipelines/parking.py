"""``validation.park_on`` and ``validation.park_days``: which missing resources others wait for, and how long."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator

from airlock.pipelines.order import check_types

PARK_ON = (
    "Patient", "Encounter", "ServiceRequest", "ImagingStudy", "DiagnosticReport", "Specimen", "Observation",
)  # fmt: skip
OTHERS = "others"
# What can harm a patient at once is not to wait unnoticed.
PARK_DAYS = {"AllergyIntolerance": 3, "Medication*": 3, "Condition": 3, OTHERS: 30}
_MOST_DAYS = 366


def _complete_days(given: dict[str, int]) -> dict[str, int]:
    """Return the days with the defaults of the types that are not named.

    Raises
    ------
    ValueError
        If a name is not a resource type of FHIR R4, or does not begin one, or a number of days is not possible.
    """
    check_types(tuple(name for name in given if name != OTHERS and not name.endswith("*")))
    for name, days in given.items():
        if name.endswith("*") and not name[:-1].isalpha():
            raise ValueError(f"{name!r} does not begin a resource type: write its first letters before the *")
        if not 1 <= days <= _MOST_DAYS:
            raise ValueError(f"{name} waits {days} days: choose 1 to {_MOST_DAYS}")
    return PARK_DAYS | given


ParkDays = Annotated[dict[str, int], AfterValidator(_complete_days)]


def choose_days(days: dict[str, int], resource_type: str) -> int:
    """Return how many days a resource of a type waits: by its name, else by the longest beginning, else as others."""
    if resource_type in days:
        return days[resource_type]
    beginnings = [name for name in days if name.endswith("*") and resource_type.startswith(name[:-1])]
    return days[max(beginnings, key=len, default=OTHERS)]


def is_urgent(resource_type: str) -> bool:
    """Return whether a resource of a type can harm a patient at once: by default it waits for less time than others."""
    return choose_days(PARK_DAYS, resource_type) < PARK_DAYS[OTHERS]
