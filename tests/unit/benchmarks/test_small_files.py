"""The small files are those that pydicom would make, and no two are alike."""

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.small_files import FILES_OF_A_STUDY, make_study, write_files

from tests.dicom_files import ct

if TYPE_CHECKING:
    from pathlib import Path


def test_the_files_of_a_study_are_those_that_pydicom_makes() -> None:
    assert make_study(3, 2) == {
        "4000.dcm": ct(study=200_003, series=1, instance=4_000),
        "4001.dcm": ct(study=200_003, series=1, instance=4_001),
    }


def test_a_folder_has_the_number_of_files_that_was_asked_for(tmp_path: Path) -> None:
    write_files(tmp_path, FILES_OF_A_STUDY + 7)
    written = sorted(tmp_path.rglob("*.dcm"))
    assert len(written) == FILES_OF_A_STUDY + 7
    assert len({path.read_bytes() for path in written}) == len(written)
    assert len(list((tmp_path / "study-000001").iterdir())) == 7
