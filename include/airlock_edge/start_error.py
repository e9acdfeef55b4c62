"""What keeps an edge from starting."""

from __future__ import annotations

import errno
import os
import ssl
from typing import Final

RESTORE: Final = (
    "give it to the edge's user, make room on its disk, or restore it as docs/edge.md says under 'A lost book'"
)


class EdgeStartError(OSError):
    """The edge cannot start; the operator reads the message, which has the fix."""


def describe_error(error: OSError) -> str:
    """Return the system's or OpenSSL's words for an error, without the addresses and paths that Python adds."""
    if isinstance(error, ssl.SSLError):
        return (error.reason or "not in PEM, or encrypted").replace("_", " ").lower()
    if error.errno is not None and error.errno in errno.errorcode:
        return os.strerror(error.errno)
    return (error.strerror or type(error).__name__).partition(" (")[0]  # an address that cannot be resolved
