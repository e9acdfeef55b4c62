"""The command ``airlock-edge``."""

from __future__ import annotations

import json
import logging
import os
import signal
import sqlite3
import sys
import threading
import traceback
import warnings
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event
from typing import TYPE_CHECKING, Annotated

import typer

from airlock_edge.settings import Edge, EdgeSettingsError, load_settings
from airlock_edge.start_error import RESTORE, EdgeStartError

if TYPE_CHECKING:
    from collections.abc import Iterator

app = typer.Typer(add_completion=False, no_args_is_help=True, pretty_exceptions_enable=False)
_DEFECT = 70  # EX_SOFTWARE of sysexits.h
File = Annotated[Path, typer.Argument(help="The settings file.", metavar="EDGE.YAML", show_default=False)]
_UPLOADS_NICE = 10  # where processor time is short, peers that wait for their answers come first


def _load(path: Path) -> Edge:
    try:
        return load_settings(path)
    except EdgeSettingsError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


@contextmanager
def _explained() -> Iterator[None]:
    """End with a sentence and status 1 where the edge cannot start."""
    try:
        yield
    except EdgeStartError as error:
        typer.echo(f"wrong: {error}", err=True)
        raise typer.Exit(1) from None
    except sqlite3.DatabaseError as error:
        typer.echo(f"wrong: state: a database cannot be used ({error}): {RESTORE}", err=True)
        raise typer.Exit(1) from None


def _log_to_stderr() -> None:
    form = "%(asctime)s %(levelname)s %(name)s %(message)s"
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format=form)
    logging.getLogger("botocore").setLevel(logging.WARNING)
    # The DICOM libraries quote values of the peer in their warnings and in their log, which may be identifiers.
    warnings.simplefilter("ignore")
    for name in ("pydicom", "pynetdicom"):
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)


@app.callback()
def _describe() -> None:
    """Receive images over DICOM and put them on S3."""


@app.command()
def run(path: File) -> None:
    """Run the edge until SIGTERM or SIGINT ends it."""
    from airlock_edge.node import Node  # noqa: PLC0415 - check starts without it

    settings = _load(path)
    _log_to_stderr()
    os.umask(0o077)  # the state folder has images
    end, defects = Event(), _Defects()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: end.set())
    threading.excepthook = partial(defects.note, end)
    with _explained(), Node(settings, path):
        while not end.wait(1):  # without a limit it may sleep for ever: the system gives a signal to any thread
            pass
    if defects.noted:
        raise typer.Exit(_DEFECT)  # the service manager starts it again


class _Defects:
    """Threads that ended by a defect: without one of them the edge would stand still, so the process ends."""

    def __init__(self) -> None:
        self.noted = False

    def note(self, end: Event, defect: threading.ExceptHookArgs) -> None:
        """Log where a thread ended, and end the process; the error's text is left out, since it may quote values."""
        self.noted = True
        end.set()
        _log_defect(defect)


def _log_defect(defect: threading.ExceptHookArgs) -> None:
    name = defect.thread.name if defect.thread else "?"
    where = traceback.extract_tb(defect.exc_traceback)[-1]
    what = defect.exc_type.__name__
    logging.getLogger(__name__).critical("thread %s: %s at %s:%s", name, what, where.name, where.lineno)


def _end_by_defect(defect: threading.ExceptHookArgs) -> None:
    """End a process that uploads, whose uploads would wait for ever for the thread; ``run`` starts it again."""
    _log_defect(defect)
    os._exit(_DEFECT)


@app.command()
def check(path: File) -> None:
    """Check the settings file, the state folder, the certificates, and the disk's mirror and encryption."""
    from airlock_edge.checks import find_faults, find_warnings  # noqa: PLC0415 - as above

    settings = _load(path)
    faults = list(find_faults(settings))
    for text in faults:
        typer.echo(f"wrong: {text}", err=True)
    for text in find_warnings(settings):
        typer.echo(f"note: {text}", err=True)
    peers = "1 peer" if len(settings.peers) == 1 else f"{len(settings.peers)} peers"
    typer.echo(f"{path.name}: site {settings.site}, {peers}, store {settings.store}")
    if faults:
        raise typer.Exit(1)


@app.command()
def uncommitted(
    path: File,
    instances: Annotated[
        bool, typer.Option("--instances", help="Also list the SOP Instance UIDs, for the sender's staff.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of lines.")] = False,
) -> None:
    """List instances whose commitment was refused, and how many are safe by now: the sender may ask for them again."""
    from airlock_edge.book import NAME, Book  # noqa: PLC0415 - as above
    from airlock_edge.commitment.store import CommitmentStore  # noqa: PLC0415
    from airlock_edge.commitment.uncommitted import describe, list_uncommitted, make_record  # noqa: PLC0415

    settings = _load(path)
    os.umask(0o077)
    with _explained():
        if not (settings.state / NAME).is_file():  # a book made here would be this user's, and not the edge's
            raise EdgeStartError(f"state: {settings.state} has no {NAME}: correct the path, or start the edge first")
        Book(settings.state).close()  # makes the tables of this version
        with closing(CommitmentStore(settings.state)) as store:
            studies = list(list_uncommitted(settings, store))
    if as_json:
        typer.echo(json.dumps([make_record(study, instances=instances) for study in studies], indent=1))
        return
    for line in (line for study in studies for line in describe(study, instances=instances)):
        typer.echo(line)
    if not studies:
        typer.echo("No commitment request has been answered with a failure.", err=True)


@app.command(hidden=True)
def upload(
    path: File, share: Annotated[str, typer.Option(help="Which files of the spool, as 0/2.", metavar="N/OF")] = "0/1"
) -> None:
    """Upload the spool until standard input is closed; ``run`` starts it."""
    from airlock_edge.uploader import Share, Uploader  # noqa: PLC0415 - as above

    settings = _load(path)
    _log_to_stderr()
    os.umask(0o077)
    os.nice(_UPLOADS_NICE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal sends it to all; the parent ends this process
    threading.excepthook = _end_by_defect
    number, of = map(int, share.split("/"))
    with _explained(), Uploader(settings, Share(number, of)) as uploader:
        uploader.run(sys.stdin.fileno())


def main() -> None:
    """Run the command line."""
    app()


if __name__ == "__main__":
    main()
