"""The pixels of stored instances in a reconciliation, by the checksums that HealthImaging gives of each frame.

``PixelDataChecksumFromBaseToFullResolution`` ends with the CRC32 of the frame at full resolution, made before the
import (HealthImaging developer guide, "Pixel data verification"). AWS does not say of which bytes; here they are those
of an uncompressed frame as the file has them. So only objects in an uncompressed, little endian encoding are compared.
"""

from __future__ import annotations

import io
import zlib
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl
from pydicom import dcmread
from pydicom.errors import InvalidDicomError
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian

from airlock.ledger.columns import FindingKind
from airlock.ledger.comparisons import FOUND
from airlock.records import study_key
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airlock.stages.reconcile_source import Archive

_CHECKSUMS = "PixelDataChecksumFromBaseToFullResolution"
MOST_BYTES = 64 * 1024**2  # of an object that is read
READ_AT_A_TIME = 4
_NATIVE = frozenset({ImplicitVRLittleEndian, ExplicitVRLittleEndian})
_UNREADABLE = (InvalidDicomError, AttributeError, KeyError, TypeError, ValueError, EOFError, RecursionError)
_GONE = frozenset({"404", "NoSuchKey", "412", "PreconditionFailed"})  # `source` compares these


def compare_pixels(
    archive: Archive, stored: pl.DataFrame, documents: Mapping[str, dict[str, Any]]
) -> tuple[pl.DataFrame, int]:
    """Return the instances whose frames are not those of their objects, as `FOUND`, and how many were compared.

    *stored* are `reconciled.STORED` with their objects, *documents* the metadata by image set.
    """
    given = {uid: sums for document in documents.values() for uid, sums in _list_checksums(document)}
    rows = stored.filter(pl.col("size") <= MOST_BYTES, pl.col("SOPInstanceUID").is_in(list(given))).to_dicts()
    with ThreadPoolExecutor(READ_AT_A_TIME) as pool:
        own = list(pool.map(lambda row: _read(archive, row), rows))
    found = [
        {
            "kind": FindingKind.OTHER_CONTENT.value,
            "subject": row["SOPInstanceUID"],
            "study_key": study_key(row["StudyInstanceUID"]),
            "arrival_id": row["arrival_id"],
            "image_set_id": row["image_set_id"],
            "expected": f"the pixels of {len(sums)} frames of its object",
            "found": "frames with other checksums",
        }
        for row, sums in zip(rows, own, strict=True)
        if sums is not None and sums != given[row["SOPInstanceUID"]]
    ]
    return pl.DataFrame(found, FOUND, orient="row"), sum(sums is not None for sums in own)


def _list_checksums(document: dict[str, Any]) -> Iterator[tuple[str, list[int]]]:
    """Yield each instance with the checksums of its frames, if the document has one of each."""
    for series in document.get("Study", {}).get("Series", {}).values():
        for uid, entry in series.get("Instances", {}).items():
            levels = [frame.get(_CHECKSUMS) for frame in entry.get("ImageFrames") or ()]
            if levels and all(levels):
                yield uid, [level[-1].get("Checksum") for level in levels]


def _read(archive: Archive, row: dict[str, Any]) -> list[int] | None:
    """Return the checksums of an object's frames; None if it is not as it was imported, or not in a plain encoding."""
    try:
        body = b"".join(archive.s3.stream(S3Uri(row["bucket"], row["key"]), row["etag"]))
    except S3Error as error:
        if error.code not in _GONE:
            raise
        return None
    return checksum_frames(body)


def checksum_frames(body: bytes) -> list[int] | None:
    """Return the CRC32 of each frame of a Part 10 file; None if it is not uncompressed and little endian."""
    try:
        file = dcmread(io.BytesIO(body))
        if file.file_meta.TransferSyntaxUID not in _NATIVE or file.BitsAllocated % 8:
            return None
        samples = 2 if file.PhotometricInterpretation == "YBR_FULL_422" else int(file.SamplesPerPixel)
        size = int(file.Rows) * int(file.Columns) * samples * int(file.BitsAllocated) // 8
        frames, pixels = int(file.get("NumberOfFrames") or 1), bytes(file.PixelData)
    except _UNREADABLE:
        return None
    if size <= 0 or frames <= 0 or len(pixels) < frames * size:
        return None
    return [zlib.crc32(pixels[number * size : (number + 1) * size]) for number in range(frames)]
