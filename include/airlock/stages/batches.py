"""The batches of a run: what each import job is given."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.pipelines import Pipeline
    from airlock.run import Run

INDEX = "batches/index.json"
MAX_BATCHES = 1_000  # Airflow maps at most 1,024 tasks


class TooManyBatchesError(ValueError):
    """A delivery needs more jobs than one run may map."""


@dataclass(frozen=True)
class Batch:
    """One batch as the import stage needs it: no keys, no identifiers."""

    batch_id: str
    input_uri: str  # the prefix that the job imports; "" in the index of a kind whose stage `stage` chooses it
    files: int
    bytes: int


def check_batch_count(needed: int) -> None:
    """Refuse a delivery that one run cannot import.

    Raises
    ------
    TooManyBatchesError
        If it needs more jobs than one run may map.
    """
    if needed > MAX_BATCHES:
        raise TooManyBatchesError(
            f"the delivery needs {needed} import jobs, one run maps at most {MAX_BATCHES}: "
            f"take it in by smaller windows or prefixes"
        )


def write_batches(run: Run[Pipeline], batches: Sequence[Batch]) -> None:
    """Write the index that makes a run's batches count."""
    run.workspace.write_json(INDEX, [asdict(batch) for batch in batches])


def find_batches(run: Run[Pipeline]) -> list[Batch]:
    """Return the run's batches as normalize has left them; none before it has ended."""
    try:
        content = json.loads(run.s3.get(run.workspace.root.join(INDEX)))
    except FileNotFoundError:
        return []
    return [Batch(**item) for item in content]


def find_batch(run: Run[Pipeline], batch_id: str) -> Batch:
    """Return one of the run's batches as normalize has left it.

    Raises
    ------
    LookupError
        If the run has no such batch.
    """
    for batch in find_batches(run):
        if batch.batch_id == batch_id:
            return batch
    raise LookupError(f"The run has no batch {batch_id}. Clear normalize and everything after it.")


def find_begun_batches(run: Run[Pipeline]) -> list[Batch]:
    """Return those of the run's batches for which a job was begun."""
    begun = {job.batch_id for job in run.ledger.jobs_of(run.key)}
    return [batch for batch in find_batches(run) if batch.batch_id in begun]
