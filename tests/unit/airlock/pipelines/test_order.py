"""source.order: clinical pipelines declare it, and a wrong word in it is named."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from airlock.pipelines import SAFETY_TYPES, ClinicalAudit, Order
from tests.unit.airlock.clinical.books import CCDA, pipeline


@pytest.mark.parametrize("kind", [{}, CCDA])
def test_a_clinical_pipeline_without_an_order_is_refused(kind: dict[str, Any]) -> None:
    with pytest.raises(ValidationError, match=r"field 'source.order' is missing: name under source.order.across_keys"):
        pipeline(**kind, source={"order": None})


def test_documents_have_no_time_of_update() -> None:
    with pytest.raises(ValidationError, match="use key_date, manifest or last_modified"):
        pipeline(**CCDA, source={"order": {"across_keys": "last_updated"}})


@pytest.mark.parametrize(
    "model",
    [lambda names: Order(across_keys="key_date", safety_types=names), lambda names: ClinicalAudit(hold_types=names)],
)
def test_a_misspelled_type_is_named_with_the_right_one(model: Any) -> None:
    with pytest.raises(
        ValidationError, match=r"'AllergyIntolerence' is not a resource type of FHIR R4: did you mean All"
    ):
        model(["AllergyIntolerence"])


def test_the_safety_types_are_those_that_hold_a_patient() -> None:
    assert Order(across_keys="key_date").safety_types == ClinicalAudit().hold_types == SAFETY_TYPES


@pytest.mark.parametrize(
    "wrong",
    [
        {"across_keys": "etag"},
        {"across_keys": "key_date", "same_key": "time"},
        {"across_keys": "key_date", "future_tolerance_hours": -1},
        {},
    ],
)
def test_other_words_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Order(**wrong)
