"""``python -m airlock.ledger upgrade|check|release|requeue``: maintain the ledger at ``AIRLOCK_LEDGER_URL``.

``release`` returns the FHIR resources and arrivals of a run that will never continue; the next run takes them.
``requeue`` makes messages due again that a destination did not take, or has releases matched with new routes.
"""

from __future__ import annotations

import argparse
import os
import sys

from airlock.ledger.database import has_password, parse_url
from airlock.ledger.errors import LedgerError
from airlock.ledger.ledger import Ledger
from airlock.ledger.release import release_run
from airlock.ledger.schema import LEDGER_URL, upgrade


def main(arguments: list[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        Without the program's name; by default those of the process.

    Returns
    -------
    int
        The exit status: 0, or 1 with the reason on standard error.
    """
    parser = argparse.ArgumentParser(prog="python -m airlock.ledger", description="Maintain the ledger.")
    parser.add_argument(
        "action",
        choices=["upgrade", "check", "release", "requeue"],
        help="upgrade: create or migrate the ledger; check: only compare its schema; release: return what a run that "
        "will never continue still holds; requeue: have the next run send what a destination did not take",
    )
    parser.add_argument(
        "--url",
        help=f"sqlite:////folder/ledger.db or postgresql://user@host/database, without a password: every user of the "
        f"machine can read it in the process list; by default {LEDGER_URL}",
    )
    parser.add_argument("--pipeline", help="with release and requeue: the pipeline's name")
    parser.add_argument("--run", help="with release, and with requeue --match-again: the run's key, as in its report")
    parser.add_argument(
        "--jobs-ended", action="store_true", help="with release: you have checked in AWS that the run's jobs have ended"
    )
    parser.add_argument("--destination", help="with requeue: only this destination, as the outbox names it")
    parser.add_argument(
        "--match-again",
        action="store_true",
        help="with requeue: have the next run match what was released with the present routes; a destination does not "
        "get again what it has",
    )
    given = parser.parse_args(arguments)
    if given.action == "release" and not (given.pipeline and given.run):
        parser.error("release needs --pipeline and --run")
    if given.action == "requeue" and not given.pipeline:
        parser.error("requeue needs --pipeline")
    if given.match_again and given.destination:
        parser.error("--match-again matches with all routes: omit --destination")
    try:
        url = _choose_url(given.url)
        if given.action == "upgrade":
            upgrade(url, lambda sentence: print(sentence, flush=True))  # noqa: T201
        with Ledger.open(url) as ledger:
            schema = ledger.schema
            if given.action == "release":
                for line in release_run(ledger, given.pipeline, given.run, jobs_ended=given.jobs_ended):
                    print(line)  # noqa: T201
            elif given.action == "requeue":
                print(_requeue(ledger, given))  # noqa: T201
    except LedgerError as error:
        print(error, file=sys.stderr)  # noqa: T201  # this is a command
        return 1
    print(f"the ledger is at schema {schema}")  # noqa: T201
    return 0


def _requeue(ledger: Ledger, given: argparse.Namespace) -> str:
    after = "the pipeline's next run, or its cleared route task,"
    if given.match_again:
        return f"{after} matches {ledger.match_again(given.pipeline, given.run)} released contracts with its routes"
    return f"{ledger.requeue(given.pipeline, given.destination)} messages are due; {after} sends them"


def _choose_url(given: str | None) -> str:
    """Return the given address of the ledger, or that of the environment.

    Raises
    ------
    LedgerError
        If neither is set, or the given one holds a password.
    """
    if given is None:
        url = os.environ.get(LEDGER_URL, "")
        if not url:
            raise LedgerError(f"{LEDGER_URL} is not set: set it to the ledger's address")
        return url
    if has_password(parse_url(given)):
        raise LedgerError(
            f"--url holds a password, which every user of this machine can read in the process list: set {LEDGER_URL} "
            f"to the address and omit --url. Change the password if others use this machine"
        )
    return given


if __name__ == "__main__":
    sys.exit(main())
