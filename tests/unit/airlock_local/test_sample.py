"""The sample archive: the same bytes every time, clean files that are clean, and each trouble as it is described."""

import csv
import os
import re
import subprocess
import sys
from collections import Counter, defaultdict
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    RLELossless,
)

from airlock.reasons import SENTENCES, Reason
from airlock.records import Disposition
from airlock_local.sample import SampleFile, pydicom_files, write_sample
from airlock_local.sample.archive import Archive
from airlock_local.sample.sites import SITES
from airlock_local.settings import ROOT

MANDATORY = ("StudyInstanceUID", "SeriesInstanceUID", "SOPInstanceUID", "SOPClassUID")
PER_STUDY = ("StudyDate", "AccessionNumber", "PatientID", "IssuerOfPatientID", "StudyID", "PatientName")
PER_SERIES = ("SeriesNumber", "StudyInstanceUID", "Modality")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("sample")


@pytest.fixture(scope="module")
def files(folder: Path) -> list[SampleFile]:
    return write_sample(folder)


@pytest.fixture(scope="module")
def clean(folder: Path, files: list[SampleFile]) -> dict[str, Dataset]:
    """Every clean file, read by pydicom."""
    return {file.path: pydicom.dcmread(folder / file.path) for file in files if file.trouble is None}


def golden(name: str = "sample") -> list[dict[str, str]]:
    """Return what becomes of each file of the sample and of pydicom; the last row counts those that are in no row."""
    with (ROOT / f"tests/integration/golden/{name}.csv").open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))[:-1]


def contents(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


# the whole


def test_the_readme_asks_where_the_first_held_study_is(folder: Path, files: list[SampleFile]) -> None:
    """It is the one that make run names: see `test_report`."""
    held = next(row["key"] for row in golden() if row["disposition"] == "held")
    uid = pydicom.dcmread(folder / held.removeprefix("in/")).StudyInstanceUID
    assert f"./airlock where {uid}" in (ROOT / "README.md").read_text(encoding="utf-8")


def shown(section: str) -> tuple[str, list[tuple[str, str, str]]]:
    """Return the dispositions and the reasons in a section of the README."""
    text = (ROOT / "README.md").read_text(encoding="utf-8").partition(f"## {section}")[2].partition("\n## ")[0]
    (counts,) = re.findall(r"^ +dispositions +(.*)$", text, re.MULTILINE)
    return counts, re.findall(r"^ +(\d+)  (\w+): (.*)$", text, re.MULTILINE)


def told(rows: list[dict[str, str]]) -> str:
    return ", ".join(f"{n} {word}" for word, n in Counter(row["disposition"] for row in rows).most_common())


def test_the_readme_shows_the_counts_and_the_commonest_reasons_of_the_sample() -> None:
    rows = golden()
    counts, reasons = shown("Try it")
    assert counts == told(rows)
    commonest = Counter(row["reason"] for row in rows if row["reason"]).most_common(3)
    assert reasons == [(str(number), code, SENTENCES[code]) for code, number in commonest]


def test_the_readme_shows_what_is_parked_of_the_records() -> None:
    rows = golden("clinical")
    counts, reasons = shown("Clinical records")
    assert counts.partition(", ")[2] == told(rows)  # those that are released have no rows
    parked = [row["reason"] for row in rows if row["disposition"] == "parked"]
    assert reasons == [(str(len(parked)), Reason.WAITING_FOR_RESOURCE, SENTENCES[Reason.WAITING_FOR_RESOURCE])]


def test_same_seed_same_bytes(folder: Path, files: list[SampleFile], tmp_path: Path) -> None:
    assert write_sample(tmp_path) == files
    assert contents(tmp_path) == contents(folder)


def test_another_process_with_other_hashing_writes_the_same_bytes(
    folder: Path, files: list[SampleFile], tmp_path: Path
) -> None:
    command = [sys.executable, "-m", "airlock_local.sample", str(tmp_path / "out")]
    subprocess.run(command, check=True, capture_output=True, env=os.environ | {"PYTHONHASHSEED": "7"})
    assert contents(tmp_path / "out") == contents(folder)


def test_another_seed_gives_the_same_files_with_other_uids(
    files: list[SampleFile], clean: dict[str, Dataset], tmp_path: Path
) -> None:
    others = write_sample(tmp_path, seed=1)
    assert [(file.path, file.trouble) for file in others] == [(file.path, file.trouble) for file in files]
    uids = {ds.SOPInstanceUID for ds in clean.values()}
    assert uids.isdisjoint(pydicom.dcmread(tmp_path / path).SOPInstanceUID for path in clean)


def test_list_names_every_file_in_order_with_its_size(folder: Path, files: list[SampleFile]) -> None:
    paths = [file.path for file in files]
    assert paths == sorted(paths)
    assert {file.path: file.size for file in files} == {path: len(data) for path, data in contents(folder).items()}


def test_looks_like_an_archive_of_three_sites_and_stays_small(files: list[SampleFile]) -> None:
    assert 250 <= len(files) <= 350
    assert sum(file.size for file in files) < 12_000_000
    assert {file.site for file in files} == {"nordhaven", "sakuragawa", "lakeview"}
    assert set(Counter(file.modality for file in files)) == {None, "CT", "MR", "US", "CR", "DX", "SR", "DOC"}


def test_paths_have_what_real_paths_have(files: list[SampleFile]) -> None:
    paths = "".join(file.path for file in files)
    assert all(character in paths for character in " +öé")
    assert any("." not in file.path.rsplit("/", 1)[1] for file in files)


def test_expectations_use_the_words_of_the_pipeline(files: list[SampleFile]) -> None:
    assert {word for file in files for word in file.dispositions} <= set(Disposition)
    assert {code for file in files for code in file.reasons} <= set(Reason)
    assert all(file.dispositions == {"released"} and not file.reasons for file in files if file.trouble is None)


def test_more_than_three_quarters_of_the_studies_are_released(folder: Path, files: list[SampleFile]) -> None:
    dispositions = defaultdict(set)
    for file in files:
        try:
            study = pydicom.dcmread(folder / file.path, force=True).get("StudyInstanceUID") or file.path
        except (EOFError, RecursionError, ValueError, NotImplementedError, AttributeError):
            study = file.path
        dispositions[study] |= file.dispositions
    released = sum("released" in words and not words & {"held", "quarantined"} for words in dispositions.values())
    assert released > 0.75 * len(dispositions)


def test_other_files_in_the_folder_are_left_alone(tmp_path: Path) -> None:
    mine = tmp_path / "nordhaven" / "mine.dcm"
    mine.parent.mkdir()
    mine.write_bytes(b"mine")
    write_sample(tmp_path)
    assert mine.read_bytes() == b"mine"


def test_two_files_under_one_path_are_refused() -> None:
    archive = Archive(1)
    archive.add("nordhaven/a", b"1")
    with pytest.raises(ValueError, match="'nordhaven/a'"):
        archive.add("nordhaven/a", b"2")


# clean files


def test_clean_files_have_every_uid_and_a_file_meta_that_agrees(clean: dict[str, Dataset]) -> None:
    for ds in clean.values():
        assert all(ds[keyword].value.is_valid for keyword in MANDATORY)
        assert ds.file_meta.MediaStorageSOPInstanceUID == ds.SOPInstanceUID
        assert ds.file_meta.MediaStorageSOPClassUID == ds.SOPClassUID
        assert not ds.file_meta.TransferSyntaxUID.is_private
    uids = [ds.SOPInstanceUID for ds in clean.values()]
    assert len(set(uids)) == len(uids)


@pytest.mark.parametrize(
    ("group", "elements"), [("StudyInstanceUID", PER_STUDY), ("SeriesInstanceUID", PER_SERIES)], ids=["study", "series"]
)
def test_clean_files_agree_within_their_group(clean: dict[str, Dataset], group: str, elements: tuple[str, ...]) -> None:
    seen = defaultdict(set)
    for ds in clean.values():
        for element in elements:
            seen[ds[group].value, element].add(str(ds[element].value))
    assert [key for key, values in seen.items() if len(values) > 1] == []


def test_patients_and_issuers_belong_to_their_site(clean: dict[str, Dataset]) -> None:
    issuers = defaultdict(set)
    for path, ds in clean.items():
        issuers[path.split("/", 1)[0]].add(ds.IssuerOfPatientID)
    assert issuers == {site.folder: {site.IssuerOfPatientID} for site in SITES}


def test_the_date_in_the_path_is_the_study_date(clean: dict[str, Dataset]) -> None:
    for path, ds in clean.items():
        assert path.split("/")[1].replace("-", "") == ds.StudyDate


def test_one_patient_id_at_two_sites_has_two_issuers(clean: dict[str, Dataset]) -> None:
    issuers, studies = defaultdict(set), defaultdict(set)
    for ds in clean.values():
        issuers[ds.PatientID].add(ds.IssuerOfPatientID)
        studies[ds.PatientID].add(ds.StudyInstanceUID)
    shared = [patient for patient, names in issuers.items() if len(names) > 1]
    assert len(shared) == 1
    assert len(studies[shared[0]]) == 2


def test_requested_procedure_id_is_where_the_standard_puts_it(clean: dict[str, Dataset]) -> None:
    assert all(ds.RequestAttributesSequence[0].RequestedProcedureID for ds in clean.values())


def test_transfer_syntaxes(clean: dict[str, Dataset]) -> None:
    counts = Counter(ds.file_meta.TransferSyntaxUID for ds in clean.values())
    assert min(counts.values()) >= 2
    assert set(counts) == {
        ExplicitVRLittleEndian,
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGBaseline8Bit,
        JPEGLosslessSV1,
        JPEG2000Lossless,
    }


def test_native_pixels_have_the_length_that_the_header_says(clean: dict[str, Dataset]) -> None:
    native = [ds for ds in clean.values() if "PixelData" in ds and not ds.file_meta.TransferSyntaxUID.is_compressed]
    for ds in native:
        samples = ds.Rows * ds.Columns * ds.SamplesPerPixel * int(ds.get("NumberOfFrames", 1))
        assert len(ds.PixelData) == samples * ds.BitsAllocated // 8
    assert len(native) > 150


def test_big_endian_pixels_are_swapped(clean: dict[str, Dataset]) -> None:
    big = next(ds for ds in clean.values() if ds.file_meta.TransferSyntaxUID == ExplicitVRBigEndian)
    assert max(big.PixelData[::2]) < 4 <= max(big.PixelData[1::2])  # 10 bits stored: little in the first byte


def test_enhanced_images_have_a_functional_group_item_per_frame(clean: dict[str, Dataset]) -> None:
    enhanced = [ds for ds in clean.values() if "PerFrameFunctionalGroupsSequence" in ds]
    assert Counter(ds.Modality for ds in enhanced) == {"CT": 3, "MR": 3}
    for ds in enhanced:
        assert len(ds.PerFrameFunctionalGroupsSequence) == ds.NumberOfFrames == 6
        assert "SharedFunctionalGroupsSequence" in ds


def test_reports_and_letters_have_no_pixels(clean: dict[str, Dataset]) -> None:
    documents = [ds for ds in clean.values() if ds.Modality in {"SR", "DOC"}]
    assert Counter(ds.SOPClassUID.name for ds in documents) == {
        "Basic Text SR Storage": 9,
        "Enhanced SR Storage": 6,
        "Encapsulated PDF Storage": 3,
    }
    assert not any("PixelData" in ds for ds in documents)
    assert all(ds.EncapsulatedDocument.startswith(b"%PDF-1.4") for ds in documents if ds.Modality == "DOC")


def test_some_headers_are_longer_than_a_first_range(folder: Path, clean: dict[str, Dataset]) -> None:
    long = [path for path, ds in clean.items() if ds.private_creators(0x0029)]
    assert len(long) == 6
    for path in long:
        end = (folder / path).read_bytes().index(b"\x40\x00\x75\x02")
        assert end > 100_000


def test_every_vendor_adds_private_elements(clean: dict[str, Dataset]) -> None:
    assert {ds.private_creators(0x0019)[0] for ds in clean.values()} == {
        f"{site.Manufacturer.upper()} 01" for site in SITES
    }


# character sets


def test_names_decode_to_those_of_the_invented_patients(clean: dict[str, Dataset]) -> None:
    known = {patient.PatientName for site in SITES for patient in site.patients}
    assert {str(ds.PatientName) for ds in clean.values()} == known


@pytest.mark.parametrize(
    ("name", "charset", "encoded"),
    [
        ("Musterfrau^Zoë", "ISO_IR 100", b"Musterfrau^Zo\xeb"),
        ("Δοκιμή^Ελένη", "ISO_IR 192", "Δοκιμή^Ελένη".encode()),
        ("Вымышленный^Иван", "ISO_IR 144", "Вымышленный^Иван".encode("iso8859_5")),
        ("Ceshi^Yangben=测试^样本", "GB18030", "测试^样本".encode("gb18030")),
        ("Kakuu^Hanako=架空^花子=かくう^はなこ", "ISO 2022 IR 87", b"\x1b$B2M6u\x1b(B^\x1b$B2V;R\x1b(B="),
    ],
)
def test_names_are_encoded_in_their_character_set(
    folder: Path, clean: dict[str, Dataset], name: str, charset: str, encoded: bytes
) -> None:
    path, ds = next((path, ds) for path, ds in clean.items() if ds.PatientName == name)
    assert charset in ds.SpecificCharacterSet
    assert encoded in (folder / path).read_bytes()


def test_descriptions_need_the_character_set_too(clean: dict[str, Dataset]) -> None:
    texts = {ds.StudyDescription.split(" ", 2)[-1] for ds in clean.values()}
    assert {"Übersicht", "胸部検査", "复查", "контроль", "έλεγχος"} <= texts


# pydicom's own files


def test_pydicom_files_are_real_files_of_every_sort() -> None:
    names = dict(pydicom_files())
    assert list(names) == sorted(names)
    assert {"CT_small.dcm", "dicomdirtests/DICOMDIR", "no_meta.dcm"} <= set(names)
    assert all(path.is_file() and path.stat().st_size <= 4 << 20 for path in names.values())
    assert not any(name.endswith((".py", ".pyc", ".json", ".sha256")) for name in names)
    assert len(names) > 100
