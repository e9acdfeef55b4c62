"""A network in which nothing can be reached but what is let in: a namespace with loopback, and doors to servers.

A door is a port of the namespace's loopback whose connections go to a server outside of it. It needs root and iproute2.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LOOPBACK = "127.0.0.1"
Server = int | Path  # a port of loopback, or a socket in the file system


@contextmanager
def network_of_its_own(name: str, doors: Mapping[int, Server]) -> Iterator[Path]:
    """Make a namespace, and yield its file.

    Parameters
    ----------
    name
        Its name, which is unused on this machine.
    doors
        The server behind each port.
    """
    namespace = Path("/run/netns") / name
    _ip("netns", "add", name)
    listeners: list[socket.socket] = []
    try:
        _ip("-n", name, "link", "set", "lo", "up")
        for port, server in doors.items():
            listeners.append(_listen_within(namespace, port))
            threading.Thread(target=_keep_open, args=(listeners[-1], server), daemon=True).start()
        yield namespace
    finally:
        for listener in listeners:
            with suppress(OSError):  # it wakes whoever accepts; a listener is not connected
                listener.shutdown(socket.SHUT_RDWR)
            listener.close()
        _ip("netns", "delete", name)


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=30)


def _listen_within(namespace: Path, port: int) -> socket.socket:
    """Return a listener of the namespace: a socket stays where it was made, and only this thread goes there."""
    made: list[socket.socket] = []

    def listen() -> None:
        with namespace.open() as file:
            os.setns(file.fileno(), os.CLONE_NEWNET)  # Python 3.12
        made.append(socket.create_server((LOOPBACK, port)))

    thread = threading.Thread(target=listen)
    thread.start()
    thread.join()
    (listener,) = made
    return listener


def _keep_open(listener: socket.socket, server: Server) -> None:
    while True:
        try:
            inside, _ = listener.accept()
        except OSError:  # the namespace ends
            return
        try:
            outside = _connect(server)
        except OSError:  # nobody is behind the door
            inside.close()
            continue
        for source, target in ((inside, outside), (outside, inside)):
            threading.Thread(target=_pass_on, args=(source, target), daemon=True).start()


def _connect(server: Server) -> socket.socket:
    if isinstance(server, int):
        return socket.create_connection((LOOPBACK, server))
    connection = socket.socket(socket.AF_UNIX)
    connection.connect(str(server))
    return connection


def _pass_on(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # either side may break off
        while data := source.recv(1 << 16):
            target.sendall(data)
    with suppress(OSError):
        target.shutdown(socket.SHUT_WR)
