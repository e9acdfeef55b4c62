"""Ports of loopback for servers of tests."""

from __future__ import annotations

import socket


def free_port() -> int:
    """Return a TCP port of loopback on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])
