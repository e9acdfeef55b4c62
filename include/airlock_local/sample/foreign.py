"""Files of an archive that are not instances: operating system litter, notes, photos, a media directory."""

from io import BytesIO

import pydicom
from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, MediaStorageDirectoryStorage

from airlock_local.sample.archive import SET_ASIDE, Archive, expect
from airlock_local.sample.part10 import encode_data_set, encode_file_meta, make_item, make_sequence, make_uid
from airlock_local.sample.pixels import Frame, jpeg_baseline_frame, phantom
from airlock_local.sample.studies import DATES, Study

SIDECAR = ("sidecar", "not_dicom")


def add_foreign_files(archive: Archive) -> None:
    """Add files that no archive should hold and every archive does."""
    for path, data, trouble, reasons in (
        (f"nordhaven/{DATES[1]}/.DS_Store", b"\x00\x00\x00\x01Bud1" + bytes(56), "ds_store", SIDECAR),
        (f"lakeview/{DATES[0]}/_SUCCESS", b"", "success_marker", ("sidecar", "empty_object")),
        ("sakuragawa/README.txt", b"Exported by the old archive, ask Nobody.\r\n", "text", SIDECAR),
        (f"lakeview/{DATES[2]}/wound photo.jpg", _photo(), "photo", SIDECAR),
        ("nordhaven/DICOMDIR", _media_directory(archive.study()), "dicomdir", ("dicomdir",)),
    ):
        archive.add(path, data, expected=expect(trouble, SET_ASIDE, *reasons))


def _photo() -> bytes:
    """Return a JFIF picture, as a camera writes it."""
    picture = jpeg_baseline_frame(Frame(phantom(64, 64, 8, "photo"), 64, 64, 1, 8, 8))
    return picture[:2] + b"\xff\xe0\x00\x10JFIF\x00\x01\x01\x00\x00\x01\x00\x01\x00\x00" + picture[2:]


def _media_directory(study: Study) -> bytes:
    """Return a DICOMDIR with one patient, study, series and image (PS3.3 annex F)."""
    ds = Dataset()
    ds.FileSetID = "SAMPLE"
    ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = 0
    ds.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = 0
    ds.FileSetConsistencyFlag = 0
    ds.DirectoryRecordSequence = make_sequence(*_records(study))
    meta = encode_file_meta(
        make_item(SOPClassUID=MediaStorageDirectoryStorage, SOPInstanceUID=make_uid(study.uid, "directory")),
        ExplicitVRLittleEndian,
    )
    # Offsets have a fixed length, so that the records stay in place when the second pass fills them in.
    _link_records(ds, meta)
    return meta + encode_data_set(ds, ExplicitVRLittleEndian)


def _records(study: Study) -> list[Dataset]:
    instance = study.data_set(1, 1)
    wanted = {
        "PATIENT": ("PatientName", "PatientID"),
        "STUDY": ("StudyDate", "StudyTime", "StudyDescription", "StudyInstanceUID", "StudyID", "AccessionNumber"),
        "SERIES": ("Modality", "SeriesInstanceUID", "SeriesNumber"),
        "IMAGE": ("InstanceNumber",),
    }
    records = []
    for kind, keywords in wanted.items():
        record = make_item(
            OffsetOfTheNextDirectoryRecord=0,
            RecordInUseFlag=0xFFFF,
            OffsetOfReferencedLowerLevelDirectoryEntity=0,
            DirectoryRecordType=kind,
            SpecificCharacterSet=list(study.patient.SpecificCharacterSet),
        )
        for keyword in keywords:
            record.add(instance[keyword])
        records.append(record)
    records[-1].ReferencedFileID = ["SE001", "IM0001"]
    records[-1].ReferencedSOPClassUIDInFile = instance.SOPClassUID
    records[-1].ReferencedSOPInstanceUIDInFile = instance.SOPInstanceUID
    records[-1].ReferencedTransferSyntaxUIDInFile = ExplicitVRLittleEndian
    return records


def _link_records(ds: Dataset, meta: bytes) -> None:
    """Set each record's offset of the level below, and the root's, to where the records lie in the file."""
    written = pydicom.dcmread(BytesIO(meta + encode_data_set(ds, ExplicitVRLittleEndian)))
    offsets = [record.seq_item_tell for record in written.DirectoryRecordSequence]
    ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity = offsets[0]
    ds.OffsetOfTheLastDirectoryRecordOfTheRootDirectoryEntity = offsets[0]
    for record, lower in zip(ds.DirectoryRecordSequence, offsets[1:], strict=False):
        record.OffsetOfReferencedLowerLevelDirectoryEntity = lower
