"""A ledger that was lost is rebuilt from the workspaces: all tables are as before, the next night brings nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from airlock_tasks.stage import connect_s3
from tests.dicom_files import ct
from tests.integration.between_runs.runs import BAD, by_hand, redrive
from tests.rebuilt_ledger import differences, lose_and_rebuild, read_tables

if TYPE_CHECKING:
    from pathlib import Path

    from airlock.stages.rebuild import Rebuilt
    from tests.chain import Chain, Place

pytestmark = pytest.mark.slow


def rebuilt(place: Place, folder: Path, *chains: Chain) -> Rebuilt:
    """Lose the ledger, rebuild it and require that it is as it was."""
    before = read_tables(place.ledger_url)
    lines = {chain.pipeline.name: chain.pipeline for chain in chains}
    report = lose_and_rebuild(place.ledger_url, folder / "ledger.db", connect_s3("aws_default"), lines.values())
    assert not differences(before, read_tables(place.ledger_url))
    assert not report.refused
    return report


def test_a_ledger_of_one_run_is_rebuilt_and_the_next_run_brings_nothing(place: Place, tmp_path: Path) -> None:
    place.put({"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2), "003.dcm": ct(2, 1, 1), "bad.dcm": BAD})
    one = by_hand(place, "one")
    one.run()
    report = rebuilt(place, tmp_path, one)
    assert report.runs == 1
    jobs, contracts = place.jobs(), place.contracts()
    again = by_hand(place, "two")
    again.run()
    assert again.report["arrivals"] == 0
    assert (place.jobs(), place.contracts()) == (jobs, contracts)


def test_a_redrive_and_a_second_audit_are_rebuilt(place: Place, tmp_path: Path) -> None:
    place.put({"001.dcm": ct(1, 1, 1), "002.dcm": BAD})
    one = by_hand(place, "one")
    one.run()
    place.put({"002.dcm": ct(1, 1, 2)})
    two = redrive(place, "two", "element_too_long")
    two.run()
    one.onward("audit")
    rebuilt(place, tmp_path, one, two)
