"""UpdateImageSetMetadata's rules on one document."""

from __future__ import annotations

import json
from typing import Any

import pytest

from localaws.errors import AwsError
from localaws.imaging.updates import apply


def document() -> dict[str, Any]:
    instance = {"DICOM": {"SOPInstanceUID": "1.1.1", "ImageComments": "x", "00091001": "private"}, "ImageFrames": []}
    series = {"DICOM": {"SeriesInstanceUID": "1.1", "Modality": "CT"}, "Instances": {"1.1.1": instance}}
    return {
        "Patient": {"DICOM": {"PatientID": "P"}},
        "Study": {"DICOM": {"StudyInstanceUID": "1", "StudyID": "S"}, "Series": {"1.1": series}},
    }


def changed(change: Any, *, name: str = "updatableAttributes", force: bool = False) -> dict[str, Any]:
    found = document()
    apply(found, {name: json.dumps(change).encode()}, force=force)
    return found


def at_instance(**attributes: Any) -> dict[str, Any]:
    return {"Study": {"Series": {"1.1": {"Instances": {"1.1.1": {"DICOM": attributes}}}}}}


def test_attributes_change_at_every_level() -> None:
    found = changed({"Patient": {"DICOM": {"PatientSex": "F"}}, **at_instance(ImageComments="y")})
    assert found["Patient"]["DICOM"] == {"PatientID": "P", "PatientSex": "F"}
    assert found["Study"]["Series"]["1.1"]["Instances"]["1.1.1"]["DICOM"]["ImageComments"] == "y"


def test_attributes_are_removed() -> None:
    found = changed(at_instance(ImageComments=""), name="removableAttributes")
    assert "ImageComments" not in found["Study"]["Series"]["1.1"]["Instances"]["1.1.1"]["DICOM"]


@pytest.mark.parametrize(
    "change",
    [
        {"Study": {"DICOM": {"StudyInstanceUID": "2"}}},
        {"Study": {"DICOM": {"StudyID": "T"}}},
        at_instance(SOPInstanceUID="2"),
        at_instance(**{"00091001": "z"}),
    ],
)
def test_some_changes_need_force(change: dict[str, Any]) -> None:
    with pytest.raises(AwsError, match="force"):
        changed(change)
    assert changed(change, force=True) != document()


def test_a_forced_uid_is_also_the_key_in_the_document() -> None:
    change = {"Study": {"Series": {"1.1": {"DICOM": {"SeriesInstanceUID": "9"}}}}}
    assert list(changed(change, force=True)["Study"]["Series"]) == ["9"]
    instances = changed(at_instance(SOPInstanceUID="8"), force=True)["Study"]["Series"]["1.1"]["Instances"]
    assert list(instances) == ["8"]


@pytest.mark.parametrize(
    "change",
    [
        [],
        {"Patient": []},
        {"Study": {"DICOM": "x"}},
        {"Study": {"Series": {"7.7": {"DICOM": {}}}}},
        {"Study": {"Series": {"1.1": {"Instances": {"7.7": {}}}}}},
    ],
)
def test_what_has_not_the_form_of_the_document_is_refused(change: Any) -> None:
    with pytest.raises(AwsError) as caught:
        changed(change)
    assert caught.value.code == "ValidationException"


def test_a_uid_cannot_be_removed_even_by_force() -> None:
    with pytest.raises(AwsError, match="cannot be removed"):
        changed({"Study": {"DICOM": {"StudyInstanceUID": ""}}}, name="removableAttributes", force=True)


def test_no_json_and_too_much_json_are_refused() -> None:
    with pytest.raises(AwsError, match="JSON"):
        apply(document(), {"updatableAttributes": b"{"}, force=False)
    with pytest.raises(AwsError) as caught:
        changed({"Patient": {"DICOM": {"PatientComments": "x" * 11_000}}})
    assert caught.value.code == "ServiceQuotaExceededException"
