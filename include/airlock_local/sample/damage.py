"""Single files with a trouble of their own: damaged bytes, illegal attributes, and oddities that are no trouble."""

import gzip
import struct
from collections.abc import Callable

from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    RLELossless,
)

from airlock_local.sample.archive import (
    HELD,
    QUARANTINED,
    RELEASED,
    SET_ASIDE,
    STOPPED,
    WHOLE_STUDY_WAITS,
    Archive,
    Expected,
    expect,
)
from airlock_local.sample.part10 import PREAMBLE, deflate, encode_data_set, encode_file_meta, make_uid
from airlock_local.sample.pixels import noise
from airlock_local.sample.sites import LAKEVIEW, UTF_8, Patient
from airlock_local.sample.studies import Examination, SeriesPlan

ONE_CT = Examination("CT Einzelbild", "CT HEAD", (SeriesPlan("CT", 1, ExplicitVRLittleEndian),))
FOUR_CR = Examination("Serie", "XR RIBS", (SeriesPlan("CR", 4, ExplicitVRLittleEndian),))
CINE = Examination("Echo RLE", "US HEART", (SeriesPlan("US_CINE", 1, RLELossless),))

NESTING = 2000
LONGEST_PATIENT_ID = 256
"""Characters that HealthImaging takes in PatientID; LO itself allows 64."""

CUT = ("truncated", "service_warning")
TOO_DEEP = ("unreadable", "service_warning")


def _position(data: bytes, tag: int, vr: bytes) -> int:
    """Return where an element begins in an explicit VR little endian file."""
    return data.index(struct.pack("<HH2s", tag >> 16, tag & 0xFFFF, vr), len(PREAMBLE))


def _in_pixels(data: bytes) -> bytes:
    return data[:-3000]


def _in_header(data: bytes) -> bytes:
    """Cut `data` in the middle of the Study Instance UID."""
    return data[: _position(data, 0x0020000D, b"UI") + 20]


def _huge_element(data: bytes) -> bytes:
    """Put a private element that declares almost 2 GiB before the request attributes."""
    at = _position(data, 0x00400275, b"SQ")
    creator = struct.pack("<HH2sH", 0x0029, 0x0010, b"LO", 12) + b"SAMPLE HUGE "
    return data[:at] + creator + struct.pack("<HH2sHI", 0x0029, 0x1001, b"OB", 0, 0x7FFFFFF0) + data[at:]


def _nested(data: bytes) -> bytes:
    """Put a sequence that is `NESTING` levels deep before the patient's name; every parser has to read it."""
    at = _position(data, 0x00100010, b"PN")
    opening = struct.pack("<HH2sHIHHI", 0x0008, 0x1110, b"SQ", 0, 0xFFFFFFFF, 0xFFFE, 0xE000, 0xFFFFFFFF)
    closing = struct.pack("<HHIHHI", 0xFFFE, 0xE00D, 0, 0xFFFE, 0xE0DD, 0)
    return data[:at] + opening * NESTING + closing * NESTING + data[at:]


# The damage to the bytes of a clean file, and the expected disposition.
DAMAGES: tuple[tuple[Callable[[bytes], bytes], Expected], ...] = (
    (_in_header, expect("cut_in_header", QUARANTINED, "truncated")),
    (_in_pixels, expect("cut_in_pixels", STOPPED, *CUT)),
    (_nested, expect("deep_nesting", STOPPED | RELEASED, *TOO_DEEP)),
    (_huge_element, expect("declares_2_gib", STOPPED, "truncated", "unreadable")),
    (lambda data: gzip.compress(data, mtime=0), expect("gzip", QUARANTINED, "gzip_encoded")),
    (lambda data: data[len(PREAMBLE) :], expect("no_preamble", STOPPED | SET_ASIDE, "no_preamble", "not_dicom")),
    (
        lambda data: PREAMBLE + noise(5000, data),
        expect("dicm_then_noise", QUARANTINED, "unreadable", "truncated", "not_dicom"),
    ),
    (lambda data: noise(5000, data), expect("random_bytes", SET_ASIDE, "not_dicom")),
    (lambda _: b"", expect("zero_bytes", SET_ASIDE, "empty_object")),
)

# Attributes that make a file illegal (None removes one), and the expected disposition.
ILLEGAL: tuple[tuple[dict[str, object], Expected], ...] = (
    ({"StudyInstanceUID": None}, expect("no_study_uid", QUARANTINED, "missing_study_instance_uid")),
    ({"StudyInstanceUID": ""}, expect("empty_study_uid", QUARANTINED, "missing_study_instance_uid")),
    ({"SeriesInstanceUID": None}, expect("no_series_uid", QUARANTINED, "missing_series_instance_uid")),
    ({"SOPInstanceUID": None}, expect("no_sop_instance_uid", QUARANTINED, "missing_sop_instance_uid")),
    ({"SOPClassUID": None}, expect("no_sop_class", QUARANTINED, "missing_sop_class_uid")),
    ({"SeriesInstanceUID": "1.2.840.SERIES-7.01"}, expect("bad_uid", RELEASED)),
    ({"PatientID": "X" * (LONGEST_PATIENT_ID + 1)}, expect("patient_id_too_long", STOPPED, "element_too_long")),
    ({"NumberOfStudyRelatedInstances": 2_000_000}, expect("count_out_of_range", STOPPED, "count_out_of_range")),
)

# Odd files that must be released.
HARMLESS: tuple[tuple[dict[str, object], Expected], ...] = (
    ({"PatientID": "Y" * LONGEST_PATIENT_ID}, expect("patient_id_longest", RELEASED)),
    (
        {
            "StudyDescription": "<script>alert('airlock')</script>",
            "SeriesDescription": "=cmd|' /C calc'!A0",
            "ProtocolName": '"><img src=x onerror=alert(1)>',
            "PatientName": "<i>Italic</i>^Ida",
        },
        expect("hostile_text", RELEASED),
    ),
)


def add_damaged_files(archive: Archive) -> None:
    """Add a study of one instance for each trouble of a single file, and studies that wait for such a file."""
    for damage, expected in DAMAGES:
        study = archive.study(ONE_CT)
        archive.add_instance(study, 1, 1, data=damage(study.file(1, 1)), expected=expected)
    for changes, expected in ILLEGAL + HARMLESS:
        archive.add_study(archive.study(ONE_CT), expected, **changes)
    _add_odd_file_meta(archive)
    _add_undecodable_text(archive)
    _add_deflated_nesting(archive)
    _add_broken_siblings(archive)
    _add_service_findings(archive)


def _add_odd_file_meta(archive: Archive) -> None:
    """Add files whose file meta information is absent, lacks the transfer syntax or names an unknown one."""
    missing, unknown = "missing_transfer_syntax_uid", make_uid("private transfer syntax")
    study = archive.study(ONE_CT)
    raw = encode_data_set(study.data_set(1, 1), ImplicitVRLittleEndian)
    expected = expect("no_file_meta", STOPPED | SET_ASIDE, "no_preamble", "not_dicom", missing)
    archive.add_instance(study, 1, 1, data=raw, expected=expected)
    for declared, expected in (
        (None, expect("no_transfer_syntax", QUARANTINED, missing)),
        (unknown, expect("private_transfer_syntax", STOPPED, "unknown_transfer_syntax", "service_warning")),
    ):
        study = archive.study(ONE_CT)
        ds = study.data_set(1, 1)
        data = encode_file_meta(ds, declared) + encode_data_set(ds, ExplicitVRLittleEndian)
        archive.add_instance(study, 1, 1, data=data, expected=expected)


def _add_undecodable_text(archive: Archive) -> None:
    """Add a file that declares UTF-8 and whose patient name is not UTF-8."""
    placeholder = "Undecodable^Ursula"
    patient = Patient("300079", placeholder, "19660606", "F", UTF_8)
    study = archive.study(ONE_CT, site=LAKEVIEW, patient=patient)
    bad = b"\xff\xfe\xc3(\xa0\xa1^\xf0(\x8c(Ursula".ljust(len(placeholder))
    data = study.file(1, 1).replace(placeholder.encode(), bad)
    expected = expect("undecodable_text", STOPPED | RELEASED, "undecodable_text")
    archive.add_instance(study, 1, 1, data=data, expected=expected)


def _add_deflated_nesting(archive: Archive) -> None:
    """Add the deep nesting once more, deflated: 72 KB of it in a small file."""
    study = archive.study(ONE_CT)
    ds = study.data_set(1, 1)
    nested = _nested(PREAMBLE + encode_data_set(ds, ExplicitVRLittleEndian))[len(PREAMBLE) :]
    archive.add_instance(
        study,
        1,
        1,
        data=encode_file_meta(ds, DeflatedExplicitVRLittleEndian) + deflate(nested),
        expected=expect("deep_nesting_deflated", STOPPED | RELEASED, *TOO_DEEP),
    )


def _add_broken_siblings(archive: Archive) -> None:
    """Add studies in which one instance cannot be imported, so that the others must wait."""
    for trouble, breaking, dispositions, reasons in (
        ("sibling_cut", lambda study: _in_pixels(study.file(1, 4)), STOPPED, CUT),
        (
            "sibling_without_sop_class",
            lambda study: study.file(1, 4, SOPClassUID=None),
            QUARANTINED,
            ("missing_sop_class_uid",),
        ),
    ):
        study = archive.study(FOUR_CR)
        for instance in (1, 2, 3):
            archive.add_instance(study, 1, instance, expected=expect(trouble, HELD, *WHOLE_STUDY_WAITS))
        archive.add_instance(study, 1, 4, data=breaking(study), expected=expect(trouble, dispositions, *reasons))


def _add_service_findings(archive: Archive) -> None:
    """Add two files in which only a reader of the pixels finds the trouble: the service warns of them."""
    study = archive.study(ONE_CT)
    short = study.data_set(1, 1).PixelData[:-2048]
    archive.add_study(study, expect("pixels_too_short", HELD, "service_warning"), PixelData=short)
    archive.add_study(
        archive.study(CINE), expect("frames_missing", HELD, "read_back_mismatch", "service_warning"), NumberOfFrames=9
    )
