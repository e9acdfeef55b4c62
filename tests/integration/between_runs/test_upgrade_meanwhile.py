"""The ledger is upgraded to the next version while a run is under way: its tasks go on, and nothing is done twice."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from sqlalchemy import text

from airlock.ledger.database import engine_for, parse_url
from airlock.ledger.schema import REVISION, VERSION_TABLE
from tests.dicom_files import ct
from tests.integration.between_runs.runs import by_hand

if TYPE_CHECKING:
    from tests.chain import Place

pytestmark = pytest.mark.slow


def upgrade_to_next_version(place: Place) -> None:
    """Do what a step may do, as the version after this one."""
    engine = engine_for(parse_url(place.ledger_url))
    with engine.begin() as connection:
        for table in ("runs", "arrivals", "verdicts", "words", "instances", "jobs", "contracts", "outbox"):
            connection.execute(text(f"ALTER TABLE {table} ADD COLUMN later TEXT"))
        connection.execute(text("CREATE TABLE later (id INTEGER)"))
        connection.execute(text(f"UPDATE {VERSION_TABLE} SET version_num = '{int(REVISION) + 1:04}'"))
    engine.dispose()


@pytest.mark.parametrize("done", ["buffer", "validate", "normalize", "import"])
def test_a_run_ends_as_if_nothing_had_happened(place: Place, done: str) -> None:
    place.put({"001.dcm": ct(1, 1, 1), "002.dcm": ct(1, 1, 2)})
    chain = by_hand(place, "one")
    chain.until(done)
    upgrade_to_next_version(place)
    tasks = [task.task_id for task in chain.dag.topological_sort() if task.task_id != "next_wave"]
    report = chain.onward(tasks[tasks.index(done) + 1])
    assert report["dispositions"] == {"released": 2}
    assert len(place.jobs()) == 1
    assert len(place.contracts()) == 1
