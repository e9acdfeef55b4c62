"""Media directories (DICOMDIR) as a modality burns them, for tests."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from pydicom import dcmread
from pydicom.fileset import FileSet

if TYPE_CHECKING:
    from collections.abc import Iterable


def burn(files: Iterable[bytes]) -> dict[str, bytes]:
    """Return a medium with these instances: its DICOMDIR, and the files by their paths on it."""
    with tempfile.TemporaryDirectory() as folder:
        medium = FileSet()
        for number, content in enumerate(files):
            path = Path(folder) / f"{number}.dcm"
            path.write_bytes(content)
            medium.add(dcmread(path))
        medium.write(Path(folder) / "medium")
        root = Path(folder) / "medium"
        return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}
