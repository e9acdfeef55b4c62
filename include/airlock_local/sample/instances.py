"""The part of each kind of instance after the common header: images, multi-frame images, reports, a PDF."""

from collections.abc import Callable
from dataclasses import dataclass

from pydicom.dataset import Dataset
from pydicom.uid import (
    BasicTextSRStorage,
    ComputedRadiographyImageStorage,
    CTImageStorage,
    DigitalXRayImageStorageForPresentation,
    EncapsulatedPDFStorage,
    EnhancedCTImageStorage,
    EnhancedMRImageStorage,
    EnhancedSRStorage,
    MRImageStorage,
    UltrasoundImageStorage,
    UltrasoundMultiFrameImageStorage,
)

from airlock_local.sample.part10 import make_code, make_item, make_sequence
from airlock_local.sample.pixels import noise, phantom

AXIAL = ["1", "0", "0", "0", "1", "0"]
FRAMES = 6


def _grey(ds: Dataset, side: int, bits: int, frames: int = 1) -> None:
    """Image pixel module of a square grey image of `side` pixels, with `bits` stored."""
    ds.SamplesPerPixel, ds.PhotometricInterpretation = 1, "MONOCHROME2"
    ds.Rows = ds.Columns = side
    ds.BitsAllocated, ds.BitsStored, ds.HighBit = (8 if bits <= 8 else 16), bits, bits - 1
    ds.PixelRepresentation = 0
    ds.PixelData = b"".join(phantom(side, side, bits, ds.SOPInstanceUID, frame) for frame in range(frames))
    ds["PixelData"].VR = "OB" if bits <= 8 else "OW"


def _slice_position(ds: Dataset) -> None:
    """Image plane module; the frame of reference belongs to the study."""
    location = f"-{ds.InstanceNumber * 5}.0"
    ds.FrameOfReferenceUID = f"{ds.StudyInstanceUID}.1"
    ds.PositionReferenceIndicator = ""
    ds.ImagePositionPatient, ds.ImageOrientationPatient = ["-120.0", "-120.0", location], AXIAL
    ds.PixelSpacing, ds.SliceThickness, ds.SliceLocation = ["3.75", "3.75"], "5", location
    ds.PatientPosition = "HFS"


def _ct(ds: Dataset) -> None:
    ds.ImageType, ds.BodyPartExamined, ds.KVP = ["ORIGINAL", "PRIMARY", "AXIAL"], "CHEST", "120"
    ds.ConvolutionKernel, ds.RescaleIntercept, ds.RescaleSlope = "B31", "-1024", "1"
    ds.WindowCenter, ds.WindowWidth = ["50", "-600"], ["350", "1200"]
    _slice_position(ds)
    _grey(ds, 64, 12)


def _mr(ds: Dataset) -> None:
    ds.ImageType, ds.BodyPartExamined = ["ORIGINAL", "PRIMARY", "M", "ND"], "HEAD"
    ds.ScanningSequence, ds.SequenceVariant, ds.ScanOptions, ds.MRAcquisitionType = "SE", "SK", "", "2D"
    ds.RepetitionTime, ds.EchoTime, ds.EchoTrainLength, ds.MagneticFieldStrength = "500", "12.5", 1, "1.5"
    _slice_position(ds)
    _grey(ds, 64, 12)


def _mr_long_header(ds: Dataset) -> None:
    """Make an MR image whose vendor puts 112 KB between the study's UIDs and the request attributes."""
    _mr(ds)
    block = ds.private_block(0x0029, "SAMPLE CSA HEADER", create=True)
    block.add_new(0x08, "CS", "IMAGE NUM 4")
    block.add_new(0x10, "OB", b"SV10" + noise(11_996, ds.SOPInstanceUID, "image header"))
    block.add_new(0x20, "OB", b"SV10" + noise(99_996, ds.SeriesInstanceUID, "series header"))


def _cr(ds: Dataset) -> None:
    ds.ImageType, ds.BodyPartExamined, ds.ViewPosition = ["ORIGINAL", "PRIMARY"], "CHEST", "PA"
    ds.KVP, ds.PatientOrientation = "85", ["L", "F"]
    _grey(ds, 64, 10)


def _dx(ds: Dataset) -> None:
    ds.ImageType, ds.BodyPartExamined, ds.PresentationIntentType = (
        ["ORIGINAL", "PRIMARY", ""],
        "HAND",
        "FOR PRESENTATION",
    )
    ds.ImageLaterality, ds.PixelSpacing, ds.ImagerPixelSpacing = "L", ["2.0", "2.0"], ["2.0", "2.0"]
    ds.PixelIntensityRelationship, ds.PixelIntensityRelationshipSign = "LOG", -1
    ds.RescaleIntercept, ds.RescaleSlope, ds.RescaleType = "0", "1", "US"
    _grey(ds, 64, 12)


def _us_grey(ds: Dataset) -> None:
    ds.ImageType, ds.LossyImageCompression = ["ORIGINAL", "PRIMARY", "ABDOMINAL", "0001"], "00"
    ds.SequenceOfUltrasoundRegions = make_sequence(
        make_item(
            RegionSpatialFormat=1,
            RegionDataType=1,
            RegionFlags=0,
            RegionLocationMinX0=0,
            RegionLocationMinY0=0,
            RegionLocationMaxX1=63,
            RegionLocationMaxY1=63,
            PhysicalUnitsXDirection=3,
            PhysicalUnitsYDirection=3,
            PhysicalDeltaX=0.1,
            PhysicalDeltaY=0.1,
        )
    )
    _grey(ds, 64, 8)


def _us(ds: Dataset) -> None:
    """Make an ultrasound image in colour."""
    _us_grey(ds)
    grey = ds.PixelData
    ds.SamplesPerPixel, ds.PhotometricInterpretation, ds.PlanarConfiguration = 3, "RGB", 0
    ds.PixelData = bytes(sample for value in grey for sample in (value, value, value // 2))


def _us_cine(ds: Dataset) -> None:
    _us_grey(ds)
    ds.NumberOfFrames, ds.FrameTime, ds.FrameIncrementPointer = FRAMES, "40", 0x00181063
    _grey(ds, 64, 8, FRAMES)


def _multi_frame(ds: Dataset, shared: Dataset, measured: dict[str, Dataset]) -> None:
    """Multi-frame functional groups module (PS3.3 section C.7.6.16); `measured` goes into every frame's item."""
    dimension = f"{ds.SeriesInstanceUID}.2"
    ds.FrameOfReferenceUID, ds.PositionReferenceIndicator = f"{ds.StudyInstanceUID}.1", ""
    ds.NumberOfFrames, ds.AcquisitionNumber = FRAMES, 1
    ds.DimensionOrganizationSequence = make_sequence(make_item(DimensionOrganizationUID=dimension))
    ds.DimensionIndexSequence = make_sequence(
        make_item(
            DimensionOrganizationUID=dimension,
            DimensionIndexPointer=0x00209057,
            FunctionalGroupPointer=0x00209111,
        )
    )
    shared.PixelMeasuresSequence = make_sequence(make_item(PixelSpacing=["7.5", "7.5"], SliceThickness="5"))
    shared.PlaneOrientationSequence = make_sequence(make_item(ImageOrientationPatient=AXIAL))
    ds.SharedFunctionalGroupsSequence = make_sequence(shared)
    ds.PerFrameFunctionalGroupsSequence = make_sequence(*(_frame_item(ds, index, measured) for index in range(FRAMES)))
    _grey(ds, 32, 12, FRAMES)


def _frame_item(ds: Dataset, index: int, measured: dict[str, Dataset]) -> Dataset:
    content = make_item(
        FrameAcquisitionNumber=index + 1,
        FrameAcquisitionDateTime=f"{ds.StudyDate}1012{index:02d}.000",
        FrameAcquisitionDuration=250.0,
        DimensionIndexValues=[index + 1],
        StackID="1",
        InStackPositionNumber=index + 1,
    )
    frame = make_item(
        FrameContentSequence=make_sequence(content),
        PlanePositionSequence=make_sequence(make_item(ImagePositionPatient=["-120.0", "-120.0", f"{index * 5}.0"])),
    )
    for keyword, values in measured.items():
        setattr(frame, keyword, make_sequence(values))
    return frame


def _ct_enhanced(ds: Dataset) -> None:
    ds.ImageType, ds.VolumetricProperties = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "VOLUME"
    shared = make_item(
        CTAcquisitionTypeSequence=make_sequence(make_item(AcquisitionType="SPIRAL", TubeAngle=0.0)),
        PixelValueTransformationSequence=make_sequence(
            make_item(RescaleIntercept="-1024", RescaleSlope="1", RescaleType="HU")
        ),
    )
    exposure = make_item(ExposureTimeInms=500.0, XRayTubeCurrentInmA=120.0, CTDIvol=3.5)
    _multi_frame(ds, shared, {"CTExposureSequence": exposure})


def _mr_enhanced(ds: Dataset) -> None:
    ds.ImageType, ds.PulseSequenceName = ["ORIGINAL", "PRIMARY", "VOLUME", "NONE"], "SE2D"
    shared = make_item(
        MRTimingAndRelatedParametersSequence=make_sequence(make_item(RepetitionTime="500", FlipAngle="90"))
    )
    _multi_frame(ds, shared, {"MREchoSequence": make_item(EffectiveEchoTime=12.5)})


def _text(concept: Dataset, value: str) -> Dataset:
    return make_item(
        RelationshipType="CONTAINS",
        ValueType="TEXT",
        ConceptNameCodeSequence=make_sequence(concept),
        TextValue=value,
    )


def _sr(ds: Dataset) -> None:
    """Make a report: a heading and a finding in the patient's own language (PS3.3 section C.17)."""
    ds.CompletionFlag, ds.VerificationFlag, ds.ValueType = "COMPLETE", "UNVERIFIED", "CONTAINER"
    ds.ContinuityOfContent = "SEPARATE"
    ds.ReferencedPerformedProcedureStepSequence = make_sequence()
    ds.PerformedProcedureCodeSequence = make_sequence()
    ds.ConceptNameCodeSequence = make_sequence(make_code("18748-4", "LN", "Diagnostic Imaging Report"))
    section = make_item(
        RelationshipType="CONTAINS",
        ValueType="CONTAINER",
        ContinuityOfContent="SEPARATE",
        ConceptNameCodeSequence=make_sequence(make_code("121070", "DCM", "Findings")),
        ContentSequence=make_sequence(
            _text(make_code("121071", "DCM", "Finding"), f"No finding, this is a sample. {ds.StudyDescription}")
        ),
    )
    ds.ContentSequence = make_sequence(section)


def _sr_enhanced(ds: Dataset) -> None:
    """Make a report with a measured value, which Basic Text SR does not allow."""
    _sr(ds)
    unit = make_sequence(make_code("mGy", "UCUM", "mGy"))
    ds.ContentSequence.append(
        make_item(
            RelationshipType="CONTAINS",
            ValueType="NUM",
            ConceptNameCodeSequence=make_sequence(make_code("113830", "DCM", "Mean CTDIvol")),
            MeasuredValueSequence=make_sequence(make_item(NumericValue="3.5", MeasurementUnitsCodeSequence=unit)),
        )
    )


def _pdf(ds: Dataset) -> None:
    ds.ConversionType, ds.BurnedInAnnotation, ds.DocumentTitle = "WSD", "NO", "Letter"
    ds.ConceptNameCodeSequence = make_sequence()
    ds.MIMETypeOfEncapsulatedDocument = "application/pdf"
    document = _one_page_pdf("Sample letter, no patient")
    ds.EncapsulatedDocumentLength = len(document)
    ds.EncapsulatedDocument = document + bytes(len(document) % 2)


def _one_page_pdf(text: str) -> bytes:
    """Return a PDF of one page that says `text` (ASCII, without brackets)."""
    font = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>"
    page = f"/MediaBox [0 0 300 200] /Contents 4 0 R /Resources << /Font << /F1 {font} >> >>"
    stream = f"BT /F1 18 Tf 40 120 Td ({text}) Tj ET"
    objects = (
        "<< /Type /Catalog /Pages 2 0 R >>",
        "<< /Type /Pages /Kids [3 0 R] /Count 1 >>",
        f"<< /Type /Page /Parent 2 0 R {page} >>",
        f"<< /Length {len(stream)} >>\nstream\n{stream}\nendstream",
    )
    pdf, offsets = "%PDF-1.4\n", []
    for number, body in enumerate(objects, 1):
        offsets.append(len(pdf))
        pdf += f"{number} 0 obj\n{body}\nendobj\n"
    table = "".join(f"{offset:010d} 00000 n \n" for offset in offsets)
    size = len(objects) + 1
    tail = f"trailer << /Size {size} /Root 1 0 R >>\nstartxref\n{len(pdf)}\n%%EOF\n"
    return f"{pdf}xref\n0 {size}\n0000000000 65535 f \n{table}{tail}".encode("ascii")


@dataclass(frozen=True)
class Maker:
    """Completes the common header to one kind of instance."""

    modality: str
    sop_class: str
    build: Callable[[Dataset], None]


MAKERS: dict[str, Maker] = {
    "CT": Maker("CT", CTImageStorage, _ct),
    "CT_ENHANCED": Maker("CT", EnhancedCTImageStorage, _ct_enhanced),
    "MR": Maker("MR", MRImageStorage, _mr),
    "MR_LONG_HEADER": Maker("MR", MRImageStorage, _mr_long_header),
    "MR_ENHANCED": Maker("MR", EnhancedMRImageStorage, _mr_enhanced),
    "CR": Maker("CR", ComputedRadiographyImageStorage, _cr),
    "DX": Maker("DX", DigitalXRayImageStorageForPresentation, _dx),
    "US": Maker("US", UltrasoundImageStorage, _us),
    "US_GREY": Maker("US", UltrasoundImageStorage, _us_grey),
    "US_CINE": Maker("US", UltrasoundMultiFrameImageStorage, _us_cine),
    "SR": Maker("SR", BasicTextSRStorage, _sr),
    "SR_ENHANCED": Maker("SR", EnhancedSRStorage, _sr_enhanced),
    "PDF": Maker("DOC", EncapsulatedPDFStorage, _pdf),
}
