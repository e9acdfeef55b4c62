"""Rows that a resource is found by, also of resources that break every rule."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from localaws.healthlake.search_index import rows_of
from localaws.healthlake.search_parameters import resource_types
from tests.unit.localaws.healthlake.rest_plane import ENDPOINT, OBSERVATION, PATIENT, STUDY, changed

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=10,
)
KEYS = sorted(
    {
        path.steps[0].key
        for name in ("Observation", "Patient")
        for item in resource_types()[name].parameters.values()
        for path in item.paths
    }
)


def values(resource: dict[str, Any], parameter: str) -> list[tuple[Any, ...]]:
    return [row[1:] for row in rows_of(resource) if row[0] == parameter]


def test_a_coded_element_is_found_by_system_code_and_text() -> None:
    assert values(OBSERVATION, "code") == [("http://loinc.org", "8867-4", None, None)]
    assert values(OBSERVATION, "code:text") == [(None, "Heart rate", None, None)]


def test_a_choice_is_found_whatever_its_type() -> None:
    period = changed(OBSERVATION, effectiveDateTime=None, effectivePeriod={"start": "1970", "end": "1970"})
    timing = changed(OBSERVATION, effectiveDateTime=None, effectiveTiming={"event": ["1970", "1971"]})
    assert values(period, "date") == [(None, None, 0, 365 * 86_400_000)]
    assert len(values(timing, "date")) == 2


def test_nested_elements_of_lists_are_all_found() -> None:
    assert values(STUDY, "modality") == [("urn:dcm", "CT", None, None)]
    assert values(STUDY, "patient") == values(STUDY, "subject") == [(None, "Patient/p1", None, None)]
    assert values(changed(STUDY, subject={"reference": "Device/d"}), "patient") == []


def test_ranges_and_ages_are_numbers() -> None:
    onset = {"resourceType": "Condition", "onsetRange": {"low": {"value": 1}, "high": {"value": 2}}}
    age = {"resourceType": "Condition", "onsetAge": {"value": 30, "unit": "a", "code": "a"}}
    assert values(onset, "onset-age") == [(None, None, 1.0, 2.0)]
    assert values(age, "onset-age") == [(None, "a", 30.0, 30.0)]


def test_a_versioned_canonical_is_found_with_and_without_its_version() -> None:
    rows = values(changed(PATIENT, meta={"profile": ["http://a|1"]}), "_profile")
    assert [row[1] for row in rows] == ["http://a|1", "http://a"]


@given(st.dictionaries(st.sampled_from(KEYS), JSON), st.sampled_from(["Patient", "Observation", "Starship"]))
def test_no_resource_raises_and_every_row_suits_sqlite(elements: dict[str, Any], kind: str) -> None:
    for row in rows_of({**elements, "resourceType": kind}):
        assert len(row) == 5
        assert all(item is None or isinstance(item, str | float | int) for item in row)


@pytest.mark.parametrize("base", [PATIENT, OBSERVATION, STUDY, ENDPOINT])
@given(junk=JSON)
def test_a_spoilt_element_spoils_nothing_else(base: dict[str, Any], junk: Any) -> None:
    for name in base.keys() - {"resourceType", "identifier"}:
        rows = list(rows_of({**base, name: junk}))
        assert ("identifier" in base) == any(row[0] == "identifier" for row in rows)
