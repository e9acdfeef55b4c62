"""A rule means the same whoever reads it, and one that cannot be meant is refused with the fix."""

from __future__ import annotations

import re
import time
from datetime import date
from pathlib import Path
from typing import Any, get_args, get_origin

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from airlock.clinical.contracts import ClinicalContract
from airlock.imaging.contracts import StudyContract
from airlock.pipelines.rules import FIELDS, Kind, Rule, check_rule

STUDY = "airlock.study/1"
PAGE = Path(__file__).parents[4] / "docs/routing.md"
CONTRACT: dict[str, Any] = {
    "schema": STUDY,
    "StudyDate": "20261123",
    "PatientBirthDate": "19690230",  # no day of any calendar
    "InstitutionName": "St. Elsewhere",
    "StudyDescription": "",
    "PatientID": None,
    "NumberOfStudyRelatedInstances": 3,
    "ModalitiesInStudy": ["CT", "SR"],
    "series": [
        {"Modality": "CT", "SeriesNumber": "2", "instances": [{"InstanceNumber": "10"}, {"InstanceNumber": "x"}]},
        {"Modality": "SR", "SeriesNumber": "007", "instances": []},
    ],
}
CLINICAL: dict[str, Any] = {
    "schema": "airlock.clinical/1",
    "subject": {"kind": "patient", "reference": "Patient/p1"},
    "resources": [{"reference": "Observation/o1", "line": 4}],
}


def rule(**content: Any) -> Rule:
    return Rule.model_validate(content)


@pytest.mark.parametrize(
    ("content", "holds"),
    [
        ({"field": "ModalitiesInStudy", "equals": "SR"}, True),
        ({"field": "ModalitiesInStudy", "equals": "sr"}, False),
        ({"field": "series.Modality", "in": ["MR", "CT"]}, True),
        ({"field": "series.Modality", "in": ["MR", "US"]}, False),
        ({"field": "InstitutionName", "regex": "^St"}, True),
        ({"field": "InstitutionName", "regex": "^st"}, False),
        ({"field": "InstitutionName", "regex": "(?i)^st.*where$"}, True),
        ({"field": "StudyDescription", "equals": ""}, True),
        ({"field": "StudyDescription", "regex": "."}, False),
        ({"field": "PatientID", "regex": ""}, None),
        ({"field": "PatientID", "regex": ".*"}, False),
        ({"field": "AccessionNumber", "regex": ".*"}, False),
        ({"not": {"field": "AccessionNumber", "regex": ".*"}}, True),
        ({"field": "StudyDate", "gte": date(2026, 11, 23), "lt": date(2026, 11, 24)}, True),
        ({"field": "StudyDate", "gt": "20261123"}, False),
        ({"field": "StudyDate", "equals": "2026-11-23"}, True),
        ({"field": "StudyDate", "lte": 20261123}, True),
        ({"field": "StudyDate", "regex": "^2026"}, True),
        ({"field": "PatientBirthDate", "lt": date(2000, 1, 1)}, False),
        ({"field": "NumberOfStudyRelatedInstances", "gte": 3}, True),
        ({"field": "NumberOfStudyRelatedInstances", "lt": 3}, False),
        ({"field": "series.SeriesNumber", "equals": 7}, True),
        ({"field": "series.SeriesNumber", "gt": 2, "lt": 7}, False),  # one value has to fulfil all of it
        ({"all": [{"field": "series.SeriesNumber", "gt": 2}, {"field": "series.SeriesNumber", "lt": 7}]}, True),
        ({"field": "series.instances.InstanceNumber", "equals": 10}, True),
        ({"field": "series.instances.InstanceNumber", "gt": 10}, False),
        ({"any": [{"field": "StudyID", "equals": "1"}, {"field": "schema", "equals": STUDY}]}, True),
    ],
)
def test_rule_of_a_study(content: dict[str, Any], holds: bool | None) -> None:
    if holds is None:
        with pytest.raises(ValidationError):
            rule(**content)
        return
    made = rule(**content)
    check_rule(made, STUDY)
    assert made.matches(CONTRACT) is holds


def test_clinical_contracts_have_the_same_rules() -> None:
    patients = rule(all=[{"field": "subject.kind", "equals": "patient"}, {"field": "resources.line", "lte": 4}])
    check_rule(patients, "airlock.clinical/1")
    assert patients.matches(CLINICAL)
    assert not rule(field="resources.reference", regex="^Patient/").matches(CLINICAL)


# The fields


def leaves(model: type[BaseModel], path: str = "") -> dict[str, Any]:
    """Return every value that a contract's model can have, by its path."""
    found: dict[str, Any] = {}
    for name, field in model.model_fields.items():
        where = f"{path}{field.alias or name}"
        within = [kind for kind in _types(field.annotation) if isinstance(kind, type) and issubclass(kind, BaseModel)]
        where = f"{where}.*" if get_origin(field.annotation) is dict else where
        found |= leaves(within[0], f"{where}.") if within else {where: field.annotation}
    return found


def _types(annotation: Any) -> list[Any]:
    return [annotation, *(kind for argument in get_args(annotation) for kind in _types(argument))]


@pytest.mark.parametrize("model", [StudyContract, ClinicalContract])
def test_every_field_of_a_contract_can_be_asked_for_and_no_other(model: type[BaseModel]) -> None:
    schema = model.model_fields["version"].default
    found = leaves(model)
    assert FIELDS[schema].keys() == found.keys()
    counts = {path for path, annotation in found.items() if int in _types(annotation)}
    assert counts <= {path for path, kind in FIELDS[schema].items() if kind is Kind.NUMBER}


@pytest.mark.parametrize("schema", FIELDS)
@pytest.mark.parametrize("kind", Kind)
def test_the_page_lists_every_field(schema: str, kind: Kind) -> None:
    names = ", ".join(f"`{path}`" for path, found in FIELDS[schema].items() if found is kind)
    assert not names or f"| {kind} | {names} |" in PAGE.read_text(encoding="utf-8")


@pytest.mark.parametrize("schema", FIELDS)
def test_kinds_are_those_of_the_data_dictionary(schema: str) -> None:
    from pydicom.datadict import dictionary_VR, tag_for_keyword

    kinds = {"DA": Kind.DATE, "IS": Kind.NUMBER, "DS": Kind.NUMBER}
    for path, kind in FIELDS[schema].items():
        tag = tag_for_keyword(path.rpartition(".")[2])
        assert tag is None or kinds.get(dictionary_VR(tag), Kind.TEXT) is kind, path


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({"field": "Modality", "equals": "CT"}, f"{STUDY} has no field 'Modality': write series.Modality"),
        ({"field": "StudyDat", "equals": "CT"}, "has no field 'StudyDat': write StudyDate or "),
        ({"field": "zzz", "equals": "CT"}, "has no field 'zzz': use one of schema, study_key"),
        ({"field": "series", "equals": "CT"}, "has no field 'series'"),
        ({"not": {"any": [{"field": "patient", "equals": "x"}]}}, "has no field 'patient'"),
        (
            {"field": "StudyTime", "gte": "1200"},
            "'StudyTime' is a text, which cannot be compared with gte: use equals,",
        ),
        (
            {"field": "PatientID", "equals": 17},
            "'PatientID' is 17, but the field is a text: put it in quotes",
        ),
        ({"field": "StudyDate", "gte": "last week"}, "but the field is a date: write a date, for example 2026-11-30"),
        ({"field": "StudyDate", "in": ["20261123", "20261323"]}, "in of 'StudyDate' is '20261323'"),
        ({"field": "revision", "gt": "two"}, "but the field is a number: write a number, for example 3"),
    ],
)
def test_what_contracts_do_not_have_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=re.escape(says)):
        check_rule(rule(**content), STUDY)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ({}, "exactly one of all, any, not and field"),
        ({"field": "StudyID"}, "'StudyID' is not compared with anything: add equals, in, regex"),
        ({"equals": "CT"}, "exactly one of all, any, not and field"),
        ({"all": [{"field": "StudyID", "equals": "1"}], "field": "StudyID", "equals": "1"}, "exactly one of"),
        ({"any": [{"field": "StudyID", "equals": "1"}], "gte": 1}, "gte needs a field to compare"),
        ({"all": []}, "at least 1 item"),
        ({"field": "StudyID", "equal": "1"}, "Extra inputs are not permitted"),
        ({"field": "StudyID", "equals": True}, "a text, a number or a date"),
        ({"field": "StudyDate", "gte": "20260101", "lt": None}, "lt has no value: give it one, or"),
        ({"field": "StudyID", "equals": "1", "not": None}, "not has no value"),
        ({"field": "revision", "gte": float("nan")}, "the value must not be .nan or .inf: write a number"),
        ({"field": "revision", "lt": float("inf")}, "the value must not be .nan or .inf: write a number"),
        ({"field": "StudyID", "in": [["1"]]}, "a text, a number or a date"),
        ({"field": "StudyID", "equals": "x" * 5_000}, "more than 4,096 characters"),
        ({"field": "StudyID", "regex": "(?=x)"}, "no look-around and no back references"),
        ({"field": "StudyID", "regex": "("}, "is not a regular expression in Rust's syntax"),
        ({"field": "StudyID", "regex": "((a{1000}){1000}){1000}"}, "is not a regular expression"),
    ],
)
def test_what_is_no_rule_is_refused(content: dict[str, Any], says: str) -> None:
    with pytest.raises(ValidationError, match=re.escape(says)):
        rule(**content)


def test_rules_deep_in_each_other_are_refused() -> None:
    deep: dict[str, Any] = {"field": "StudyID", "equals": "1"}
    for _ in range(20):
        deep = {"not": deep}
    with pytest.raises(ValueError, match="more than 8 levels deep"):
        check_rule(rule(**deep), STUDY)


def test_a_hostile_value_costs_no_time() -> None:
    """Python's own engine takes longer than the universe has for this one."""
    evil = rule(field="InstitutionName", regex="^(a+)+$")
    began = time.process_time()
    assert not evil.matches({"schema": STUDY, "InstitutionName": "a" * 4_000 + "!"})
    assert time.process_time() - began < 2


def test_a_value_beyond_all_lengths_fulfils_no_comparison() -> None:
    assert not rule(field="InstitutionName", regex="a").matches({"schema": STUDY, "InstitutionName": "a" * 4_097})


# The laws

TEXTS = st.sampled_from(["CT", "MR", "SR", "", "ct", "19"])
NUMBERS = st.integers(-2, 12)
DATES = st.dates(date(2026, 1, 1), date(2026, 1, 9))
CONTRACTS = st.fixed_dictionaries(
    {
        "schema": st.just(STUDY),
        "InstitutionName": st.none() | TEXTS,
        "StudyDate": st.none() | DATES.map(lambda day: day.strftime("%Y%m%d")) | st.sampled_from(["", "2026"]),
        "revision": NUMBERS,
        "series": st.lists(
            st.fixed_dictionaries({"Modality": st.none() | TEXTS, "SeriesNumber": st.none() | NUMBERS.map(str)}),
            max_size=3,
        ),
    }
)
WORDS = st.sampled_from(["InstitutionName", "series.Modality"])
PATTERNS = st.sampled_from(["^C", "T$", "[0-9]", "R|^$"])
COMPARISONS = st.one_of(
    st.fixed_dictionaries({"field": WORDS, "equals": TEXTS}),
    st.fixed_dictionaries(
        {
            "field": st.sampled_from(["InstitutionName", "series.Modality"]),
            "in": st.lists(TEXTS, min_size=1, max_size=3),
        }
    ),
    st.fixed_dictionaries({"field": st.just("series.Modality"), "regex": PATTERNS}),
    st.fixed_dictionaries({"field": st.just("StudyDate"), "gte": DATES}, optional={"lt": DATES}),
    st.fixed_dictionaries(
        {"field": st.sampled_from(["revision", "series.SeriesNumber"]), "gt": NUMBERS}, optional={"lte": NUMBERS}
    ),
)
RULES = st.recursive(
    COMPARISONS,
    lambda rules: st.one_of(
        st.fixed_dictionaries({"all": st.lists(rules, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"any": st.lists(rules, min_size=1, max_size=3)}),
        st.fixed_dictionaries({"not": rules}),
    ),
    max_leaves=6,
)


def oracle(content: dict[str, Any], contract: dict[str, Any]) -> bool:
    """Say what a rule means, in the plainest words."""
    if "all" in content:
        return False not in [oracle(each, contract) for each in content["all"]]
    if "any" in content:
        return True in [oracle(each, contract) for each in content["any"]]
    if "not" in content:
        return not oracle(content["not"], contract)
    head, _, leaf = content["field"].partition(".")
    found = [item[leaf] for item in contract[head]] if leaf else [contract[head]]
    return True in [fulfils(content, value) for value in found if value is not None]


def fulfils(content: dict[str, Any], value: Any) -> bool:
    if content["field"] == "StudyDate":
        if len(value) != 8:
            return False
        value = date(int(value[:4]), int(value[4:6]), int(value[6:]))
    if content["field"] in {"revision", "series.SeriesNumber"}:
        value = int(value)
    if "equals" in content:
        return value == content["equals"]
    if "in" in content:
        return value in content["in"]
    if "regex" in content:
        return re.search(content["regex"], value) is not None
    above = value >= content["gte"] if "gte" in content else value > content["gt"]
    below = value < content["lt"] if "lt" in content else value <= content["lte"] if "lte" in content else True
    return above and below


@settings(max_examples=300)
@given(RULES, CONTRACTS)
def test_a_rule_means_what_its_words_say(content: dict[str, Any], contract: dict[str, Any]) -> None:
    assert Rule.model_validate(content).matches(contract) is oracle(content, contract)


@settings(max_examples=100)
@given(st.lists(RULES, min_size=1, max_size=3), CONTRACTS)
def test_none_of_all_is_any_of_none(contents: list[dict[str, Any]], contract: dict[str, Any]) -> None:
    """De Morgan's laws, and that neither order nor repetition counts."""
    denied = [{"not": content} for content in contents]
    assert rule(**{"not": {"all": contents}}).matches(contract) is rule(any=denied).matches(contract)
    assert rule(**{"not": {"any": contents}}).matches(contract) is rule(all=denied).matches(contract)
    assert rule(all=[*contents, *contents][::-1]).matches(contract) is rule(all=contents).matches(contract)
