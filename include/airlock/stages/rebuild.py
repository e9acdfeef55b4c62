"""Rebuild: make the ledger again from the journals in the workspaces, after it was lost.

The entries of all runs and decisions of all pipelines are repeated in the order of their times. What was being sent is
compared last with the notes of routes. The report names what nobody can know, and the data stores of the pipelines that
lack something are closed: a run would import it again.
"""

from __future__ import annotations

from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from tempfile import SpooledTemporaryFile
from typing import IO, TYPE_CHECKING, cast

from airlock.ledger import LedgerError, LedgerUnreachableError
from airlock.ledger.errors import LedgerLockedError, RebuildTakenError
from airlock.ledger.replay import BrokenEntryError, read_entry, repeat_calls
from airlock.stages import decision_log, sends
from airlock.stages.buffer import INDEX
from airlock.stages.journal import ENTRY, FAILED, FOLDER, count_missing, read_name
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Sequence
    from concurrent.futures import Future

    from airlock.ledger import Ledger
    from airlock.ledger.rebuilt import Begun
    from airlock.pipelines import Pipeline
    from airlock.storage.s3 import S3

    _Read = tuple["Found", IO[bytes]]

_READ_AHEAD = 8  # entries
_IN_MEMORY = 8 * 1024**2  # bytes of an entry before it is on the local disk
_LOOKED_INTO = 100  # runs of a folder that may be of a pipeline
_TOLD_EVERY = 500  # entries
_NOT_RUNS = frozenset({decision_log.FOLDER, sends.FOLDER, "redrives", "parked", "sweeps"})


@dataclass(frozen=True, order=True)
class Found:
    """An entry of a journal; entries sort by their times."""

    name: str
    uri: str
    source: str = ""  # the pipeline and the run whose journal this is, or the folder of decisions: <pipeline>/<run>
    number: int | None = None  # of the entries before it; None from earlier versions
    is_withdrawn: bool = False  # a decision whose commit failed: the person has read an error

    @property
    def run(self) -> str:
        """The key of the run; empty for a decision."""
        run = self.source.partition("/")[2]
        return "" if run == decision_log.FOLDER else run


@dataclass
class Rebuilt:
    """The numbers of a rebuild, and what it could not know."""

    runs: int = 0
    entries: int = 0
    decisions: int = 0
    without_journal: list[str] = field(default_factory=list)  # keys of runs
    missing: dict[str, int] = field(default_factory=dict)  # entries that journals have lost, by source
    refused: Counter[str] = field(default_factory=Counter)  # what could not be repeated, by source, method and cause
    withdrawn: list[str] = field(default_factory=list)  # decisions whose commit failed: they are not repeated
    unsettled: list[str] = field(default_factory=list)  # audited runs with arrivals that were not settled, by source
    datastores: list[str] = field(default_factory=list)
    closed: list[str] = field(default_factory=list)  # data stores into which no run imports until they are adopted
    counts: dict[str, int] = field(default_factory=dict)  # of the ledger's rows, and of what is open in them

    @property
    def is_incomplete(self) -> bool:
        """Whether something is missing in the ledger."""
        return bool(self.without_journal or self.missing or self.refused or self.withdrawn or self.unsettled)

    def find_incomplete(self) -> set[str]:
        """Return the pipelines that lack something for which a run could import again."""
        return {one.partition("/")[0] for one in (*self.missing, *self.refused, *self.unsettled)}

    def to_json(self) -> dict[str, object]:
        """Return the report as JSON values."""
        return vars(self) | {"refused": dict(self.refused)}


def rebuild(
    ledger: Ledger,
    s3: S3,
    pipelines: Collection[Pipeline],
    asked_by: str,
    tell: Callable[[str], None],
    *,
    onto_backup: bool = False,
) -> Rebuilt:
    """Fill an empty ledger from the workspaces of these pipelines; go on with a rebuild that was interrupted.

    Parameters
    ----------
    ledger
        An empty ledger, or one whose rebuild is unfinished.
    s3
        The S3 account of the workspaces.
    pipelines
        All pipelines that shared the lost ledger.
    asked_by
        The person.
    tell
        Gets a sentence about the progress now and then.
    onto_backup
        Whether the ledger is a restored backup: only what came after it is repeated.

    Raises
    ------
    LedgerError
        If the ledger is not empty, and not said to be a backup, or a workspace has journals of another pipeline.
    """
    roots = sorted({str(find_root(one)) for one in pipelines})
    _need_all_files(s3, {one.workspace for one in pipelines}, roots)
    scope = {"workspaces": roots, "onto_backup": onto_backup}
    report = Rebuilt()
    entries = sorted(_find_entries(s3, roots, report))
    firsts = {one.run: one.name for one in reversed(entries) if one.run}
    begun = ledger.begin_rebuild(scope, asked_by, onto_backup=onto_backup, first_entries=firsts)
    report.refused.update(begun.refused)
    noted = ledger.find_noted(begun.position)
    _note_lost(report, entries, {one.name for one in entries if one.name <= begun.since or one.name in noted})
    left = [one for one in entries if one.name > begun.position and one.name not in noted and not one.is_withdrawn]
    tell(f"{report.runs} runs and {report.decisions} decisions have {len(entries)} entries, {len(left)} are to repeat.")
    _repeat_all(ledger, _read_ahead(s3, left), report, tell, replace(begun, refused=report.refused))
    report.without_journal = [run for run in report.without_journal if ledger.run(run) is None]
    report.unsettled = ledger.find_unsettled()
    found = sends.read_sends(s3, roots, report.refused, ledger.find_sends_since(begun.since))
    with ledger.alone() as alone:
        alone.record_sends(found)
        report.datastores = alone.record_rebuilt_stores()
        incomplete = report.find_incomplete()
        lacking = [one for one in pipelines if report.without_journal or one.name in incomplete]
        report.closed = sorted(set().union(*(one.datastore_ids for one in lacking)))
        alone.close_stores(report.closed)
        report.counts = alone.count_rebuilt()
        alone.end_rebuild(report.to_json())
    return report


def find_root(pipeline: Pipeline) -> S3Uri:
    """Return the folder of a pipeline's runs in its workspace."""
    return S3Uri.parse(pipeline.workspace).join(pipeline.name, "")


def _need_all_files(s3: S3, workspaces: Collection[str], roots: Collection[str]) -> None:
    """Refuse workspaces in which further pipelines have kept journals: the ledger would lack their runs."""
    beside = (
        (workspace.join(name, ""), name)
        for workspace in map(S3Uri.parse, sorted(workspaces))
        for name in s3.list_folders(workspace.join(""))
    )
    unnamed = [name for folder, name in beside if str(folder) not in roots and _has_journal(s3, folder)]
    if unnamed:
        raise LedgerError(
            f"the workspaces have journals of {len(unnamed)} pipelines without a pipeline file, for example "
            f"{unnamed[0]!r}. Add the files of all pipelines that shared the ledger, also of those that no longer run"
        )


def _has_journal(s3: S3, folder: S3Uri) -> bool:
    newest = s3.list_folders(folder)[-_LOOKED_INTO:]
    journals = (folder.join(decision_log.FOLDER, ""), *(folder.join(run, FOLDER, "") for run in newest))
    return any(next(_list_entries(s3, one), None) is not None for one in journals)


def _find_entries(s3: S3, roots: Sequence[str], report: Rebuilt) -> Iterator[Found]:
    for root in map(S3Uri.parse, roots):
        pipeline = root.key.rstrip("/").rpartition("/")[2]
        decided = list(_list_entries(s3, root.join(decision_log.FOLDER, ""), f"{pipeline}/{decision_log.FOLDER}"))
        report.decisions += len(decided)
        yield from decided
        runs = [name for name in s3.list_folders(root) if name not in _NOT_RUNS]
        with ThreadPoolExecutor(_READ_AHEAD) as pool:
            folders = [(root.join(run, FOLDER, ""), f"{pipeline}/{run}") for run in runs]
            listed = pool.map(lambda one: list(_list_entries(s3, *one)), folders)
            for run, found in zip(runs, listed, strict=True):
                report.runs += bool(found)
                if not found and s3.exists(root.join(run, INDEX)):
                    report.without_journal.append(run)
                yield from found


def _list_entries(s3: S3, folder: S3Uri, source: str = "") -> Iterator[Found]:
    names = {item.key.rpartition("/")[2] for item in s3.list_objects(folder)}
    for kept_as in sorted(name for name in names if name.endswith(ENTRY)):
        name, number = read_name(kept_as)
        withdrawn = source.endswith(f"/{decision_log.FOLDER}") and kept_as + FAILED in names
        yield Found(name, str(folder.join(kept_as)), source, number, withdrawn)


def _note_lost(report: Rebuilt, entries: Sequence[Found], known: Collection[str]) -> None:
    """Add the entries that journals have lost, and withdrawn decisions; a backup has the changes of the known ones."""
    report.withdrawn = [f"{one.source}/{one.name}" for one in entries if one.is_withdrawn and one.name not in known]
    by_source: dict[str, list[Found]] = {}
    for one in entries:
        by_source.setdefault(one.source, []).append(one)
    for source, found in by_source.items():
        older = [one.number for one in found if one.name in known]
        lost = count_missing([one.number for one in found]) - count_missing(older)
        if lost > 0 and len(older) < len(found):
            report.missing[source] = lost


def _repeat_all(
    ledger: Ledger,
    entries: Iterator[_Read],
    report: Rebuilt,
    tell: Callable[[str], None],
    begun: Begun,
) -> None:
    for entry, file in entries:
        with file:
            _repeat(ledger, entry, file, begun)
        report.entries += 1
        if report.entries % _TOLD_EVERY == 0:
            tell(f"{report.entries} entries are repeated.")


def _repeat(ledger: Ledger, entry: Found, file: IO[bytes], begun: Begun) -> None:
    """Repeat an entry; one that cannot be repeated is named and counted, and left out."""
    method = ""
    try:
        calls = read_entry(file)
        method = f": {calls[0].method}"
        repeat_calls(ledger, entry.name, calls)
    except (LedgerUnreachableError, LedgerLockedError, RebuildTakenError):
        raise  # the same command goes on with this entry
    except BrokenEntryError as error:
        _refuse(ledger, entry, f"{entry.source}/{entry.name}{method}: {error}", begun)
    except LedgerError as error:
        _refuse(ledger, entry, f"{entry.source}{method}: {error}", begun)


def _refuse(ledger: Ledger, entry: Found, why: str, begun: Begun) -> None:
    begun.refused[why] = begun.refused.get(why, 0) + 1
    ledger.move_rebuild(entry.name, begun)


def _read_ahead(s3: S3, entries: Sequence[Found]) -> Iterator[_Read]:
    """Yield the entries with their content, a few of which are read before they are asked for."""

    def read(entry: Found) -> IO[bytes]:
        file = cast("IO[bytes]", SpooledTemporaryFile(max_size=_IN_MEMORY))  # noqa: SIM115  (the caller closes it)
        s3.get_file(S3Uri.parse(entry.uri), file)
        return file

    with ThreadPoolExecutor(_READ_AHEAD) as pool:
        waiting: deque[tuple[Found, Future[IO[bytes]]]] = deque()
        for entry in entries:
            waiting.append((entry, pool.submit(read, entry)))
            if len(waiting) > _READ_AHEAD:
                first, reading = waiting.popleft()
                yield first, reading.result()
        while waiting:
            first, reading = waiting.popleft()
            yield first, reading.result()
