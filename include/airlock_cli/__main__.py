"""``airlock`` and ``python -m airlock_cli``."""

import io
import sys

from airlock_cli.app import app


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a key's letters, on a terminal that does not have them
    app(prog_name="airlock")


if __name__ == "__main__":
    main()
