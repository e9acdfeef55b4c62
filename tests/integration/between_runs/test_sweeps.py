"""What falls out of every window is found by a sweep, and released by the night after it (C-6)."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from airlock.stages.sweep import sweep
from airlock.stages.sweep_answer import answer
from airlock.storage.s3 import S3
from tests.chain import pipeline
from tests.dicom_files import ct
from tests.integration.between_runs.runs import DAY, find_last_night, nightly, put_at

if TYPE_CHECKING:
    from airlock.stages.sweep_work import Swept
    from tests.chain import Chain, Place

pytestmark = pytest.mark.slow


def swept(place: Place) -> Swept:
    """Sweep the archive, and take in what the sweep asks about."""
    s3 = S3(None, place.s3())  # type: ignore[arg-type]
    with place.ledger() as ledger:
        found = sweep(pipeline(), s3, ledger, "ada")
        if found.asks:
            answer(pipeline(), s3, ledger, found.number, take_in=True, person="ada", why="a late replica")
    return found


def night_after(place: Place, number: int) -> Chain:
    return replace(nightly(place), run_id=f"scheduled__{number}")


def test_a_replica_that_no_window_covers_is_released_in_the_night_after_a_sweep(place: Place) -> None:
    """S3 Replication keeps the time of the source's object."""
    put_at(place, find_last_night() - 400 * DAY, {"a/1.dcm": ct(1, 1, 1)})
    assert nightly(place).run()["arrivals"] == 0
    first = swept(place)
    assert (first.overdue, first.caution) == (1, "it is the pipeline's first")
    assert night_after(place, 1).run()["dispositions"] == {"released": 1}
    put_at(place, find_last_night() - 300 * DAY, {"a/2.dcm": ct(2, 1, 1)})
    second = swept(place)
    assert (second.overdue, second.taken_in, second.asks) == (1, 1, 0)
    assert night_after(place, 2).run()["dispositions"] == {"released": 1}
    assert len(place.contracts()) == 2
    assert swept(place).overdue == 0
