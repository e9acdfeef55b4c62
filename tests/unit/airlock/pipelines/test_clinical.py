"""What ``risk.workflow`` decides in a clinical pipeline, and what each workflow must have."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.chain import CONTRACT, MINIMAL, ccda_pipeline, clinical_pipeline

MODERNIZATION = {"risk": CONTRACT | {"workflow": "modernization"}}


@pytest.mark.parametrize(
    ("changes", "check"),
    [
        ({}, "sample"),
        (MODERNIZATION, "none"),
        (MINIMAL, "none"),
        ({"validation": {"service_check": "none"}}, "none"),
        ({"validation": {"service_check": "all"}}, "all"),
        (MODERNIZATION | {"validation": {"service_check": "sample"}}, "sample"),
    ],
)
def test_a_contract_is_checked_by_a_sample_unless_the_file_says_otherwise(changes: dict[str, Any], check: str) -> None:
    assert clinical_pipeline(**changes).service_check == check


def test_converted_documents_are_checked_by_a_sample() -> None:
    assert ccda_pipeline().service_check == "sample"


def test_minimal_validation_needs_reviewers_and_a_review_that_asks_them() -> None:
    assert clinical_pipeline(**MINIMAL).audit.on_hold == "review"
    with pytest.raises(ValidationError, match=r"needs a review: name the reviewers in review\.by"):
        clinical_pipeline(**MINIMAL | {"review": None, "audit": {}})
    with pytest.raises(ValidationError, match=r"nothing would ask their reviewers: set audit\.on_hold to review"):
        clinical_pipeline(**MINIMAL | {"audit": {}})
