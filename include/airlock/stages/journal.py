"""The journal of a run: what the run has changed in the ledger, kept in its workspace for `airlock ledger rebuild`.

An entry is an object ``ledger/<time>-<digits>.entry`` in the run's folder; the names sort by time. People's decisions
are entries of the same form in the folder ``decisions`` of the pipeline.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from airlock.ledger.journal import Entry
    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.storage.s3 import S3
    from airlock.storage.s3uri import S3Uri

FOLDER = "ledger"
_SMALL = 8 * 1024**2

PipelineT = TypeVar("PipelineT", bound="Pipeline")


@dataclass(frozen=True)
class FolderJournal:
    """A journal in a folder on S3."""

    s3: S3
    folder: S3Uri

    def write(self, entry: Entry) -> None:
        """Keep an entry as one object."""
        where = self.folder.join(entry.name)
        file = entry.finish()
        if file.tell() < _SMALL:
            file.seek(0)
            self.s3.put(where, file.read())
        else:
            self.s3.put_file(where, file, "application/octet-stream")


def keep_journal(run: Run[PipelineT]) -> Run[PipelineT]:
    """Return the same run, which keeps what it changes in the ledger in its workspace too."""
    folder = run.workspace_of(run.key, "").root.join(FOLDER, "")
    return replace(run, ledger=run.ledger.journaled_in(FolderJournal(run.s3, folder)))
