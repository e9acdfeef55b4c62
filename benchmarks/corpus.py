"""The corpus of ``make bench``: synthetic DICOM objects of many kinds, the same bytes on every run.

The kinds and their shares imitate clinical archives; requests and bytes per object depend on them. Objects are made one
at a time and never kept, so that a corpus of gigabytes needs no memory. In the mix, the folders have objects of all
kinds; in the series, a folder has objects of one kind, as those of archives mostly have.
"""

from __future__ import annotations

import random
import warnings
from dataclasses import dataclass
from functools import lru_cache
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import pydicom
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.multival import MultiValue
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    EnhancedCTImageStorage,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    MRImageStorage,
)
from pydicom.valuerep import IS

from airlock.records import ATTRIBUTES, PROCEDURE_CODES
from airlock_local.sample.part10 import make_code, make_file, make_item, make_uid, undefine_lengths

if TYPE_CHECKING:
    from collections.abc import Iterator

ENHANCED = "enhanced"
SHARES = {  # of each kind in a hundred objects
    "explicit": 45,
    "implicit_undefined": 12,  # implicit VR, sequences and items of undefined length
    "implicit": 6,
    "big_endian": 3,
    "deflated": 3,
    "jpeg": 4,
    "jpeg2000": 4,
    "mr": 6,
    "csa": 5,  # MR with 12 and 100 KB of private values in group 0029, before the last wanted attribute
    "private_blob": 3,  # 40 to 300 KB of a private value in group 0009, before most wanted attributes
    "icon": 4,  # an icon image sequence
    "cr": 2,  # compressed to 3.5 MB
    "japanese": 1,  # names in ISO 2022 code extensions
    "report": 2,  # a structured report: all of it is header
}
_CLASSES = {
    "mr": (MRImageStorage, "MR"),
    "csa": (MRImageStorage, "MR"),
    "cr": (ComputedRadiographyImageStorage, "CR"),
    "report": (BasicTextSRStorage, "SR"),
}
_SYNTAXES = {
    "implicit_undefined": ImplicitVRLittleEndian,
    "implicit": ImplicitVRLittleEndian,
    "big_endian": ExplicitVRBigEndian,
    "deflated": DeflatedExplicitVRLittleEndian,
    "jpeg": JPEGBaseline8Bit,
    "jpeg2000": JPEG2000Lossless,
    "cr": JPEGLosslessSV1,
}
_COMPRESSED = {"jpeg": 180_000, "jpeg2000": 180_000, "cr": 3_500_000}  # bytes
_UNDEFINED = {"implicit_undefined", "icon", *_COMPRESSED}  # sequences and items of undefined length
_SIDE = {"mr": 256, "csa": 256}  # rows and columns of a frame, 512 else
_PER_SERIES, _PER_STUDY = 50, 200  # objects
_CODE = ("CodeValue", "CodingSchemeDesignator", "CodeMeaning")
VARIANTS = 6  # of each kind; the objects of a series repeat them in turns
_LENGTH = 4.8, 0.8  # of the logarithm of a series' objects, mean and deviation: 167 objects in the mean


class Position(NamedTuple):
    """The position of an object in the corpus."""

    study: int
    series: int
    number: int

    @classmethod
    def of(cls, number: int) -> Position:
        """Return the position of the object with a number."""
        return cls(number // _PER_STUDY, number % _PER_STUDY // _PER_SERIES + 1, number)


@dataclass(frozen=True)
class Recipe:
    """The contents of a corpus; equal recipes give equal bytes.

    Parameters
    ----------
    mixed
        Objects of the kinds of ``SHARES``, of about 0.5 MB each.
    enhanced
        Enhanced multi-frame objects, of about 0.5 MB per frame.
    frames
        Frames of each enhanced object.
    """

    mixed: int
    enhanced: int
    frames: int = 96


class Made(NamedTuple):
    """One object of the corpus."""

    key: str
    kind: str
    body: bytes


def objects(recipe: Recipe) -> Iterator[Made]:
    """Yield the corpus, the enhanced objects last."""
    kinds = spread_kinds()
    for number in range(recipe.mixed):
        kind, position = kinds[number % len(kinds)], Position.of(number)
        yield Made(f"mixed/{position.study:04}/{position.series}/{number:06}.dcm", kind, instance(kind, number))
    for number in range(recipe.enhanced):
        yield Made(f"enhanced/{number:04}.dcm", ENHANCED, enhanced(number, recipe.frames))


class Member(NamedTuple):
    """One object of a series; its bytes are those of ``instance(kind, variant)``."""

    key: str
    kind: str
    variant: int


def series(count: int) -> Iterator[Member]:
    """Yield the objects of series of one kind each, in the order of their keys; a hundred have every kind in its share.

    Each series is a folder.
    """
    kinds, chance = spread_kinds(), random.Random("series")  # noqa: S311  (reproducible, not secret)
    for folder in range(count):
        kind = kinds[folder % len(kinds)]
        for number in range(round(chance.lognormvariate(*_LENGTH)) or 1):
            yield Member(f"series/{folder:04}-{kind}/{number:05}.dcm", kind, number % VARIANTS)


def spread_kinds() -> list[str]:
    """Return a hundred kinds in their shares, spread so that any short run has most of them."""
    used = dict.fromkeys(SHARES, 0)
    order = []
    for position in range(1, 101):
        kind = max(SHARES, key=lambda kind: SHARES[kind] * position / 100 - used[kind])
        used[kind] += 1
        order.append(kind)
    return order


def instance(kind: str, number: int) -> bytes:
    """Return the bytes of an object of a kind of ``SHARES``."""
    noise = random.Random(f"{kind} {number}")  # noqa: S311  (reproducible, not secret)
    dataset = _header(*_CLASSES.get(kind, (CTImageStorage, "CT")), Position.of(number), noise)
    if kind == "report":
        _make_report(dataset)
    elif size := _COMPRESSED.get(kind):
        _set_pixels(dataset, encapsulate([noise.randbytes(size)]), "OB")
        dataset["PixelData"].is_undefined_length = True
    else:
        dataset.Rows = dataset.Columns = side = _SIDE.get(kind, 512)
        _set_pixels(dataset, _pixels(side))
    if kind == "japanese":
        dataset.SpecificCharacterSet = ["", "ISO 2022 IR 87"]
        dataset.PatientName, dataset.InstitutionName = "Yamada^Tarou=山田^太郎=やまだ^たろう", "Hospital"
    elif kind == "csa":
        _add_values(dataset, 0x0029, "SIEMENS CSA HEADER", noise.randbytes(12_000), noise.randbytes(100_000))
    elif kind == "private_blob":
        _add_values(dataset, 0x0009, "GEMS_BLOB_01", noise.randbytes(noise.choice((40_000, 150_000, 300_000))))
    elif kind == "icon":
        dataset.IconImageSequence = [_icon(noise)]
    if kind in _UNDEFINED:
        undefine_lengths(dataset)
    return make_file(dataset, _SYNTAXES.get(kind, ExplicitVRLittleEndian))


def enhanced(number: int, frames: int) -> bytes:
    """Return the bytes of an enhanced multi-frame object; its functional groups lie behind the wanted attributes."""
    noise = random.Random(f"{ENHANCED} {number}")  # noqa: S311  (reproducible, not secret)
    dataset = _header(EnhancedCTImageStorage, "CT", Position(100_000 + number, 1, number), noise)
    dataset.NumberOfFrames = frames
    pointers = {"DimensionIndexPointer": 0x00209056, "FunctionalGroupPointer": 0x00209111}
    organization = {"DimensionOrganizationUID": make_uid("dimensions", number)}
    dataset.DimensionIndexSequence = [make_item(**pointers, **organization) for _ in range(3)]
    dataset.SharedFunctionalGroupsSequence = [
        make_item(CTAcquisitionTypeSequence=[make_item(AcquisitionType="SPIRAL")])
    ]
    dataset.PerFrameFunctionalGroupsSequence = [_functional_groups(frame) for frame in range(frames)]
    if number % 2:
        undefine_lengths(dataset)
    _set_pixels(dataset, _pixels(dataset.Rows) * frames)
    return make_file(dataset, ExplicitVRLittleEndian)


def texts(dataset: Dataset) -> dict[str, str]:
    """Return the text of all ``ATTRIBUTES`` that a data set has, through pydicom's own conversion of each value.

    Several values are joined by a backslash; RequestedProcedureID is the one of the first request that has one, before
    the one at top level, and ProcedureCodeSequence is its first code, as ``records.ATTRIBUTES`` asks.
    """
    found = {}
    for keyword in ATTRIBUTES:
        if keyword == PROCEDURE_CODES:
            continue
        source: Dataset = dataset.file_meta if keyword == "TransferSyntaxUID" else dataset
        if keyword in source:
            found[keyword] = _text(source[keyword].value)
    for item in dataset.get(PROCEDURE_CODES) or ():
        if any(name in item for name in _CODE):
            found[PROCEDURE_CODES] = "\\".join(_text(item.get(name)) for name in _CODE)
            break
    for request in dataset.get("RequestAttributesSequence") or ():
        if "RequestedProcedureID" in request:
            return found | {"RequestedProcedureID": _text(request.RequestedProcedureID)}
    return found


def truth(body: bytes) -> dict[str, str]:
    """Return the values that pydicom reads from a whole object."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return texts(pydicom.dcmread(BytesIO(body)))


def _text(value: Any) -> str:
    if isinstance(value, MultiValue):
        return "\\".join(map(_text, value))
    return str(value.original_string if isinstance(value, IS) else "" if value is None else value)


@lru_cache
def _pixels(side: int) -> bytes:
    """Return one frame of 12-bit noise; it does not compress to nothing."""
    noise = random.Random("pixels").randbytes(2 * side * side)  # noqa: S311  (reproducible, not secret)
    mask = int.from_bytes(b"\xff\x0f" * (side * side), "big")
    return (int.from_bytes(noise, "big") & mask).to_bytes(len(noise), "big")


def _set_pixels(dataset: Dataset, pixels: bytes, vr: str = "OW") -> None:
    dataset.PixelData = pixels
    dataset["PixelData"].VR = vr


def _header(sop_class: str, modality: str, position: Position, noise: random.Random) -> Dataset:
    """Return the attributes that a scanner of a large vendor writes, about 3 KB of them."""
    study, series, number = position
    dataset = make_item(**_IDENTITY, **_ACQUISITION, **_IMAGE, Modality=modality, SOPClassUID=sop_class)
    for prefix in ("Study", "Series", "Acquisition", "Content"):
        setattr(dataset, f"{prefix}Date", "20240105")
        setattr(dataset, f"{prefix}Time", "101112.123456")
    dataset.SOPInstanceUID = make_uid("instance", study, series, number)
    dataset.StudyInstanceUID = make_uid("study", study)
    dataset.SeriesInstanceUID = make_uid("series", study, series)
    dataset.FrameOfReferenceUID = make_uid("frame of reference", study)
    dataset.IrradiationEventUID = make_uid("irradiation", study, series)
    dataset.AccessionNumber = f"A{study * 13 + 1:08}"
    dataset.PatientID = f"P{study:07}"
    dataset.SeriesNumber, dataset.InstanceNumber = str(series), str(number)
    dataset.ImagePositionPatient = ["-175.1", "-320.5", str(-100 - number)]
    dataset.SliceLocation = str(-100 - number)
    _add_sequences(dataset, study, number)
    _add_private(dataset, number, noise)
    return dataset


def _add_sequences(dataset: Dataset, study: int, number: int) -> None:
    referenced = {"ReferencedSOPClassUID": dataset.SOPClassUID}
    dataset.ReferencedImageSequence = [
        make_item(**referenced, ReferencedSOPInstanceUID=make_uid("referenced", number, position))
        for position in range(3)
    ]
    dataset.ProcedureCodeSequence = [make_code("CTTHX", "L", "CT Thorax with contrast")]
    dataset.RequestedProcedureCodeSequence = [make_code("CTTHX", "L", "CT Thorax")]
    request = make_item(
        ScheduledProcedureStepDescription="CT Thorax",
        ScheduledProcedureStepID="SPS1",
        RequestedProcedureID=f"RP{study:06}",
        ScheduledProtocolCodeSequence=[make_code("X", "L", "Y")],
    )
    dataset.RequestAttributesSequence = [request]
    if study % 2:  # half of the studies have it at top level as well
        dataset.RequestedProcedureID = f"RP{study:06}"


def _add_private(dataset: Dataset, number: int, noise: random.Random) -> None:
    block = dataset.private_block(0x0019, "SIEMENS CT VA0  COAD", create=True)
    for position in range(8):
        block.add_new(0x90 + position, "DS", f"{position}.{number}")
    block.add_new(0xB0, "SL", 500)
    block.add_new(0xB1, "OB", noise.randbytes(64))
    dataset.private_block(0x0021, "SIEMENS MED", create=True).add_new(0x11, "DS", ["0.5", "0.5"])
    block = dataset.private_block(0x0029, "SIEMENS CSA HEADER", create=True)
    block.add_new(0x08, "CS", "SOM 5")
    block.add_new(0x09, "LO", "20240105")
    block.add_new(0x10, "OB", noise.randbytes(400))
    block = dataset.private_block(0x0029, "SIEMENS MEDCOM HEADER", create=True)
    block.add_new(0x31, "LO", "4.0.700536169")
    block.add_new(0x40, "SQ", [Dataset()])


def _add_values(dataset: Dataset, group: int, creator: str, *values: bytes) -> None:
    block = dataset.private_block(group, creator, create=True)
    for number, value in enumerate(values, start=1):
        block.add_new(number << 4, "OB", value)


def _make_report(dataset: Dataset) -> None:
    """Have a structured report instead of an image (PS3.3 section A.35.1)."""
    for keyword in (*_ACQUISITION, *_IMAGE):
        del dataset[keyword]
    text = make_item(RelationshipType="CONTAINS", ValueType="TEXT", TextValue="Nothing remarkable. " * 100)
    text.ConceptNameCodeSequence = [make_code("121071", "DCM", "Finding")]
    dataset.ValueType, dataset.ContinuityOfContent = "CONTAINER", "SEPARATE"
    dataset.CompletionFlag, dataset.VerificationFlag = "COMPLETE", "UNVERIFIED"
    dataset.ContentSequence = [text]


def _icon(noise: random.Random) -> Dataset:
    icon = make_item(
        SamplesPerPixel=1,
        PhotometricInterpretation="MONOCHROME2",
        Rows=64,
        Columns=64,
        BitsAllocated=8,
        BitsStored=8,
        HighBit=7,
        PixelRepresentation=0,
    )
    _set_pixels(icon, noise.randbytes(64 * 64), "OB")
    return icon


def _functional_groups(frame: int) -> Dataset:
    """Return the per-frame functional groups of an Enhanced CT image (PS3.3 section A.38.1)."""
    source = make_item(
        ReferencedSOPClassUID=CTImageStorage,
        ReferencedSOPInstanceUID=make_uid("source", frame),
        PurposeOfReferenceCodeSequence=[make_code("121322", "DCM", "Source image")],
    )
    content = make_item(
        FrameAcquisitionDateTime="20240105101112.000",
        FrameReferenceDateTime="20240105101112.000",
        FrameAcquisitionDuration=0.5,
        DimensionIndexValues=[1, frame + 1, 1],
        StackID="1",
        InStackPositionNumber=frame + 1,
    )
    return make_item(
        FrameContentSequence=[content],
        PlanePositionSequence=[make_item(ImagePositionPatient=["-175.1", "-320.5", str(-100 - frame)])],
        PlaneOrientationSequence=[make_item(ImageOrientationPatient=["1", "0", "0", "0", "1", "0"])],
        PixelMeasuresSequence=[make_item(SliceThickness="1", PixelSpacing=["0.68", "0.68"])],
        FrameVOILUTSequence=[make_item(WindowCenter="50", WindowWidth="350", WindowCenterWidthExplanation="X")],
        PixelValueTransformationSequence=[make_item(RescaleIntercept="-1024", RescaleSlope="1", RescaleType="HU")],
        CTExposureSequence=[make_item(ExposureTimeInms=500.0, XRayTubeCurrentInmA=120.0, CTDIvol=3.2)],
        ReferencedImageSequence=[source],
    )


_IDENTITY: dict[str, Any] = {
    "SpecificCharacterSet": "ISO_IR 100",
    "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL", "CT_SOM5 SPI"],
    "InstanceCreationDate": "20240105",
    "InstanceCreationTime": "101112.000000",
    "TimezoneOffsetFromUTC": "+0100",
    "ContrastBolusAgent": "Ultravist 370",
    "Laterality": "",
    "ImageLaterality": "U",
    "Manufacturer": "SIEMENS",
    "InstitutionName": "Universitätsklinikum Irgendwo",
    "InstitutionAddress": "Street 12, Town, 12345 Country",
    "InstitutionalDepartmentName": "Radiology",
    "ReferringPhysicianName": "Doe^John^^Dr",
    "PerformingPhysicianName": "Roe^Jane",
    "RequestingPhysician": "REQ^DOC",
    "OperatorsName": "OP^X",
    "StationName": "CT-STATION-77",
    "StudyDescription": "CT Thorax mit KM",
    "SeriesDescription": "Thorax  1.0  B31f",
    "StudyID": "1",
    "PatientName": "Müller^Anna",
    "IssuerOfPatientID": "HOSPITAL",
    "PatientBirthDate": "19600102",
    "PatientSex": "F",
    "PatientAge": "064Y",
    "PatientSize": "1.70",
    "PatientWeight": "70",
    "NumberOfStudyRelatedSeries": "4",
    "NumberOfStudyRelatedInstances": "200",
    "RequestedProcedureDescription": "CT Thorax",
    "PerformedProcedureStepStartDate": "20240105",
    "PerformedProcedureStepID": "PPS1",
}
_ACQUISITION: dict[str, Any] = {
    "ManufacturerModelName": "SOMATOM Definition AS",
    "BodyPartExamined": "CHEST",
    "SliceThickness": "1",
    "KVP": "120",
    "DataCollectionDiameter": "500",
    "DeviceSerialNumber": "65123",
    "SoftwareVersions": "syngo CT 2012B",
    "ProtocolName": "Thorax^ThoraxRoutine (Adult)",
    "ReconstructionDiameter": "350",
    "DistanceSourceToDetector": "1085.6",
    "DistanceSourceToPatient": "595",
    "GantryDetectorTilt": "0",
    "TableHeight": "160",
    "RotationDirection": "CW",
    "ExposureTime": "500",
    "XRayTubeCurrent": "120",
    "Exposure": "60",
    "FilterType": "0",
    "GeneratorPower": "14",
    "FocalSpots": "1.2",
    "DateOfLastCalibration": "20240105",
    "TimeOfLastCalibration": "060000",
    "ConvolutionKernel": "B31f",
    "PatientPosition": "HFS",
    "AcquisitionNumber": "1",
    "ImageOrientationPatient": ["1", "0", "0", "0", "1", "0"],
    "PositionReferenceIndicator": "",
    "ImageComments": "Comment text " * 8,
}
_IMAGE: dict[str, Any] = {
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "Rows": 512,
    "Columns": 512,
    "PixelSpacing": ["0.68", "0.68"],
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "SmallestImagePixelValue": 0,
    "LargestImagePixelValue": 4095,
    "WindowCenter": ["50", "-600"],
    "WindowWidth": ["350", "1200"],
    "RescaleIntercept": "-1024",
    "RescaleSlope": "1",
    "WindowCenterWidthExplanation": ["WINDOW1", "WINDOW2"],
}
