"""A sample archive like a clinical one, with every trouble that the rules know, and the expected dispositions.

Everything in it is invented and made by this package; the same seed makes the same bytes on every machine.
"""

from collections.abc import Iterator
from pathlib import Path

import pydicom

from airlock_local.sample.archive import Archive, SampleFile
from airlock_local.sample.conflicts import add_conflicts
from airlock_local.sample.damage import add_damaged_files
from airlock_local.sample.foreign import add_foreign_files
from airlock_local.sample.sites import SITES
from airlock_local.sample.studies import CLEAN_PLAN

__all__ = ["DEFAULT_SEED", "SampleFile", "pydicom_files", "write_sample"]

DEFAULT_SEED = 20260302
LARGEST_PYDICOM_FILE = 4 << 20
"""Bytes; a few of pydicom's files are larger, and add time rather than variety."""
_NOT_TEST_DATA = frozenset({".py", ".pyc", ".sha256", ".json"})


def write_sample(folder: Path, *, seed: int = DEFAULT_SEED) -> list[SampleFile]:
    """Write the sample archive below `folder`.

    Parameters
    ----------
    folder
        Made if it does not exist; other files in it are not changed.
    seed
        Decides every UID and pixel, and nothing else: archives of two seeds have the same files in the same places.

    Returns
    -------
    list of SampleFile
        Every file written, ordered by path.

    Raises
    ------
    OSError
        The folder or a file cannot be written.
    """
    archive = Archive(seed)
    for site in SITES:
        for times, examination in CLEAN_PLAN:
            for _ in range(times):
                archive.add_study(archive.study(examination, site=site))
    add_conflicts(archive)
    add_damaged_files(archive)
    add_foreign_files(archive)
    return archive.write(folder)


def pydicom_files() -> Iterator[tuple[str, Path]]:
    """Yield the test files that ship inside the installed pydicom package: real, old, some of them broken.

    Yields
    ------
    tuple of str and Path
        The name relative to pydicom's folder of test files, with forward slashes, and the file; ordered by name.
        Files over 4 MiB are left out.
    """
    root = Path(pydicom.__file__).parent / "data" / "test_files"
    files = (path for path in root.rglob("*") if path.is_file() and path.suffix not in _NOT_TEST_DATA)
    named = ((path.relative_to(root).as_posix(), path) for path in files)
    yield from sorted(pair for pair in named if pair[1].stat().st_size <= LARGEST_PYDICOM_FILE)
