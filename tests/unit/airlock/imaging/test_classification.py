"""What headers alone say of a series and of a study's procedure, with the tags that it came from."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from airlock.imaging.classification import (
    SERIES_VALUES,
    describe_procedures,
    describe_series,
    find_kind,
    merge_procedures,
    merge_series,
)

CT = "1.2.840.10008.5.1.4.1.1.2"


def values(**found: list[str]) -> dict[str, list[str]]:
    return {name: found.get(name, []) for name in SERIES_VALUES}


@pytest.mark.parametrize(
    ("image_type", "kind"),
    [
        ("ORIGINAL\\PRIMARY\\AXIAL", "original"),
        ("original\\PRIMARY", "original"),
        ("DERIVED\\SECONDARY\\MPR", "derived"),
        ("ORIGINAL\\PRIMARY\\LOCALIZER", "localizer"),
        ("DERIVED\\PRIMARY\\ LOCALIZER ", "localizer"),
        ("ORIGINAL\\LOCALIZER", "original"),
        ("PRIMARY", None),
        ("", None),
    ],
)
def test_the_kind_is_value_1_of_image_type_or_localizer_in_value_3(image_type: str, kind: str | None) -> None:
    assert find_kind(image_type) == kind


def test_each_fact_names_the_tags_that_had_it() -> None:
    found = describe_series(
        values(ImageType=["ORIGINAL\\PRIMARY"], SOPClassUID=[CT], Laterality=["R"], ImageLaterality=["L", "R"])
    )
    assert found == {
        "kind": {"values": ["original"], "tags": ["(0008,0008)"]},
        "sop_class_family": {"values": ["image"], "tags": ["(0008,0016)"]},
        "contrast": {"values": [], "tags": []},
        "laterality": {"values": ["L", "R"], "tags": ["(0020,0060)", "(0020,0062)"]},
    }


def test_a_value_that_says_nothing_names_no_tag() -> None:
    found = describe_series(values(ImageType=["\\PRIMARY"], SOPClassUID=["1.2.3"]))
    assert found["kind"] == found["sop_class_family"] == {"values": [], "tags": []}


def test_a_code_has_its_scheme_and_meaning() -> None:
    (code,) = describe_procedures(["CTTHX\\99L\\CT Thorax"])
    assert code == {"code": "CTTHX", "scheme": "99L", "meaning": "CT Thorax", "tag": "(0008,1032)"}
    (bare,) = describe_procedures(["CTTHX"])
    assert (bare["scheme"], bare["meaning"]) == (None, None)


TEXTS = st.lists(st.sampled_from(["L", "R", "U"]), unique=True)


@given(TEXTS, TEXTS, TEXTS)
def test_the_order_of_deliveries_changes_nothing(one: list[str], two: list[str], three: list[str]) -> None:
    a, b, c = (describe_series(values(Laterality=found)) for found in (one, two, three))
    assert merge_series(merge_series(a, b), c) == merge_series(c, merge_series(b, a))
    x, y, z = (describe_procedures(found) for found in (one, two, three))
    assert merge_procedures(merge_procedures(x, y), z) == merge_procedures(z, merge_procedures(y, x))


def test_a_series_of_before_keeps_what_a_later_delivery_says() -> None:
    later = describe_series(values(Laterality=["L"]))
    assert merge_series(None, later) == merge_series(later, None) == later
    assert merge_series(None, None) is None
