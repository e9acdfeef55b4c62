"""What a notification of a hold says: counts and reason codes, and how many files hold nothing."""

from __future__ import annotations

from typing import Any

from airlock_tasks.notify import describe_holds, describe_waited


def described(held: int, **unattributed: Any) -> str:
    report: dict[str, Any] = {
        "dispositions": {"held": held},
        "reasons": {"sibling_unread": {"arrivals": held, "sentence": "…"}},
        "unattributed": {"files": 0, "sites": {}} | unattributed,
    }
    return describe_holds(report, published=True)


def test_a_run_that_holds_nothing_has_no_sentence() -> None:
    assert described(0, files=3) == ""


def test_unread_files_without_a_study_are_counted_by_site() -> None:
    assert described(2) == "Held: 2. Held and set aside, by reason code: sibling_unread 2."
    assert described(2, files=3).endswith(" Unattributed: 3 (not readable, and of no known study).")
    sites = {"north": 2, "": 1}
    assert described(2, files=3, sites=sites).endswith("of no known study), by site: north 2, no site 1.")


def test_what_has_waited_too_long_has_a_line_for_each_type_and_site() -> None:
    found = [
        {"resource_type": "Condition", "detail": "Patient", "site": "north", "resources": 2},
        {"resource_type": "Observation", "detail": "Encounter, Patient", "site": "", "resources": 1},
    ]
    assert describe_waited({"waited_too_long": found}).splitlines() == [
        "Waited too long: 2 Condition of site north (Patient).",
        "Waited too long: 1 Observation (Encounter, Patient).",
    ]
    assert describe_waited({}) == ""
