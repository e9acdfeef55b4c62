"""Why a sweep takes nothing in by itself: it is the first, the ledger was restored or rebuilt, or the source has moved.

A ledger was restored or lost if the workspace has a run that has frozen a delivery, or a sweep, which the ledger does
not know. What the last sweep has noticed already makes no further sweep dry.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

from airlock.ledger.columns import ComparisonKind
from airlock.stages.buffer import INDEX
from airlock.stages.sweep_files import SWEEPS, name_sweep, sweeps_folder
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from airlock.ledger import Ledger
    from airlock.pipelines import Pipeline
    from airlock.storage.s3 import S3


class Caution(StrEnum):
    """Why a sweep is dry."""

    ASKED = "asked"
    FIRST = "first"
    MOVED = "moved"
    RESTORED = "restored"
    REBUILT = "rebuilt"


IN_WORDS = {
    Caution.ASKED: "a person asked for a dry run",
    Caution.FIRST: "it is the pipeline's first",
    Caution.MOVED: "source.uri has changed since the last one",
    Caution.RESTORED: "the workspace has runs or sweeps that the ledger does not know: it was restored or lost",
    Caution.REBUILT: "the ledger was rebuilt since the last one",
}


def find_caution(pipeline: Pipeline, ledger: Ledger, unknown: list[str], *, dry_run: bool) -> Caution | None:
    """Return why a sweep that begins now is dry; None if it is not. *unknown* is the result of `find_unknown`."""
    last = ledger.last_comparison(ComparisonKind.SWEEP, pipeline=pipeline.name, has_ended=True)
    if dry_run:
        return Caution.ASKED
    if set(unknown) - set(last.scope["unknown"] if last else []):
        return Caution.RESTORED
    if last is None:
        return Caution.FIRST
    rebuilt = ledger.last_comparison(ComparisonKind.REBUILD, has_ended=True)
    if rebuilt is not None and rebuilt.number > last.number:
        return Caution.REBUILT
    return Caution.MOVED if last.scope["uri"] != pipeline.source.uri else None


def find_unknown(s3: S3, pipeline: Pipeline, ledger: Ledger) -> list[str]:
    """Return the names of the runs and sweeps in a pipeline's workspace that the ledger does not know."""
    root = S3Uri.parse(pipeline.workspace).join(pipeline.name, "")
    known = ledger.run_keys(pipeline.name)
    candidates = [name for name in s3.list_folders(root) if name not in known]
    runs = [name for name in candidates if s3.exists(root.join(name, INDEX))]  # plans and other folders have none
    begun = {name_sweep(number, began_at) for number, began_at in ledger.sweep_times(pipeline.name).items()}
    sweeps = s3.list_folders(sweeps_folder(pipeline)) if SWEEPS in candidates else []
    return [*runs, *(name for name in sweeps if name not in begun)]
