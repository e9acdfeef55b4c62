"""The ledger as commands use it: opened when needed, with errors that carry an exit status."""

from __future__ import annotations

import re
from contextlib import contextmanager
from typing import TYPE_CHECKING

from airlock.ledger import Ledger, LedgerError, LedgerSchemaError, LedgerUnreachableError, schema
from airlock.ledger.comparisons import SCOPE
from airlock.ledger.release import release_run
from airlock.records import study_key
from airlock_cli import settings, workspaces
from airlock_cli.caller import find_caller
from airlock_cli.errors import RequestError, UnreachableError, WrongError
from airlock_cli.show import Table, say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.stages.rebuild import Rebuilt

_STUDY_KEY = re.compile(r"[0-9a-f]{16}")


@contextmanager
def translate_errors() -> Iterator[None]:
    """Turn errors of the ledger into errors of a command."""
    try:
        yield
    except LedgerUnreachableError as error:
        raise UnreachableError(str(error)) from None
    except LedgerError as error:
        raise RequestError(str(error)) from None


@contextmanager
def open_ledger() -> Iterator[Ledger]:
    """Open the ledger that the environment names."""
    with translate_errors(), Ledger.open(settings.ledger_url()) as ledger:
        yield ledger


def has_run(ledger: Ledger, pipeline: str) -> bool:
    """Return whether the ledger has a run of the pipeline.

    Raises
    ------
    RequestError
        If neither the ledger nor the folder of pipeline files, if that is set, has the pipeline.
    """
    known = ledger.pipelines()
    if pipeline in known:
        return True
    workspaces.require_known_pipeline(pipeline, known)
    return False


def upgrade() -> str:
    """Create or upgrade the ledger, and return the message for the user."""
    with translate_errors():
        schema.upgrade(settings.ledger_url(), say)
    return check(rebuilding=True)  # the dump may be from the time of a rebuild, which goes on after the upgrade


def check(*, rebuilding: bool = False) -> str:
    """Check the ledger, which may be one that is being rebuilt, and return the message for the user.

    Raises
    ------
    WrongError
        If there is no ledger, or this Airlock does not work on its schema.
    """
    with translate_errors():
        try:
            with Ledger.open(settings.ledger_url(), rebuilding=rebuilding) as ledger:
                found = ledger.schema
        except LedgerSchemaError as error:
            raise WrongError(str(error)) from None
    return (
        f"The ledger is at schema {found}. Versions of Airlock with schema {' and '.join(schema.versions_for(found))} "
        f"may run on it. This one has schema {schema.REVISION}."
    )


def copy() -> str:
    """Copy the ledger to another database, and return the message for the user."""
    from airlock.ledger.transfer import transfer  # noqa: PLC0415  # only this command needs it

    with translate_errors():
        rows = transfer(settings.ledger_url(), settings.ledger_target_url(), say)
    return (
        f"{rows:,} rows are copied. Set {settings.LEDGER_URL}, or the Airflow connection airlock_ledger, to the new "
        f"address before any task runs."
    )


def rebuild(tell: Callable[[str], None], *, onto_backup: bool) -> Rebuilt:
    """Rebuild the ledger from the workspaces of all pipelines; return what was rebuilt."""
    from airlock.stages.rebuild import rebuild as rebuild_ledger  # noqa: PLC0415  # polars is slow to import

    pipelines = workspaces.require_all_pipelines()
    with (
        translate_errors(),
        Ledger.open(settings.ledger_url(), rebuilding=True) as ledger,
        workspaces.open_s3(*pipelines) as store,
    ):
        return rebuild_ledger(ledger, store, pipelines, find_caller(), tell, onto_backup=onto_backup)


def rebuilt_tables(found: Rebuilt) -> list[Table]:
    """Return what a rebuild has found, for a person."""
    facts = [("runs", found.runs), ("entries repeated", found.entries), ("decisions", found.decisions)]
    facts += [(name.replace("_", " "), number) for name, number in found.counts.items() if name != "runs"]
    unknown = [("a run without a journal", name) for name in found.without_journal]
    unknown += [("a data store that runs do not import into until it is adopted", name) for name in found.closed]
    unknown += [("a journal that has lost entries", f"{name} ({number})") for name, number in found.missing.items()]
    unknown += [("an audited run with arrivals that are not settled", name) for name in found.unsettled]
    unknown += [("a decision that was not committed, and is not repeated", name) for name in found.withdrawn]
    unknown += [("an entry that could not be repeated", f"{why} ({number})") for why, number in found.refused.items()]
    return [
        Table("rebuilt", ("what", "number"), facts),
        Table("not known", ("what", "which"), unknown),
    ]


def release(pipeline: str, run: str, *, jobs_ended: bool) -> list[str]:
    """Release a run's arrivals, and return the messages for the user."""
    with open_ledger() as ledger:
        found = ledger.find_run(pipeline, run)
        if found is None and (not has_run(ledger, pipeline) or ledger.run(run) is None):
            raise RequestError(no_such_run(pipeline, run))
        return release_run(ledger, pipeline, found.run_key if found else run, jobs_ended=jobs_ended)


def forget(pipeline: str, study: str, why: str) -> str:
    """Record that what a data store lacks of a study was removed on purpose, and return the message for the user.

    Raises
    ------
    RequestError
        If there is no reason, or the pipeline is not one of the files.
    WrongError
        If no reconciliation has found that something of the study is missing.
    """
    from airlock.stages.decision_log import decide  # noqa: PLC0415  # polars is slow to import

    if not why.strip():
        raise RequestError("--why is empty. Give a reason: the decision log keeps it.")
    key = study if _STUDY_KEY.fullmatch(study) else study_key(study)
    known = workspaces.load_named_pipeline(pipeline)
    decision = known.datastore_id, key, find_caller(), why.strip()
    with open_ledger() as ledger, workspaces.open_s3(known) as store:
        number = decide(store, known, ledger, lambda inner: inner.record_removal(pipeline, *decision), SCOPE)
    if not number:
        raise WrongError(f"Nothing of study {key} is missing, as far as it was compared. First: airlock reconcile")
    return f"{number} instances of study {key} were removed on purpose. They are not imported again by --findings."


def no_such_run(pipeline: str, run: str | None) -> str:
    """Return the message for a run that the ledger does not have."""
    return (
        f"Pipeline {pipeline} has no run {run!r}. Give its run id, as Airflow's UI shows it, or its run key. "
        f"The newest run: airlock report {pipeline}"
    )


def requeue(pipeline: str, destination: str | None) -> str:
    """Make a pipeline's failed messages due, and return the message for the user."""
    with open_ledger() as ledger:
        due = ledger.requeue(pipeline, destination)
    return f"{due} messages are due. The pipeline's next run sends them; so does its route task, if you clear it."


def tell_edge_again(pipeline: str, run: str | None) -> str:
    """Have a pipeline's edge told again what became of its objects, and return the message for the user."""
    with open_ledger() as ledger:
        if ledger.find_edge(pipeline) is None:
            raise RequestError(
                f"No run of pipeline {pipeline} has had an edge. Add the section edge to the pipeline file, and let a "
                "run end first."
            )
        found = ledger.find_run(pipeline, run) if run is not None else None
        if run is not None and found is None:
            raise RequestError(no_such_run(pipeline, run))
        number = ledger.tell_again(pipeline, found.run_key if found else None)
    return (
        f"The edge is told about {number} arrivals by the pipeline's next run, or by its route task, if you clear it."
    )


def match_again(pipeline: str, run: str | None) -> str:
    """Have a pipeline's releases, or those of one run, matched again, and return the message for the user."""
    from airlock.stages.decision_log import open_log  # noqa: PLC0415  # polars is slow to import

    known = workspaces.load_named_pipeline(pipeline)
    with open_ledger() as ledger, workspaces.open_s3(known) as store:
        found = ledger.find_run(pipeline, run) if run is not None else None
        if run is not None and found is None:
            raise RequestError(no_such_run(pipeline, run))
        released = ledger.journaled_in(open_log(store, known)).match_again(pipeline, found.run_key if found else None)
    return (
        f"{released} released contracts are matched with the routes by the pipeline's next run, or by its route task, "
        "if you clear it. A destination does not get again what it has."
    )
