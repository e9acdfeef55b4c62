"""Primary and non-primary: where an instance goes."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from localaws.imaging.elements import Levels
from localaws.imaging.grouping import Grouping, group_instances
from localaws.imaging.part10 import Instance
from localaws.imaging.pixels import Frames


def instance(study: str = "1", series: str = "1.1", **values: Any) -> Instance:
    levels = Levels()
    elements = {
        "StudyInstanceUID": study,
        "SeriesInstanceUID": series,
        "PatientID": "P",
        "StudyDate": "20260101",
        "AccessionNumber": "A",
        "StudyID": "S",
        "SeriesNumber": "1",
        **values,
    }
    for keyword, value in elements.items():
        levels.of(keyword)[keyword] = value
    return Instance(f"{series}.9", study, series, levels, Frames("1.2"), [])


def grouping(item: Instance) -> Grouping:
    return Grouping.of(item.levels.patient, item.levels.study, item.levels.series)


def shape(instances: list[Instance], primaries: dict[str, Grouping] | None = None) -> list[tuple[Any, bool, int]]:
    groups = group_instances(instances, primaries or {})
    return [(group.image_set_id, group.is_primary, len(group.instances)) for group in groups]


def test_a_series_founds_one_primary_image_set() -> None:
    assert shape([instance(), instance(), instance(series="1.2", SeriesNumber="2")]) == [
        (None, True, 2),
        (None, True, 1),
    ]


def test_a_series_joins_its_primary_image_set() -> None:
    assert shape([instance()], {"old": grouping(instance())}) == [("old", True, 1)]


@pytest.mark.parametrize("element", ["StudyDate", "AccessionNumber", "PatientID", "StudyID"])
def test_a_study_element_that_differs_from_a_primary_of_the_study_is_a_conflict(element: str) -> None:
    others = {"old": grouping(instance())}
    assert shape([instance(**{element: "X"})], others) == [(None, False, 1)]
    assert shape([instance(series="1.2", **{element: "X"})], others) == [(None, False, 1)]
    assert shape([instance(study="2", series="2.1", **{element: "X"})], others) == [(None, True, 1)]


def test_another_series_number_is_a_conflict_within_the_series_only() -> None:
    others = {"old": grouping(instance())}
    assert shape([instance(SeriesNumber="2")], others) == [(None, False, 1)]
    assert shape([instance(series="1.2", SeriesNumber="2")], others) == [(None, True, 1)]


def test_the_same_series_uid_in_another_study_is_a_conflict() -> None:
    assert shape([instance(study="2")], {"old": grouping(instance())}) == [(None, False, 1)]


def test_within_a_job_the_first_decides_and_others_with_equal_values_stay_together() -> None:
    odd = [instance(PatientID="X"), instance(PatientID="X"), instance(PatientID="Y")]
    assert shape([instance(), *odd]) == [(None, True, 1), (None, False, 2), (None, False, 1)]


def test_padding_and_absence_are_no_difference() -> None:
    others = {"old": grouping(instance(AccessionNumber=None))}
    assert shape([instance(AccessionNumber=""), instance(AccessionNumber=" ")], others) == [("old", True, 2)]


def test_no_instance_is_lost_or_doubled_in_any_order() -> None:
    items = [instance(), instance(PatientID="X"), instance(series="1.2", StudyDate="X"), instance(SeriesNumber="3")]
    for order in permutations(items):
        groups = group_instances(order, {})
        assert sorted(map(id, (item for group in groups for item in group.instances))) == sorted(map(id, items))
        primary = [group.grouping for group in groups if group.is_primary]
        assert len({found.series_uid for found in primary}) == len(primary)
        assert len({found.study for found in primary}) == 1


def test_a_grouping_survives_the_database() -> None:
    assert Grouping.load(grouping(instance()).dump()) == grouping(instance())
