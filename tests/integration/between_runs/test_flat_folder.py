"""A flat folder of thousands of studies: files that cannot be read there hold none of them, and are counted."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import pytest

from tests.chain import Chain, pipeline
from tests.dicom_files import ct
from tests.integration.between_runs.runs import by_hand
from tests.ledger_rows import count_arrivals

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(1800)]

STUDIES = 5_000
STRAYS = {"viewer.dll": b"MZ" + bytes(400), "4711-2.dcm": ct(4711, 1, 2)[:400], "INDEX": b"all files of 2026"}


def flat(place: Place) -> Chain:
    """Deliver one or two files of each study into one folder, and three files that are none."""
    files = {
        f"{study}-{number}.dcm": ct(study, 1, number) for study in range(STUDIES) for number in range(study % 2 + 1)
    }
    place.put(files | STRAYS, "in/all/")
    return by_hand(place, "flat", line=pipeline(audit={"manifest_wait_seconds": 30}))


def test_three_stray_files_among_five_thousand_studies_hold_none(place: Place) -> None:
    chain = flat(place)
    began = time.monotonic()
    report = chain.run()
    sys.stdout.write(f"\n{report['arrivals']} files of {STUDIES} studies: {time.monotonic() - began:.0f} s\n")
    assert report["balanced"]
    assert report["dispositions"] == {"released": STUDIES * 3 // 2, "quarantined": 3}
    assert report["studies"]["released"] == STUDIES
    assert report["studies"]["held"] == 0
    assert report["unattributed"]["files"] == 3
    assert {name for name, row in chain.rows.items() if row["disposition"] == "quarantined"} == {
        f"all/{name}" for name in STRAYS
    }
    assert len({contract["StudyInstanceUID"] for contract in place.contracts()}) == STUDIES
    with place.ledger() as ledger:
        assert count_arrivals(ledger, "nightly") == report["dispositions"]
