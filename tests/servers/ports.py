"""Ports of loopback for servers of tests."""

from __future__ import annotations

import secrets
import socket
from contextlib import suppress
from pathlib import Path

_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_FIRST = 15_000
_given: set[int] = set()


def free_port() -> int:
    """Return a TCP port of loopback on which nobody listens, another one each time, for a server that starts later.

    It lies below those that Linux gives to clients and to servers that ask for any port: one of these would be taken by
    another process now and then until the server starts.
    """
    most = int(_RANGE.read_text(encoding="ascii").split()[0]) - _FIRST
    while len(_given) < most // 2:
        port = _FIRST + secrets.randbelow(most)
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            if port not in _given:
                _given.add(port)
                return port
    with socket.create_server(("127.0.0.1", 0)) as listener:  # the machine gives out nearly all ports
        return int(listener.getsockname()[1])
