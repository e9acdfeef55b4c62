"""Labels that the rules of a pipeline file set on studies and series."""

from __future__ import annotations

from typing import Any

from airlock.imaging.labels import keep_labels, set_labels
from airlock.pipelines import Classify

CONTRACT: dict[str, Any] = {
    "schema": "airlock.study/1",
    "StudyDescription": "CT Kopf",
    "series": [
        {"SeriesInstanceUID": "1", "Modality": "CT", "classification": {"kind": {"values": ["localizer"]}}},
        {"SeriesInstanceUID": "2", "Modality": "CT", "classification": {"kind": {"values": ["original"]}}},
        {"SeriesInstanceUID": "3", "Modality": "SR"},
    ],
}


def rule(label: str, of: str = "study", **match: Any) -> Classify:
    return Classify.model_validate({"label": label, "of": of, "match": match})


def by_series(contract: dict[str, Any]) -> dict[str, list[str] | None]:
    return {item["SeriesInstanceUID"]: item.get("labels") for item in contract["series"]}


HEAD = rule("head", field="StudyDescription", regex="(?i)kopf|head")
SCOUT = rule("scout", "series", field="series.classification.kind.values", equals="localizer")


def test_a_study_and_a_series_get_the_labels_of_the_rules_that_match() -> None:
    labelled = set_labels(CONTRACT, [SCOUT, HEAD, rule("mr", field="series.Modality", equals="MR")])
    assert labelled["labels"] == ["head"]
    assert by_series(labelled) == {"1": ["scout"], "2": None, "3": None}


def test_a_rule_about_series_sees_its_study_and_no_other_series() -> None:
    both = {"all": [{"field": "StudyDescription", "regex": "Kopf"}, {"field": "series.Modality", "equals": "SR"}]}
    found = by_series(set_labels(CONTRACT, [rule("report", "series", **both)]))
    assert found == {"1": None, "2": None, "3": ["report"]}


def test_a_label_is_there_once_and_in_order() -> None:
    rules = [rule("z", field="series.Modality", equals="CT"), HEAD, HEAD]
    assert set_labels(CONTRACT, rules)["labels"] == ["head", "z"]


def test_labels_that_no_rule_sets_any_more_are_gone() -> None:
    earlier = set_labels(CONTRACT, [HEAD, SCOUT])
    assert set_labels(earlier, [rule("mr", field="series.Modality", equals="MR")]) == CONTRACT


def test_a_pipeline_without_rules_keeps_the_labels_of_the_study() -> None:
    assert keep_labels(CONTRACT, {"labels": ["head"]})["labels"] == ["head"]
    assert keep_labels(CONTRACT, {}) == CONTRACT
