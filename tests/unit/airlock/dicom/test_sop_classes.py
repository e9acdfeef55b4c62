"""Which SOP classes are images, and the families of all."""

from __future__ import annotations

import pytest

from airlock.dicom.sop_classes import find_family, is_image


@pytest.mark.parametrize(
    ("uid", "image"),
    [
        ("1.2.840.10008.5.1.4.1.1.2", True),  # CT
        ("1.2.840.10008.5.1.4.1.1.4.1", True),  # enhanced MR
        ("1.2.840.10008.5.1.4.1.1.7", True),  # secondary capture
        ("1.2.840.10008.5.1.4.1.1.88.22", False),  # enhanced SR
        ("1.2.840.10008.5.1.4.1.1.481.5", False),  # RT plan
        ("1.2.840.10008.5.1.4.1.1.104.1", False),  # encapsulated PDF
        ("1.2.840.10008.1.3.10", False),
        ("1.2.3.4", False),
        ("not a UID", False),
        ("", False),
    ],
)
def test_a_class_is_an_image_by_its_name_in_the_standard(uid: str, image: bool) -> None:
    assert is_image(uid) is image


@pytest.mark.parametrize(
    ("below", "family"),
    [
        ("2", "image"),  # CT
        ("66", "raw_data"),
        ("66.1", "registration"),
        ("66.4", "segmentation"),
        ("9.1.1", "waveform"),  # 12-lead ECG
        ("11.1", "presentation_state"),
        ("88.33", "structured_report"),
        ("88.59", "key_object"),
        ("104.1", "encapsulated_document"),
        ("481.1", "radiotherapy"),  # RT image
        ("6.1", "image"),
        ("78.1", "other"),  # lensometry
        ("999.9", None),
    ],
)
def test_a_class_has_the_family_of_its_root(below: str, family: str | None) -> None:
    assert find_family(f"1.2.840.10008.5.1.4.1.1.{below}") == family


def test_a_class_that_the_standard_does_not_have_has_no_family() -> None:
    assert [find_family(uid) for uid in ("1.2.3.4", "not a UID", "")] == [None] * 3
