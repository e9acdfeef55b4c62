"""A dataset as image set metadata: keywords and JSON values, at patient, study, series and instance level."""

from __future__ import annotations

import base64
import math
import struct
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pydicom.datadict import keyword_for_tag
from pydicom.errors import BytesLengthException
from pydicom.multival import MultiValue
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pydicom.dataelem import DataElement
    from pydicom.dataset import Dataset

LARGEST_BINARY = 1 << 20
BINARY_VRS = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
PIXEL_KEYWORDS = frozenset({"PixelData", "FloatPixelData", "DoubleFloatPixelData"})
UNREADABLE = (
    ValueError,
    TypeError,
    NotImplementedError,
    LookupError,
    AttributeError,
    ArithmeticError,
    struct.error,
    EOFError,
    BytesLengthException,
)
"""The exceptions of pydicom on a value that breaks its VR; RecursionError and MemoryError are not among them."""

PATIENT_MODULE = (
    "PatientName PatientID IssuerOfPatientID PatientBirthDate PatientBirthTime PatientSex OtherPatientIDs "
    "OtherPatientIDsSequence OtherPatientNames EthnicGroup PatientComments PatientBirthName PatientMotherBirthName "
    "PatientAddress PatientTelephoneNumbers CountryOfResidence PatientIdentityRemoved DeidentificationMethod "
    "DeidentificationMethodCodeSequence PatientSpeciesDescription PatientBreedDescription ResponsiblePerson"
)
STUDY_MODULE = (
    "StudyInstanceUID StudyDate StudyTime StudyID AccessionNumber IssuerOfAccessionNumberSequence StudyDescription "
    "ReferringPhysicianName PhysiciansOfRecord NameOfPhysiciansReadingStudy ProcedureCodeSequence "
    "ReferencedStudySequence PatientAge PatientSize PatientWeight PatientSizeCodeSequence Occupation "
    "AdditionalPatientHistory AdmittingDiagnosesDescription AdmissionID NumberOfStudyRelatedSeries "
    "NumberOfStudyRelatedInstances MedicalAlerts Allergies PregnancyStatus"
)
SERIES_MODULE = (
    "SeriesInstanceUID SeriesNumber Modality Laterality SeriesDate SeriesTime SeriesDescription "
    "SeriesDescriptionCodeSequence PerformingPhysicianName OperatorsName ProtocolName BodyPartExamined PatientPosition "
    "PerformedProcedureStepID PerformedProcedureStepStartDate PerformedProcedureStepStartTime "
    "PerformedProcedureStepDescription RequestAttributesSequence FrameOfReferenceUID PositionReferenceIndicator "
    "Manufacturer ManufacturerModelName InstitutionName InstitutionAddress InstitutionalDepartmentName StationName "
    "DeviceSerialNumber SoftwareVersions"
)
PATIENT, STUDY, SERIES = (frozenset(module.split()) for module in (PATIENT_MODULE, STUDY_MODULE, SERIES_MODULE))
"""Attributes of the patient, study and series modules (PS3.3 C.7.1 to C.7.5); all others stay with the instance."""


@dataclass
class Levels:
    """Attributes by keyword, each at its level of the hierarchy, and how many could not be read."""

    patient: dict[str, Any] = field(default_factory=dict)
    study: dict[str, Any] = field(default_factory=dict)
    series: dict[str, Any] = field(default_factory=dict)
    instance: dict[str, Any] = field(default_factory=dict)
    discarded: int = 0

    def of(self, keyword: str) -> dict[str, Any]:
        """Return the level that an attribute belongs to."""
        for names, level in ((PATIENT, self.patient), (STUDY, self.study), (SERIES, self.series)):
            if keyword in names:
                return level
        return self.instance


def read_levels(dataset: Dataset) -> Levels:
    """Return every attribute of `dataset` but the pixels; one whose value breaks its VR is counted and left out."""
    levels = Levels()
    for tag in dataset.keys():  # noqa: SIM118 - iterating a Dataset converts every element at once
        keyword = _keyword(tag)
        if keyword in PIXEL_KEYWORDS or tag.element == 0:
            continue
        try:
            element = dataset[tag]
            if not _is_bulk(element):
                levels.of(keyword)[keyword] = _value(element)
        except UNREADABLE:
            levels.discarded += 1
    return levels


def _keyword(tag: BaseTag) -> str:
    return keyword_for_tag(tag) or f"{tag:08X}"


def _is_bulk(element: DataElement) -> bool:
    return element.VR in BINARY_VRS and isinstance(element.value, bytes) and len(element.value) > LARGEST_BINARY


def _value(element: DataElement) -> Any:
    value = element.value
    if isinstance(value, Sequence):
        return [dict(_item(item)) for item in value]
    if isinstance(value, MultiValue | list | tuple):
        return [_single(part) for part in value] or None
    return _single(value)


def _item(item: Dataset) -> Iterator[tuple[str, Any]]:
    for element in item:
        if element.tag.element != 0:
            yield _keyword(element.tag), _value(element)


def _single(value: Any) -> Any:
    if value is None or value == "":
        return None
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, BaseTag):
        return f"{value:08X}"
    if type(value) is float:
        return value if math.isfinite(value) else str(value)
    return value if type(value) is int else str(value)
