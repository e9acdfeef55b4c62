"""The scanner finds what pydicom finds: in every file that pydicom and pydicom-data ship, and in mutated headers."""

from __future__ import annotations

from airlock.dicom.header import quiet_pydicom
from tests.fuzz.headers import Tally, fuzz
from tests.unit.airlock.dicom.oracle import FILES


def test_shipped_files() -> None:
    tally = Tally()
    with quiet_pydicom():
        for number, path in enumerate(FILES):
            tally.take(number, path.read_bytes())
    assert tally.differences == []
    assert tally.refused_by_dcmread == 0
    assert tally.read > 150  # of those with a preamble, which are some 190


def test_mutated_headers() -> None:
    tally = fuzz(range(5000))
    assert tally.differences == []
    assert tally.read > 1000
    assert len(tally.doubts) > 12  # the damage is of all kinds
