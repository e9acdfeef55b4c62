"""Folders of small DICOM files that differ in their UIDs and numbers: CT slices of 16 x 16 pixels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.dicom_files import ct

if TYPE_CHECKING:
    from pathlib import Path

FILES_OF_A_STUDY = 100
# Numbers of as many digits as all others have, so that bytes can be replaced; neither is in another value.
_STUDY, _INSTANCE = 200_000, 4_000


def make_study(number: int, files: int) -> dict[str, bytes]:
    """Return the files of one study by their names; making each with pydicom would take ten times as long."""
    slice_ = ct(study=_STUDY, series=1, instance=_INSTANCE)
    own = slice_.replace(str(_STUDY).encode(), str(_STUDY + number).encode())
    return {
        f"{_INSTANCE + place}.dcm": own.replace(str(_INSTANCE).encode(), str(_INSTANCE + place).encode())
        for place in range(files)
    }


def write_files(folder: Path, files: int) -> None:
    """Write so many files, each study in a folder of its own; the last study may have fewer."""
    for number, first in enumerate(range(0, files, FILES_OF_A_STUDY)):
        study = folder / f"study-{number:06}"
        study.mkdir(parents=True)
        for name, body in make_study(number, min(FILES_OF_A_STUDY, files - first)).items():
            (study / name).write_bytes(body)
