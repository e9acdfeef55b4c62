"""``DICOMTags``: the attributes of an image set that SearchImageSets answers."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

from localaws.imaging.documents import find_first_series

if TYPE_CHECKING:
    from localaws.imaging.documents import Document

TEXTS: dict[str, tuple[str, int]] = {
    "DICOMPatientId": ("PatientID", 512),
    "DICOMPatientName": ("PatientName", 512),
    "DICOMPatientBirthDate": ("PatientBirthDate", 36),
    "DICOMPatientSex": ("PatientSex", 16),
    "DICOMStudyId": ("StudyID", 512),
    "DICOMStudyDescription": ("StudyDescription", 512),
    "DICOMStudyDate": ("StudyDate", 36),
    "DICOMStudyTime": ("StudyTime", 56),
    "DICOMAccessionNumber": ("AccessionNumber", 512),
    "DICOMSeriesModality": ("Modality", 32),
    "DICOMSeriesBodyPart": ("BodyPartExamined", 128),
}
UIDS = {"DICOMStudyInstanceUID": "StudyInstanceUID", "DICOMSeriesInstanceUID": "SeriesInstanceUID"}
NUMBERS = {
    "DICOMNumberOfStudyRelatedSeries": ("NumberOfStudyRelatedSeries", 0, 1_000_000),
    "DICOMNumberOfStudyRelatedInstances": ("NumberOfStudyRelatedInstances", 0, 1_000_000),
    "DICOMSeriesNumber": ("SeriesNumber", -(1 << 31), (1 << 31) - 1),
}


def search_tags(document: Document) -> dict[str, Any]:
    """Return the members of ``DICOMTags``; a value that the model does not allow there is left out."""
    series = find_first_series(document)
    values = {**document["Patient"]["DICOM"], **document["Study"]["DICOM"], **series["DICOM"]}
    tags: dict[str, Any] = {}
    for tag, (keyword, longest) in TEXTS.items():
        text = str(values.get(keyword) or "").strip()
        if text and len(text) <= longest:
            tags[tag] = text
    for tag, keyword in UIDS.items():
        text = str(values.get(keyword) or "").strip()
        if re.fullmatch("[0-9.]{1,512}", text):
            tags[tag] = text
    for tag, (keyword, lowest, highest) in NUMBERS.items():
        text = str(values.get(keyword) or "").strip()
        if re.fullmatch("[+-]?[0-9]{1,12}", text) and lowest <= int(text) <= highest:
            tags[tag] = int(text)
    return tags
