"""Which SOP classes are images."""

from __future__ import annotations

import pytest

from airlock.dicom.sop_classes import is_image


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
