"""Two pipelines over the same objects, both at once on the real scheduler, night by night: each study once."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pytest

from airlock.ledger import Ledger
from airlock.run import run_key
from tests.dicom_files import ct, study_uid
from tests.e2e.conftest import until
from tests.ledger_rows import count_current_arrivals

if TYPE_CHECKING:
    from tests.e2e.conftest import Machine

pytestmark = [pytest.mark.slow, pytest.mark.proof, pytest.mark.timeout(2400), pytest.mark.usefixtures("first_run")]

SOURCES = ("main", "mirror")
FIRST = 2_000  # the number of the first study
# The studies that each source has in each night; then both take what the other had claimed before, and release what
# waited for the other.
NIGHTS = (
    (range(4), range(2, 6)),
    (range(4, 8), [0, 1, 8]),
    (range(8, 10), [6, 7, 9]),
    ([], []),
    ([], []),
)


def deliver(machine: Machine, source: str, studies: list[int]) -> None:
    files = {f"{study}/{n}.dcm": ct(FIRST + study, 1, n) for study in studies for n in (1, 2)}
    machine.put(files, f"{source}/")


def run_both(machine: Machine) -> dict[str, str]:
    """Start a run of each source at once and return the runs' ids when both have ended."""
    with machine.api() as api:
        for source in SOURCES:
            until("the DAG is there", lambda source=source: api.dag(source))
            api.unpause(source)
        started = {source: api.trigger(source, {}) for source in SOURCES}
        for source, run in started.items():
            until("the run ends", lambda source=source, run=run: api.run_state(source, run) == "success", 600)
    return started


def test_each_study_is_released_and_sent_once_and_nothing_is_held(machine: Machine) -> None:
    words = Counter[str]()
    for night in NIGHTS:
        for source, studies in zip(SOURCES, night, strict=True):
            deliver(machine, source, list(studies))
        runs = run_both(machine)
        for source, run in runs.items():
            assert machine.report(source, run_key(source, run))["balanced"]
    with Ledger.open(machine.settings.ledger_url) as ledger:  # a report does not have what a later run has released
        for source in SOURCES:
            words.update(count_current_arrivals(ledger, source))
    assert words["released"] == words["duplicate"] == 20
    assert words["held"] == 0
    sent = machine.contracts("overlap/")
    assert Counter(contract["StudyInstanceUID"] for contract in sent) == {
        study_uid(FIRST + study): 1 for study in range(10)
    }
