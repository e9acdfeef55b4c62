"""The metadata document of an image set version (developer guide, "Getting image set metadata")."""

from __future__ import annotations

import gzip
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from localaws.imaging.grouping import Grouping
from localaws.imaging.pixels import HTJ2K_RPCL

if TYPE_CHECKING:
    from collections.abc import Iterator

    from localaws.imaging.part10 import Instance

Document = dict[str, Any]
SCHEMA_VERSION = "1.1"


@dataclass(frozen=True)
class StoredFrame:
    """The position of one frame in a pixel file."""

    id: str
    file: str
    start: int
    size: int
    transfer_syntax: str


def new_document(datastore_id: str, image_set_id: str) -> Document:
    """Return a document without instances."""
    return {
        "SchemaVersion": SCHEMA_VERSION,
        "DatastoreID": datastore_id,
        "ImageSetID": image_set_id,
        "Patient": {"DICOM": {}},
        "Study": {"DICOM": {}, "Series": {}},
    }


def write_document(document: Document) -> bytes:
    """Return a document as it is stored and answered: gzip-compressed JSON."""
    return gzip.compress(json.dumps(document).encode(), 3, mtime=0)


def read_document(blob: bytes) -> Document:
    """Return a stored document."""
    document: Document = json.loads(gzip.decompress(blob))
    return document


def add_instance(document: Document, instance: Instance, file: str) -> list[StoredFrame]:
    """Add an instance, replacing an older one with its SOP Instance UID; return its frames.

    Patient, study and series attributes take the newest instance's values.
    """
    levels, study = instance.levels, document["Study"]
    document["Patient"]["DICOM"].update(levels.patient)
    study["DICOM"].update(levels.study)
    series = study["Series"].setdefault(instance.series_instance_uid, {"DICOM": {}, "Instances": {}})
    series["DICOM"].update(levels.series)
    frames = list(_locate_frames(instance, file))
    entry = {
        "DICOM": levels.instance,
        "StoredTransferSyntaxUID": _shown_syntax(instance.pixels.transfer_syntax),
        "ImageFrames": [
            {"ID": stored.id, **frame.description()}
            for stored, frame in zip(frames, instance.pixels.frames, strict=True)
        ],
    }
    series["Instances"][instance.sop_instance_uid] = entry
    return frames


def _shown_syntax(transfer_syntax: str) -> str | None:
    return None if transfer_syntax == HTJ2K_RPCL else transfer_syntax


def _locate_frames(instance: Instance, file: str) -> Iterator[StoredFrame]:
    start = 0
    for index, frame in enumerate(instance.pixels.frames):
        name = hashlib.sha256(f"{instance.sop_instance_uid}/{file}/{index}".encode()).hexdigest()[:32]
        yield StoredFrame(name, file, start, frame.size, instance.pixels.transfer_syntax)
        start += frame.size


def list_instances(document: Document) -> Iterator[tuple[str, str, Document]]:
    """Yield series UID, SOP instance UID and entry of every instance."""
    for series_uid, series in document["Study"]["Series"].items():
        for sop_uid, entry in series["Instances"].items():
            yield series_uid, sop_uid, entry


def list_frame_ids(document: Document) -> list[str]:
    """Return the IDs of all frames."""
    return [frame["ID"] for _, _, entry in list_instances(document) for frame in entry["ImageFrames"]]


def grouping_of(document: Document) -> Grouping:
    """Return the grouping elements of a document; those of its first series, if it has several."""
    return Grouping.of(document["Patient"]["DICOM"], document["Study"]["DICOM"], find_first_series(document)["DICOM"])


def find_first_series(document: Document) -> Document:
    """Return the first series of a document; an empty one if it has none."""
    every: list[Document] = list(document["Study"]["Series"].values())
    return every[0] if every else {"DICOM": {}, "Instances": {}}
