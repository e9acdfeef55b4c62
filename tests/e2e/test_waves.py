"""A delivery in two waves on the real scheduler: two runs at once, and a study with a half in each is released once."""

from __future__ import annotations

from datetime import datetime
from typing import TYPE_CHECKING, Any

import pytest

from airlock.ledger.runs import name_wave
from airlock.run import run_key
from tests.dicom_files import ct, sop_uid
from tests.e2e.conftest import until

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.proof, pytest.mark.slow, pytest.mark.timeout(900), pytest.mark.usefixtures("first_run")]

DAG = "waves"
ENDED = {"success", "failed"}


def deliver(machine: Machine) -> None:
    """Deliver three studies of one folder; the second one has its halves in two folders of its own."""
    files = {f"s/{study}/{number}.dcm": ct(study, 1, number) for study in (1, 3) for number in (1, 2)}
    files |= {f"s/2/{part}/{number}.dcm": ct(2, 1, 2 * part + number) for part in (0, 1) for number in (1, 2)}
    machine.put(files, f"{DAG}/")


def ended(machine: Machine, *names: str) -> list[dict[str, Any]] | None:
    """Return these runs, None until they have ended."""
    with machine.api() as api:
        known = {run["dag_run_id"]: run for run in api.runs(DAG)}
    found = [known.get(name, {"state": None}) for name in names]
    return found if all(run["state"] in ENDED for run in found) else None


def test_a_wave_is_read_while_the_one_before_is_imported(machine: Machine) -> None:
    deliver(machine)
    with machine.api() as api:
        until("the DAG is there", lambda: api.dag(DAG))
        api.unpause(DAG)
        first = api.trigger(DAG, {})
    second = name_wave(first, 2)
    runs = until("both waves have ended", lambda: ended(machine, first, second), 600)

    assert [run["state"] for run in runs] == ["success", "success"]
    assert datetime.fromisoformat(runs[1]["start_date"]) < datetime.fromisoformat(runs[0]["end_date"])
    reports = [machine.report(DAG, run_key(DAG, name)) for name in (first, second)]
    assert [report["arrivals"] for report in reports] == [4, 4]
    assert [report["wave"]["number"] for report in reports] == [1, 2]
    contracts = machine.contracts(f"{DAG}/")
    uids = [{one["SOPInstanceUID"] for series in each["series"] for one in series["instances"]} for each in contracts]
    assert sorted(map(len, uids)) == [2, 2, 4]  # of each study one contract
    assert {sop_uid(2, 1, number) for number in (1, 2, 3, 4)} in uids
    with machine.api() as api:
        assert len(api.runs(DAG)) == 2
