"""The ledger for a command: opened when it is needed, with errors that name the exit status."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from airlock.ledger import Ledger, LedgerError, LedgerSchemaError, LedgerUnreachableError, schema
from airlock.ledger.release import release_run
from airlock_cli import settings, workspaces
from airlock_cli.errors import RequestError, UnreachableError, WrongError

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def translated() -> Iterator[None]:
    """Turn the ledger's errors into those of a command."""
    try:
        yield
    except LedgerUnreachableError as error:
        raise UnreachableError(str(error)) from None
    except LedgerError as error:
        raise RequestError(str(error)) from None


@contextmanager
def opened() -> Iterator[Ledger]:
    """Open the ledger that the environment names."""
    with translated(), Ledger.open(settings.ledger_url()) as ledger:
        yield ledger


def has_run(ledger: Ledger, pipeline: str) -> bool:
    """Return whether the ledger has a run of a pipeline.

    Raises
    ------
    RequestError
        If it has none and there is no good file of this pipeline either, as far as the environment names the files.
    """
    known = ledger.pipelines()
    if pipeline in known:
        return True
    workspaces.need_known(pipeline, known)
    return False


def upgrade() -> str:
    """Do ``airlock ledger upgrade``, and return what is to be said."""
    with translated():
        schema.upgrade(settings.ledger_url())
    return _at_schema()


def check() -> str:
    """Do ``airlock ledger check``, and return what is to be said.

    Raises
    ------
    WrongError
        If there is no ledger, or its schema is not this Airlock's.
    """
    with translated():
        try:
            Ledger.open(settings.ledger_url()).dispose()
        except LedgerSchemaError as error:
            raise WrongError(str(error)) from None
    return _at_schema()


def _at_schema() -> str:
    return f"the ledger is at schema {schema.REVISION}"


def release(pipeline: str, run: str, *, jobs_ended: bool) -> list[str]:
    """Do ``airlock ledger release``, and return what is to be said."""
    with opened() as ledger:
        found = ledger.find_run(pipeline, run)
        if found is None and (not has_run(ledger, pipeline) or ledger.run(run) is None):
            raise RequestError(
                f"{pipeline} has no run {run!r}: give its run id, as Airflow's UI shows it, or its run key"
            )
        return release_run(ledger, pipeline, found.run_key if found else run, jobs_ended=jobs_ended)


def requeue(pipeline: str, destination: str | None) -> str:
    """Do ``airlock ledger requeue``, and return what is to be said."""
    with opened() as ledger:
        due = ledger.requeue(pipeline, destination)
    return f"{due} messages are due; the pipeline's next run, or its cleared route task, sends them"
