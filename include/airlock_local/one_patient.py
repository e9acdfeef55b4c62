"""``make demo-one-patient``: records, images and late records come one after another and meet in one Patient."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import polars as pl

from airlock.ledger import Ledger
from airlock.pipelines import ImagingPipeline
from airlock_local.choice import choose
from airlock_local.progress import say
from airlock_local.report import COMMAND
from airlock_local.run import run
from airlock_local.sample.one_patient import IMAGES, LATE, RECORDS, write_one_patient_sample

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from airlock_local.sample.one_patient import Meeting
    from airlock_local.settings import Settings

PIPELINE, RECORDS_PIPELINE = "one-patient", "clinical"
_FOLDER = "sample/one-patient"
_CONTRADICTED = "patient_contradicted"
_STEPS = (
    (RECORDS_PIPELINE, RECORDS, "The records come first."),
    (PIPELINE, IMAGES, "The images of seven people come."),
    (RECORDS_PIPELINE, LATE, "A Patient and an order come after their images."),
    (PIPELINE, IMAGES, "The next run of the images has no new files, and links what came late."),
)


def demonstrate(settings: Settings, environment: Mapping[str, str]) -> int:
    """Run the demonstration of ``make demo-one-patient``.

    Returns
    -------
    int
        0 if every run succeeded and each study has the Patient that is its own; else 1.

    Raises
    ------
    PipelineError, SourceError
        The request is wrong; nothing was started.
    StackError, RunError, ApiError, StalledError
        It failed later.
    """
    folder = settings.var / _FOLDER
    meetings = write_one_patient_sample(folder)
    status, late = 0, False
    for number, (pipeline, part, what) in enumerate(_STEPS, start=1):
        say(f"\n{number} of {len(_STEPS)}. {what}")
        status |= run(settings, pipeline, str(folder / part), environment)
        late |= part == LATE
        if pipeline == PIPELINE:
            status |= _show(settings, meetings, environment, late=late)
    say(f"The questions about the others: {COMMAND} patient questions, and docs/one-patient.md.")
    return status


def _show(settings: Settings, meetings: Iterable[Meeting], environment: Mapping[str, str], *, late: bool) -> int:
    """Print whose the studies are; return 1 if one of them is not whose it should be."""
    pipeline = choose(settings.pipelines, PIPELINE, "", environment).pipeline
    assert isinstance(pipeline, ImagingPipeline)  # noqa: S101  # the file of this name
    uids = pl.Series([one.study for one in meetings])
    with Ledger.open(settings.ledger_url) as ledger:
        contracts = dict(ledger.contracts(pipeline.datastore_id, uids).select("subject", "contract").iter_rows())
        held = dict(ledger.held(PIPELINE).select("subject", "reason").iter_rows())
    found = {one.study: _read_match(contracts.get(one.study), held.get(one.study)) for one in meetings}
    for line in list_meetings(meetings, found):
        say(line)
    wrong = [one for one in meetings if found[one.study] != _expect(one, late=late)]
    say(f"{len(wrong)} studies have another Patient than they should." if wrong else "All as it should be.")
    return int(bool(wrong))


def _read_match(contract: str | None, held_for: str | None) -> tuple[str, str | None]:
    """Return the outcome of a study, and the existing Patient that it has."""
    if held_for == _CONTRADICTED:
        return "contradicted", None
    said = json.loads(contract).get("patient_match") if contract else None
    return (said["outcome"], said["patient"]) if said else ("unknown", None)


def _expect(one: Meeting, *, late: bool) -> tuple[str, str | None]:
    outcome = one.later if late else one.outcome
    return outcome, f"Patient/{one.patient}" if outcome == "matched" else None


def list_meetings(meetings: Iterable[Meeting], found: Mapping[str, tuple[str, str | None]]) -> Iterator[str]:
    """Yield a line for each study: its outcome, its Patient, and the situation."""
    yield "\nWhose the studies are:"
    for one in meetings:
        outcome, patient = found[one.study]
        whose = patient or ("held" if outcome == "contradicted" else "a Patient of Airlock's own")
        yield f"  {outcome:<13} {whose:<29} {one.what}"
