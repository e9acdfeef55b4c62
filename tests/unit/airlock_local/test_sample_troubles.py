"""Each seeded trouble is in the sample archive, and is what its name says."""

import gzip
import struct
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.encaps import generate_frames
from pydicom.errors import InvalidDicomError

from airlock_local.sample import SampleFile, write_sample

Trouble = Callable[[str], list[Path]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sample")


@pytest.fixture(scope="module")
def files(folder: Path) -> list[SampleFile]:
    return write_sample(folder)


@pytest.fixture
def paths(folder: Path, files: list[SampleFile]) -> Trouble:
    """Give the files with a trouble."""
    return lambda trouble: [folder / file.path for file in files if file.trouble == trouble]


@pytest.fixture
def data(paths: Trouble) -> Callable[[str], bytes]:
    """Give the bytes of the one file with a trouble."""

    def only(trouble: str) -> bytes:
        (path,) = paths(trouble)
        return path.read_bytes()

    return only


@pytest.fixture
def read(paths: Trouble) -> Callable[[str], list[Dataset]]:
    """Read the files with a trouble."""
    return lambda trouble: [pydicom.dcmread(path) for path in paths(trouble)]


def test_the_list_of_troubles(files: list[SampleFile]) -> None:
    assert {file.trouble for file in files if file.trouble} == {
        *("ds_store", "success_marker", "text", "photo", "dicomdir"),
        *("zero_bytes", "random_bytes", "gzip", "no_preamble", "no_file_meta", "dicm_then_noise"),
        *("cut_in_header", "cut_in_pixels", "declares_2_gib", "deep_nesting", "deep_nesting_deflated"),
        *("no_study_uid", "empty_study_uid", "no_series_uid", "no_sop_instance_uid", "no_sop_class"),
        *("no_transfer_syntax", "private_transfer_syntax", "bad_uid", "undecodable_text"),
        *("patient_id_too_long", "patient_id_longest", "count_out_of_range", "hostile_text"),
        *("two_study_dates", "two_accession_numbers", "two_patient_ids", "two_issuers", "two_study_ids"),
        *("two_series_numbers", "series_in_two_studies", "uid_in_two_series"),
        *("duplicate", "same_uid_other_content", "sibling_cut", "sibling_without_sop_class"),
        *("pixels_too_short", "frames_missing"),
    }


def test_every_trouble_that_is_not_released_names_its_reasons(files: list[SampleFile]) -> None:
    assert [file.path for file in files if file.dispositions != {"released"} and not file.reasons] == []


# not an instance


@pytest.mark.parametrize("trouble", ["ds_store", "success_marker", "text", "photo", "random_bytes", "zero_bytes"])
def test_foreign_files_are_no_dicom(paths: Trouble, trouble: str) -> None:
    (path,) = paths(trouble)
    with pytest.raises((InvalidDicomError, EOFError)):
        pydicom.dcmread(path)


def test_random_bytes_have_the_name_of_an_instance(paths: Trouble, files: list[SampleFile]) -> None:
    (path,) = paths("random_bytes")
    modality = next(file.modality for file in files if file.trouble == "random_bytes")
    assert (path.stat().st_size, modality) == (5000, "CT")


def test_media_directory_is_valid_and_links_its_records(paths: Trouble) -> None:
    (path,) = paths("dicomdir")
    ds = pydicom.dcmread(path)
    records = ds.DirectoryRecordSequence
    offsets = [record.seq_item_tell for record in records]
    assert path.name == "DICOMDIR"
    assert ds.file_meta.MediaStorageSOPClassUID.name == "Media Storage Directory Storage"
    assert [record.DirectoryRecordType for record in records] == ["PATIENT", "STUDY", "SERIES", "IMAGE"]
    assert ds.OffsetOfTheFirstDirectoryRecordOfTheRootDirectoryEntity == offsets[0]
    assert [record.OffsetOfReferencedLowerLevelDirectoryEntity for record in records] == [*offsets[1:], 0]


# broken bytes


def test_gzip_holds_a_sound_file(data: Callable[[str], bytes]) -> None:
    assert gzip.decompress(data("gzip"))[128:132] == b"DICM"


def test_no_preamble_begins_with_the_file_meta_group(data: Callable[[str], bytes]) -> None:
    assert data("no_preamble").startswith(b"\x02\x00\x00\x00UL")


def test_no_file_meta_is_an_implicit_data_set(paths: Trouble) -> None:
    (path,) = paths("no_file_meta")
    ds = pydicom.dcmread(path, force=True)
    assert not ds.file_meta
    assert ds.original_encoding == (True, True)
    assert ds.SOPInstanceUID.is_valid


def test_noise_behind_a_good_prefix(data: Callable[[str], bytes]) -> None:
    assert data("dicm_then_noise")[128:132] == b"DICM"
    assert b"UL" not in data("dicm_then_noise")[132:138]


def test_cut_in_header_ends_inside_the_study_uid(data: Callable[[str], bytes]) -> None:
    at = data("cut_in_header").index(b"\x20\x00\x0d\x00UI")
    (length,) = struct.unpack_from("<H", data("cut_in_header"), at + 6)
    assert at + 8 < len(data("cut_in_header")) < at + 8 + length


@pytest.mark.parametrize("trouble", ["cut_in_pixels", "sibling_cut"])
def test_cut_in_pixels_keeps_the_header(paths: Trouble, trouble: str) -> None:
    whole = []
    for path in paths(trouble):
        data = path.read_bytes()
        at = data.index(b"\xe0\x7f\x10\x00OW")
        (length,) = struct.unpack_from("<L", data, at + 8)
        whole.append(length == len(data) - at - 12)
    assert whole.count(False) == 1


@pytest.mark.parametrize("trouble", ["deep_nesting", "deep_nesting_deflated"])
def test_nesting_is_too_deep_for_a_recursive_parser(paths: Trouble, trouble: str) -> None:
    (path,) = paths(trouble)
    assert path.stat().st_size < 100_000
    with pytest.raises(RecursionError):
        pydicom.dcmread(path)


def test_huge_element_lies_before_the_last_wanted_tag(data: Callable[[str], bytes]) -> None:
    at = data("declares_2_gib").index(b"\x29\x00\x01\x10OB")
    assert struct.unpack_from("<L", data("declares_2_gib"), at + 8)[0] > 2_000_000_000
    assert data("declares_2_gib").index(b"\x40\x00\x75\x02SQ") == at + 12


# illegal or odd attributes


@pytest.mark.parametrize(
    ("trouble", "keyword"),
    [
        ("no_study_uid", "StudyInstanceUID"),
        ("no_series_uid", "SeriesInstanceUID"),
        ("no_sop_instance_uid", "SOPInstanceUID"),
        ("no_sop_class", "SOPClassUID"),
    ],
)
def test_a_mandatory_uid_is_missing_and_nothing_else(
    read: Callable[[str], list[Dataset]], trouble: str, keyword: str
) -> None:
    (ds,) = read(trouble)
    uids = {"StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID"}
    assert {uid for uid in uids if uid not in ds} == {keyword}


def test_empty_study_uid_is_present_and_empty(read: Callable[[str], list[Dataset]]) -> None:
    (ds,) = read("empty_study_uid")
    assert "StudyInstanceUID" in ds
    assert not ds.StudyInstanceUID


def test_transfer_syntax_missing_and_private(read: Callable[[str], list[Dataset]]) -> None:
    (missing,), (private,) = read("no_transfer_syntax"), read("private_transfer_syntax")
    assert "TransferSyntaxUID" not in missing.file_meta
    assert private.file_meta.TransferSyntaxUID.is_private


@pytest.mark.filterwarnings("ignore:Invalid value for VR UI")
def test_uid_is_no_uid(read: Callable[[str], list[Dataset]]) -> None:
    (ds,) = read("bad_uid")
    assert not ds.SeriesInstanceUID.is_valid


@pytest.mark.filterwarnings("ignore:The value length")
def test_patient_id_at_the_limit_and_one_above(read: Callable[[str], list[Dataset]]) -> None:
    (longest,), (too_long,) = read("patient_id_longest"), read("patient_id_too_long")
    assert (len(longest.PatientID), len(too_long.PatientID)) == (256, 257)


def test_count_is_above_every_published_limit(read: Callable[[str], list[Dataset]]) -> None:
    (ds,) = read("count_out_of_range")
    assert ds.NumberOfStudyRelatedInstances > 1_000_000


def test_hostile_text_is_markup_and_a_formula(read: Callable[[str], list[Dataset]]) -> None:
    (ds,) = read("hostile_text")
    assert "<script>" in ds.StudyDescription
    assert ds.SeriesDescription.startswith("=")


def test_undecodable_text_declares_utf_8(paths: Trouble) -> None:
    (path,) = paths("undecodable_text")
    ds = pydicom.dcmread(path)
    assert ds.SpecificCharacterSet == "ISO_IR 192"
    with pytest.raises(UnicodeDecodeError):
        ds.get_item("PatientName").value.decode()
    assert "PixelData" in ds


# contradictions


@pytest.mark.parametrize(
    ("trouble", "keyword"),
    [
        ("two_study_dates", "StudyDate"),
        ("two_accession_numbers", "AccessionNumber"),
        ("two_patient_ids", "PatientID"),
        ("two_issuers", "IssuerOfPatientID"),
        ("two_study_ids", "StudyID"),
        ("two_series_numbers", "SeriesNumber"),
        ("series_in_two_studies", "StudyInstanceUID"),
    ],
)
def test_one_series_with_two_values(read: Callable[[str], list[Dataset]], trouble: str, keyword: str) -> None:
    instances = read(trouble)
    keywords = ("StudyDate", "PatientID", "IssuerOfPatientID", "SeriesNumber", "StudyInstanceUID", keyword)
    several = {name for name in keywords if len({str(ds[name].value) for ds in instances}) > 1}
    also = {"StudyDate"} if trouble == "series_in_two_studies" else set()  # two visits of one patient
    assert several == {keyword} | also
    assert len({ds.SeriesInstanceUID for ds in instances}) == 1
    assert len({ds.SOPInstanceUID for ds in instances}) == len(instances)


def test_duplicate_has_the_same_bytes(paths: Trouble) -> None:
    one, two = paths("duplicate")
    assert one.read_bytes() == two.read_bytes()


def test_same_uid_other_content(read: Callable[[str], list[Dataset]]) -> None:
    one, two = read("same_uid_other_content")
    assert (one.SOPInstanceUID, one.SeriesInstanceUID) == (two.SOPInstanceUID, two.SeriesInstanceUID)
    assert one != two


def test_one_uid_in_two_series(read: Callable[[str], list[Dataset]]) -> None:
    one, two = read("uid_in_two_series")
    assert one.SOPInstanceUID == two.SOPInstanceUID
    assert one.SeriesInstanceUID != two.SeriesInstanceUID


def test_sound_files_wait_for_their_broken_sibling(files: list[SampleFile]) -> None:
    for trouble in ("sibling_cut", "sibling_without_sop_class"):
        waiting = [file for file in files if file.trouble == trouble and file.dispositions == {"held"}]
        assert len(waiting) == 3
        assert all("study_incomplete" in file.reasons for file in waiting)


# what only the service finds


def test_pixels_end_early_in_a_whole_element(read: Callable[[str], list[Dataset]]) -> None:
    (ds,) = read("pixels_too_short")
    assert 0 < len(ds.PixelData) < ds.Rows * ds.Columns * 2


def test_fewer_frames_than_declared(read: Callable[[str], list[Dataset]]) -> None:
    (ds,) = read("frames_missing")
    assert len(list(generate_frames(ds.PixelData, number_of_frames=6))) == 6 < ds.NumberOfFrames
