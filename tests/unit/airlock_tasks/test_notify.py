"""What a notification of a hold says: counts and reason codes, and how many files hold nothing."""

from __future__ import annotations

from typing import Any

from airlock_tasks.notify import describe_holds


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
