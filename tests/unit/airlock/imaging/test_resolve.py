"""What is carried on of an earlier outcome; resolving itself is shown end to end in integration/test_redrive.py."""

from __future__ import annotations

from typing import Any

import polars as pl

from airlock.imaging.resolve import Resolved, renew_outcomes
from airlock.records import OUTCOMES


def outcome(name: str, image_set: str, outcome: str, reason: str | None) -> dict[str, Any]:
    warnings = ["SOME_WARNING"] if outcome == "imported_with_warning" else []
    row = {"arrival_id": name, "image_set_id": image_set, "image_set_version": 1, "outcome": outcome, "reason": reason}
    return row | {"warnings": warnings}


def test_of_an_earlier_outcome_only_the_fact_is_carried_on() -> None:
    rows = [
        outcome("warned", "i1", "imported_with_warning", "job_counts_disagree"),
        outcome("sound", "i1", "imported", "read_back_mismatch"),
        outcome("promoted", "i2", "non_primary", "non_primary"),
        outcome("deleted", "i3", "non_primary", "non_primary"),
        outcome("left", "i4", "non_primary", "version_above_one"),
    ]
    frame = pl.DataFrame([{name: row.get(name) for name in OUTCOMES} for row in rows], schema=OUTCOMES)
    found = renew_outcomes(frame, {"i2": Resolved("i5", 7), "i3": Resolved()})
    told = ("arrival_id", "outcome", "reason", "image_set_id", "image_set_version")
    assert found.select(told).rows() == [
        ("warned", "imported_with_warning", "service_warning", "i1", 1),
        ("sound", "imported", None, "i1", 1),
        ("promoted", "imported", None, "i5", 7),
        ("left", "non_primary", "non_primary", "i4", 1),
    ]
