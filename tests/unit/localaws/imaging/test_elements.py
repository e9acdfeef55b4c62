"""Datasets as metadata: JSON values by keyword."""

from __future__ import annotations

import json

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence

from localaws.imaging.elements import read_levels

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning")


def test_values_keep_their_kind() -> None:
    item = Dataset()
    item.CodeValue = "T1"
    dataset = Dataset()
    dataset.Rows = 512
    dataset.ImageType = ["ORIGINAL", "PRIMARY"]
    dataset.PixelSpacing = ["0.50", "0.5"]
    dataset.InstanceNumber = "7"
    dataset.ImageComments = ""
    dataset.FrameIncrementPointer = 0x00181063
    dataset.AnatomicRegionSequence = Sequence([item])
    instance = read_levels(dataset).instance
    assert instance["Rows"] == 512
    assert instance["ImageType"] == ["ORIGINAL", "PRIMARY"]
    assert instance["PixelSpacing"] == ["0.50", "0.5"]
    assert instance["InstanceNumber"] == "7"
    assert instance["ImageComments"] is None
    assert instance["FrameIncrementPointer"] == "00181063"
    assert instance["AnatomicRegionSequence"] == [{"CodeValue": "T1"}]


def test_private_and_binary_elements_are_kept_up_to_a_mebibyte() -> None:
    dataset = Dataset()
    dataset.add_new(0x00091001, "LO", "secret")
    dataset.add_new(0x00091002, "OB", b"\x01\x02")
    dataset.add_new(0x00091003, "OB", b"\0" * ((1 << 20) + 2))
    assert read_levels(dataset).instance == {"00091001": "secret", "00091002": "AQI="}


def test_every_value_is_json() -> None:
    dataset = Dataset()
    dataset.add_new(0x00189087, "FD", float("nan"))
    dataset.add_new(0x00082110, "CS", "01")
    dataset.PatientName = "Ω^é"
    levels = read_levels(dataset)
    assert json.loads(json.dumps(levels.instance, allow_nan=False))["DiffusionBValue"] == "nan"
    assert levels.patient == {"PatientName": "Ω^é"}
