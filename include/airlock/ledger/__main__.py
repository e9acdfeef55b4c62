"""``python -m airlock.ledger upgrade|check --url URL``: create or migrate a ledger, or only look at it."""

from __future__ import annotations

import argparse
import sys

from airlock.ledger.errors import LedgerError
from airlock.ledger.ledger import Ledger
from airlock.ledger.schema import REVISION, upgrade


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
    parser = argparse.ArgumentParser(
        prog="python -m airlock.ledger", description="Keep the ledger's schema up to date."
    )
    parser.add_argument("action", choices=["upgrade", "check"], help="create or migrate the ledger, or only look at it")
    parser.add_argument("--url", required=True, help="sqlite:////folder/ledger.db or postgresql://user@host/database")
    given = parser.parse_args(arguments)
    try:
        if given.action == "upgrade":
            upgrade(given.url)
        Ledger.open(given.url).dispose()
    except LedgerError as error:
        print(error, file=sys.stderr)  # noqa: T201  # this is a command
        return 1
    print(f"the ledger is at schema {REVISION}")  # noqa: T201
    return 0


if __name__ == "__main__":
    sys.exit(main())
