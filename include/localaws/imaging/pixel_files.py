"""Frames on disk, beside the database: one file per instance, named by its content."""

from __future__ import annotations

import hashlib
import os
import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path


class PixelFiles:
    """A folder of pixel data.

    Writing the same frames again, after a restart for example, finds the file there; a file appears whole or not at
    all. A file is never changed, so versions and copies of image sets can share it.

    Parameters
    ----------
    folder : Path
        Made when first needed.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def put(self, frames: Sequence[bytes]) -> str:
        """Write frames one after the other; return the name of their file."""
        digest = hashlib.sha256()
        for frame in frames:
            digest.update(len(frame).to_bytes(8, "little") + frame)
        name = digest.hexdigest()
        path = self._path(name)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            unfinished = path.with_name(f"{name}.{os.getpid()}.{threading.get_ident()}")
            with unfinished.open("wb") as file:
                file.writelines(frames)
            unfinished.replace(path)
        return name

    def read(self, name: str, start: int, size: int) -> bytes:
        """Read one frame."""
        with self._path(name).open("rb") as file:
            file.seek(start)
            return file.read(size)

    def _path(self, name: str) -> Path:
        return self._folder / name[:2] / name
