"""What a report knows of its studies, in words."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from airlock.ledger.runs import RunRecord
from airlock.stages.pages.known_studies import KnownStudies, describe_known

AT = datetime(2026, 11, 30, 2, tzinfo=UTC)


def run(report: dict[str, Any] | None) -> RunRecord:
    return RunRecord("key", "nightly", "id", None, AT, AT, "audited", report, AT)


def known(**report: Any) -> KnownStudies:
    found = describe_known(run(report))
    assert found is not None
    return found


def test_each_number_has_its_word_in_the_order_of_the_words_and_zero_is_left_out() -> None:
    found = known(
        completeness={"unknown": 1234, "complete": 12, "partial": 3},
        declared={"more": 1, "equal": 15, "findings": [{"study_key": "58d41ecb4acff67e"}]},
        patient_match={"none": 2, "contradicted": 1, "matched": 0, "looked": 9, "repointed": 4, "alarms": 0},
    )
    assert found.completeness == "complete 12, partial 3, unknown 1,234"
    assert found.declared == "equal 15, more 1"
    assert found.matches == "none 2, contradicted 1"


def test_unread_files_have_their_sites_where_the_report_names_them() -> None:
    assert known(unattributed={"files": 3, "sites": {"north": 2, "": 1}}).unattributed == "3: north 2, no site 1"
    assert known(unattributed={"files": 3, "sites": {}}).unattributed == "3"


def test_nothing_found_is_not_the_same_as_not_counted() -> None:
    found = known(declared={"findings": []}, unattributed={"files": 0, "sites": {}})
    assert (found.declared, found.unattributed, found.completeness, found.matches) == ("0", "0", "-", "-")


def test_a_report_that_counts_no_studies_has_no_row() -> None:
    assert describe_known(run({"kind": "clinical", "patients": {"released": 3}})) is None
    assert describe_known(run(None)) is None
