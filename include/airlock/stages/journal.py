"""The journal of a run: what the run has changed in the ledger, kept in its workspace for `airlock ledger rebuild`.

An entry is an object ``ledger/<time>-<digits>-<number>.entry`` in the run's folder; the names sort by time. The number
is that of the entries that were in the folder before, as far as the writer knew: a folder with fewer entries than that
has lost some. Earlier versions wrote no number. People's decisions are entries of the same form in the folder
``decisions`` of the pipeline; beside one whose commit failed is an object whose name ends in ``.entry.failed``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Collection

    from airlock.ledger.journal import Entry
    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.storage.s3 import S3
    from airlock.storage.s3uri import S3Uri

FOLDER = "ledger"
ENTRY = ".entry"  # how the names of entries end
FAILED = ".failed"  # what follows the name of a decision whose commit failed
_SMALL = 8 * 1024**2

PipelineT = TypeVar("PipelineT", bound="Pipeline")


@dataclass
class FolderJournal:
    """A journal in a folder on S3."""

    s3: S3
    folder: S3Uri
    _known: int | None = field(default=None, init=False)  # entries in the folder, without those of others since
    _counting: Lock = field(default_factory=Lock, init=False, repr=False, compare=False)

    def write(self, entry: Entry) -> None:
        """Keep an entry as one object."""
        entry.kept_as = f"{entry.name.removesuffix(ENTRY)}-{self._count_known()}{ENTRY}"
        where = self.folder.join(entry.kept_as)
        file = entry.finish()
        if file.tell() < _SMALL:
            file.seek(0)
            self.s3.put(where, file.read())
        else:
            self.s3.put_file(where, file, "application/octet-stream")
        self._count_known(1)

    def _count_known(self, more: int = 0) -> int:
        with self._counting:
            if self._known is None:
                self._known = sum(item.key.endswith(ENTRY) for item in self.s3.list_objects(self.folder))
            self._known += more
            return self._known

    def withdraw(self, entry: Entry) -> None:
        """Note that the commit of a kept entry has failed, as far as its writer knows."""
        self.s3.put(self.folder.join(f"{entry.kept_as}{FAILED}"), b"")


def read_name(kept_as: str) -> tuple[str, int | None]:
    """Return the name of an entry, and the number that the name of its object has beside it, if there is one."""
    time, digits, number = [*kept_as.removesuffix(ENTRY).split("-"), "", ""][:3]
    return f"{time}-{digits}{ENTRY}", int(number) if number.isdecimal() else None


def count_missing(numbers: Collection[int | None]) -> int:
    """Return how many entries a folder has lost, by the numbers of those that it has."""
    return max(0, max((one for one in numbers if one is not None), default=-1) + 1 - len(numbers))


def keep_journal(run: Run[PipelineT]) -> Run[PipelineT]:
    """Return the same run, which keeps what it changes in the ledger in its workspace too."""
    folder = run.workspace_of(run.key, "").root.join(FOLDER, "")
    return replace(run, ledger=run.ledger.journaled_in(FolderJournal(run.s3, folder)))
