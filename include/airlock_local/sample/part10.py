"""Write data sets as Part 10 files whose bytes depend on nothing but their contents."""

import hashlib
import zlib
from io import BytesIO

import pydicom
from pydicom.config import IGNORE
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import DataElement
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.filewriter import write_file_meta_info
from pydicom.uid import UID, DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from airlock_local.sample.pixels import FRAME_ENCODERS, compress_pixels, swap_words

IMPLEMENTATION_CLASS_UID = UID("2.25.190381722961327713061472907811405331217")
IMPLEMENTATION_VERSION_NAME = "AIRLOCK_SAMPLE1"
PREAMBLE = bytes(128) + b"DICM"


def make_uid(*parts: object) -> UID:
    """Return the UID that belongs to `parts`, always the same one (PS3.5 section B.2, root 2.25)."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return UID(f"2.25.{int.from_bytes(digest[:16], 'big')}")


def set_value(ds: Dataset, keyword: str, value: object) -> None:
    """Set an attribute without judging the value, or remove it when `value` is None.

    Plain attribute access makes pydicom warn about the illegal values that some troubles need.
    """
    if value is None:
        del ds[keyword]
    else:
        ds.add(DataElement(keyword, dictionary_VR(keyword), value, validation_mode=IGNORE))


def file_meta(ds: Dataset, transfer_syntax: str | None) -> bytes:
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
        meta.MediaStorageSOPClassUID = ds.SOPClassUID
    if "SOPInstanceUID" in ds:
        set_value(meta, "MediaStorageSOPInstanceUID", ds.SOPInstanceUID)
    if transfer_syntax is not None:
        meta.TransferSyntaxUID = UID(transfer_syntax)
    meta.ImplementationClassUID = IMPLEMENTATION_CLASS_UID
    meta.ImplementationVersionName = IMPLEMENTATION_VERSION_NAME
    buffer = BytesIO(PREAMBLE)
    buffer.seek(0, 2)
    write_file_meta_info(pydicom.filebase.DicomIO(buffer), meta, enforce_standard=False)
    return buffer.getvalue()


def data_set(ds: Dataset, transfer_syntax: str) -> bytes:
    """Return `ds` encoded in `transfer_syntax`; native little endian pixels are compressed or swapped as it asks."""
    if transfer_syntax in FRAME_ENCODERS:
        compress_pixels(ds, transfer_syntax)
    big_endian = transfer_syntax == ExplicitVRBigEndian
    if big_endian and ds.get("BitsAllocated") == 16:
        ds.PixelData = swap_words(ds.PixelData)
    buffer = BytesIO()
    implicit = transfer_syntax == ImplicitVRLittleEndian
    pydicom.dcmwrite(buffer, ds, implicit_vr=implicit, little_endian=not big_endian)
    if transfer_syntax == DeflatedExplicitVRLittleEndian:
        return deflate(buffer.getvalue())
    return buffer.getvalue()


def deflate(data: bytes) -> bytes:
    """Return `data` as a raw deflate stream of even length (PS3.5 section A.5)."""
    compressor = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    packed = compressor.compress(data) + compressor.flush()
    return packed + bytes(len(packed) % 2)


def part10(ds: Dataset, transfer_syntax: str) -> bytes:
    """Return `ds` as a whole Part 10 file."""
    body = data_set(ds, transfer_syntax)
    return file_meta(ds, transfer_syntax) + body
