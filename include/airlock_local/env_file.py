"""The secrets of Docker Compose: ``python -m airlock_local.env_file`` writes ``.env`` from ``.env.example``.

It needs nothing but Python, so that a host which only runs containers can call it.
"""

from __future__ import annotations

import argparse
import base64
import os
import re
import secrets
import sys
from pathlib import Path

TO_REPLACE = "replace-me"
_LINE = re.compile(r"([A-Z][A-Z0-9_]*)=(.*)")
_BYTES = 32  # of a password
_KEY_BYTES = 64  # what HMAC-SHA512 asks of a key; Airflow signs its tokens with it (RFC 7518 section 3.2)
_KEYS = ("JWT_SECRET", "API_SECRET_KEY")


class EnvFileError(ValueError):
    """The file is not complete; the message says what to do."""


def make_secret(name: str) -> str:
    """Return a new secret in the form that a variable needs, of characters that an address and a file can hold.

    A Fernet key is 32 bytes in URL-safe base64 with padding (cryptography.fernet); the other keys have 64 bytes.
    """
    if name == "FERNET_KEY":
        return base64.urlsafe_b64encode(secrets.token_bytes(32)).decode()
    return secrets.token_urlsafe(_KEY_BYTES if name in _KEYS else _BYTES)


def fill_in(example: str) -> str:
    """Return the example's text with a new secret for each value that is to be replaced."""
    return re.sub(
        rf"^([A-Z][A-Z0-9_]*)={TO_REPLACE}$",
        lambda found: f"{found[1]}={make_secret(found[1])}",
        example,
        flags=re.MULTILINE,
    )


def read_names(text: str, *, usable: bool = False) -> set[str]:
    """Return the names of a file's variables; with ``usable`` only of those that have a value of their own."""
    found = (_LINE.fullmatch(line) for line in text.splitlines())
    return {line[1] for line in found if line and not (usable and line[2] in {"", TO_REPLACE})}


def write_env(example: Path, target: Path) -> str:
    """Write the file with mode 0600 if it is not there; an existing one is only read.

    Returns
    -------
    str
        What was done, for the person who called it.

    Raises
    ------
    EnvFileError
        If an existing file lacks variables of the example.
    """
    text = example.read_text(encoding="utf-8")
    try:
        file = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        lacking = sorted(read_names(text) - read_names(target.read_text(encoding="utf-8"), usable=True))
        if not lacking:
            return f"{target} is complete and was not changed."
        raise EnvFileError(
            f"{target} has no value of its own for {', '.join(lacking)}, and was not changed. Write another file with "
            f"`PYTHONPATH=include python3 -m airlock_local.env_file --target {target}.new`, and copy these lines "
            "from it."
        ) from None
    with os.fdopen(file, "w", encoding="utf-8") as opened:
        opened.write(fill_in(text))
    return f"{target} was written, for this user only. Keep a copy where secrets are kept: the databases know these."


def main() -> int:
    """Write .env, and return the exit status."""
    parser = argparse.ArgumentParser(prog="airlock_local.env_file", description=main.__doc__)
    parser.add_argument("--example", type=Path, default=Path(".env.example"), help="the file to take the names from")
    parser.add_argument("--target", type=Path, default=Path(".env"), help="the file to write")
    given = parser.parse_args()
    try:
        sys.stdout.write(f"{write_env(given.example, given.target)}\n")
    except EnvFileError as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
