"""The entry point of ``airlock`` and ``python -m airlock_cli``."""

import io
import sys

from airlock_cli.app import app


def main() -> None:
    """Run the command line."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # the terminal's encoding may lack letters of a key
    app(prog_name="airlock")


if __name__ == "__main__":
    main()
