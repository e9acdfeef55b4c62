"""``classify:``, rules in the language of routes that set labels."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from tests.unit.airlock.world import pipeline

HEAD = {"label": "head", "match": {"field": "StudyDescription", "regex": "(?i)head"}}


def refusal(**rule: Any) -> str:
    with pytest.raises(ValidationError) as caught:
        pipeline(classify=[HEAD, HEAD | rule])
    return str(caught.value)


def test_a_rule_labels_the_study_unless_it_says_series() -> None:
    one, two = pipeline(classify=[HEAD, HEAD | {"of": "series"}]).classify
    assert (one.of, two.of) == ("study", "series")


def test_a_route_can_match_labels() -> None:
    route = {"name": "heads", "uri": "s3://work/heads/", "match": {"field": "labels", "equals": "head"}}
    assert pipeline(classify=[HEAD], routes=[route]).routes[0].match is not None


@pytest.mark.parametrize("label", ["", "Head", "-head", "h" * 64, "two words"])
def test_a_label_is_a_short_plain_word(label: str) -> None:
    assert "classify.1.label" in refusal(label=label)


def test_a_field_that_contracts_do_not_have_is_refused_with_the_number_of_the_rule() -> None:
    assert "classify.1.match: airlock.study/1 has no field 'Modality': write series.Modality" in refusal(
        match={"field": "Modality", "equals": "CT"}
    )


@pytest.mark.parametrize(
    "field",
    [
        "labels",
        "series.labels",
        "completeness.state",
        "override.reason",
        "fhir.Patient",
        "patient_match.outcome",
        "revision",
    ],
)
def test_a_field_that_changes_while_the_images_stay_is_refused(field: str) -> None:
    value: Any = 3 if field == "revision" else "x"
    nested = {"any": [{"field": "StudyID", "equals": "1"}, {"not": {"field": field, "equals": value}}]}
    assert f"classify.1.match: {field!r} may change" in refusal(match=nested)
