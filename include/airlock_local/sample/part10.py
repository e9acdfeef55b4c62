"""The one maker of DICOM files for the sample archive, the tests and the benchmarks.

The bytes of a Part 10 file depend on nothing but its contents. Pixels are written as they are: a caller that wants them
compressed does that first.
"""

import hashlib
import zlib
from io import BytesIO
from typing import Any

import pydicom
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.sequence import Sequence
from pydicom.uid import (
    UID,
    CTImageStorage,
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

IMPLEMENTATION_CLASS_UID = UID("2.25.190381722961327713061472907811405331217")
IMPLEMENTATION_VERSION_NAME = "AIRLOCK_SAMPLE"
PREAMBLE = bytes(128) + b"DICM"
SLICE_SIDE = 16
"""Rows and columns of `make_ct_slice`; the fewest that pixel readers take for an image."""


def make_uid(*parts: object) -> UID:
    """Return the UID that belongs to `parts`, always the same one (PS3.5 section B.2, root 2.25)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def make_item(**values: Any) -> Dataset:
    """Return a data set with these attributes; an item of a sequence is one, too."""
    ds = Dataset()
    for keyword, value in values.items():
        setattr(ds, keyword, value)
    return ds


def make_sequence(*items: Dataset) -> Sequence:
    """Return a sequence of these items."""
    return Sequence(items)


def make_code(value: str, scheme: str, meaning: str) -> Dataset:
    """Return a code sequence item (PS3.3 section 8)."""
    return make_item(CodeValue=value, CodingSchemeDesignator=scheme, CodeMeaning=meaning)


def set_attribute(ds: Dataset, keyword: str, value: object) -> None:
    """Set an attribute without judging the value, or remove it when `value` is None.

    Plain attribute access makes pydicom warn about the illegal values that some troubles need.
    """
    if value is not None:
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE))
    elif keyword in ds:
        del ds[keyword]


def undefine_lengths(ds: Dataset) -> None:
    """Mark every sequence and item to be written with undefined length (PS3.5 section 7.5)."""
    for element in ds:
        if element.VR == "SQ":
            element.is_undefined_length = True
            for nested in element.value:
                nested.is_undefined_length_sequence_item = True
                undefine_lengths(nested)


def encode_file_meta(ds: Dataset, transfer_syntax: str | None) -> bytes:
    """Return the preamble and the file meta information of PS3.10 section 7.1.

    Parameters
    ----------
    ds
        Gives the SOP class and instance; what it lacks, the file meta information lacks too.
    transfer_syntax
        The Transfer Syntax UID to declare; None leaves the element out, which no reader expects.
    """
    meta = FileMetaDataset()
    meta.FileMetaInformationGroupLength = 0
    meta.FileMetaInformationVersion = b"\x00\x01"
    if "SOPClassUID" in ds:
        set_attribute(meta, "MediaStorageSOPClassUID", ds.SOPClassUID)
    if "SOPInstanceUID" in ds:
        set_attribute(meta, "MediaStorageSOPInstanceUID", ds.SOPInstanceUID)
    if transfer_syntax is not None:
        meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO(PREAMBLE)
    buffer.seek(0, 2)
    write_file_meta_info(pydicom.filebase.DicomIO(buffer), meta, enforce_standard=False)
    return buffer.getvalue()


def encode_data_set(ds: Dataset, transfer_syntax: str) -> bytes:
    """Return `ds` encoded in `transfer_syntax`."""
    syntax, buffer = UID(transfer_syntax), BytesIO()
    if "PixelData" in ds and syntax.is_transfer_syntax:
        ds["PixelData"].is_undefined_length = syntax.is_encapsulated
    implicit = syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=syntax != ExplicitVRBigEndian)
    return deflate(buffer.getvalue()) if syntax == DeflatedExplicitVRLittleEndian else buffer.getvalue()


def deflate(data: bytes) -> bytes:
    """Return `data` as a raw deflate stream of even length (PS3.5 section A.5)."""
    compressor = zlib.compressobj(wbits=-zlib.MAX_WBITS)
    packed = compressor.compress(data) + compressor.flush()
    return packed + bytes(len(packed) % 2)


def make_file(ds: Dataset, transfer_syntax: str) -> bytes:
    """Return `ds` as a whole Part 10 file."""
    body = encode_data_set(ds, transfer_syntax)
    return encode_file_meta(ds, transfer_syntax) + body


def make_ct_slice(transfer_syntax: str = ExplicitVRLittleEndian, /, **values: object) -> bytes:
    """Return a small CT image as a Part 10 file; `values` set attributes by keyword, None leaves one out."""
    ds = Dataset()
    for keyword, value in {**_CT_SLICE, **values}.items():
        set_attribute(ds, keyword, value)
    return make_file(ds, transfer_syntax)


_CT_SLICE: dict[str, object] = {
    "SOPClassUID": CTImageStorage,
    "StudyDate": "20260301",
    "StudyTime": "101500",
    "Modality": "CT",
    "SeriesNumber": 1,
    "InstanceNumber": 1,
    "Rows": SLICE_SIDE,
    "Columns": SLICE_SIDE,
    "SamplesPerPixel": 1,
    "PhotometricInterpretation": "MONOCHROME2",
    "BitsAllocated": 16,
    "BitsStored": 12,
    "HighBit": 11,
    "PixelRepresentation": 0,
    "PixelData": bytes(2 * SLICE_SIDE * SLICE_SIDE),
}
