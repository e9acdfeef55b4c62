"""The decision log's copy on S3: what a person decides is kept below the workspace before it takes effect.

The copies of a pipeline are entries in the form of a journal (`airlock.stages.journal`), in the folder ``decisions``
beside the pipeline's runs. `airlock ledger rebuild` repeats them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from airlock.stages.journal import FolderJournal
from airlock.storage.s3 import S3Error
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock.ledger import Ledger
    from airlock.ledger.database import Scope
    from airlock.pipelines import Pipeline, Publication
    from airlock.storage.s3 import S3

FOLDER = "decisions"

T = TypeVar("T")


class DecisionNotKeptError(RuntimeError):
    """The copy of a decision cannot be written, so the decision does not count."""


def open_log(s3: S3, pipeline: Pipeline | Publication) -> FolderJournal:
    """Return the journal that keeps the copies of decisions about a pipeline."""
    return FolderJournal(s3, S3Uri.parse(pipeline.workspace).join(pipeline.name, FOLDER, ""))


def decide(s3: S3, pipeline: Pipeline, ledger: Ledger, record: Callable[[Ledger], T], *scopes: Scope) -> T:
    """Record a person's decision in the ledger, after its copy was written below the pipeline's workspace.

    Parameters
    ----------
    s3, pipeline, ledger
        The S3 account of the pipeline's workspace, the pipeline and the ledger.
    record
        Calls the methods of the given ledger that record the decision; they are marked `ledger.journal.journaled`.
    scopes
        The lock scopes of these methods.

    Raises
    ------
    DecisionNotKeptError
        If the copy cannot be written. Nothing is recorded.
    """
    try:
        with ledger.journaled_in(open_log(s3, pipeline)).at_once(*scopes, keep_first=True) as inner:
            return record(inner)
    except S3Error as error:
        raise DecisionNotKeptError(
            f"The decision does not count, since its copy cannot be written to the workspace of pipeline "
            f"{pipeline.name!r} ({error.code}). Let the role write there, then decide again."
        ) from None
