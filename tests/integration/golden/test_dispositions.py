"""What becomes of every file and line of the samples and of the nasty deliveries, row by row.

Each ``<delivery>.csv`` beside this file holds what was last agreed on. A change that moves a row is a change of what
Airlock does to somebody's data: ``AIRLOCK_WRITE_GOLDEN=1`` writes the files anew, the commit names the rows and why.
"""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from airlock.pipelines import CcdaPipeline
from airlock_local.sample import pydicom_files, write_sample
from airlock_local.sample.ccda import write_ccda_sample
from airlock_local.sample.clinical import write_clinical_sample
from tests.chain import HEALTHLAKE, Chain, ccda_pipeline, clinical_pipeline, pipeline, release
from tests.integration.golden.nasty_images import nasty_images
from tests.integration.golden.nasty_records import nasty_records

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.chain import Place

pytestmark = pytest.mark.slow

FOLDER = Path(__file__).parent
COLUMNS = ("key", "line", "disposition", "reason")
MIB = {"resource_mib": 1}
BAD_ON_PURPOSE: dict[str, Any] = {"manifest_wait_seconds": 3, "brake": "off"}


def _written(write: Callable[[Path], Any], folder: Path) -> dict[str, bytes]:
    """Return what a sample writes below a folder, by relative path."""
    write(folder)
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def _images(place: Place, files: dict[str, bytes]) -> Chain:
    place.put(files)
    return Chain(place, pipeline(healthlake=HEALTHLAKE, audit=BAD_ON_PURPOSE | {"read_back_fraction": 1.0}))


def _records(place: Place, files: dict[str, bytes]) -> Chain:
    place.put(files)
    return Chain(place, clinical_pipeline(parse=MIB, audit=BAD_ON_PURPOSE))


def _documents(place: Place, files: dict[str, bytes]) -> Chain:
    place.put(files)
    return Chain(place, ccda_pipeline(audit=BAD_ON_PURPOSE))


def _golden(chain: Chain) -> str:
    """Return a run's rows, and how many units are in no row as they are simply released, as CSV."""
    report = chain.run()
    if isinstance(chain.pipeline, CcdaPipeline):
        report = release(chain, "compared with the documents")
    assert report["balanced"]
    rows = [[row["key"], row.get("line", ""), row["disposition"], row["reason"]] for row in chain.lines]
    shown = sum(row[2] == "released" for row in rows)
    unshown = report["dispositions"].get("released", 0) - shown
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows(
        [
            COLUMNS,
            *sorted(rows, key=lambda row: (row[0], int(row[1] or 0))),
            [f"({unshown} others)", "", "released", ""],
        ]
    )
    return text.getvalue()


def _compare(name: str, chain: Chain) -> None:
    path, found = FOLDER / f"{name}.csv", _golden(chain)
    if os.environ.get("AIRLOCK_WRITE_GOLDEN"):
        path.write_text(found, encoding="utf-8")
    assert found.splitlines() == path.read_text(encoding="utf-8").splitlines()


@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_the_sample_archive_and_the_files_of_pydicom(place: Place, tmp_path: Path) -> None:
    real = {f"pydicom/{name}": path.read_bytes() for name, path in pydicom_files()}
    _compare("sample", _images(place, _written(write_sample, tmp_path / "sample") | real))


def test_the_nasty_images(place: Place) -> None:
    _compare("nasty_images", _images(place, nasty_images()))


def test_the_clinical_sample(place: Place, tmp_path: Path) -> None:
    _compare("clinical", _records(place, _written(write_clinical_sample, tmp_path / "clinical")))


def test_the_nasty_records(place: Place) -> None:
    _compare("nasty_records", _records(place, nasty_records()))


def test_the_ccda_sample(place: Place, tmp_path: Path) -> None:
    _compare("ccda", _documents(place, _written(write_ccda_sample, tmp_path / "ccda")))
