"""What keeps an edge from starting."""

from __future__ import annotations

import os
import socket
import ssl
from typing import Final

RESTORE: Final = (
    "give it to the edge's user, make room on its disk, or restore it as docs/edge.md says under 'A lost book'"
)


class EdgeStartError(OSError):
    """The edge cannot start; the operator reads the message, which has the fix."""


def describe_error(error: OSError) -> str:
    """Return the system's or OpenSSL's words for an error, without the addresses and paths that Python adds."""
    if isinstance(error, ssl.SSLError) and error.reason:
        return error.reason.replace("_", " ").lower()
    if isinstance(error, socket.gaierror) or not error.errno:
        return error.strerror or type(error).__name__
    return os.strerror(error.errno)
