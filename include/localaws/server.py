"""The emulator as a context manager, for tests and for programs that want it in their own process."""

from __future__ import annotations

import logging
import socket
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import uvicorn

from localaws.app import build_app
from localaws.callers import is_loopback
from localaws.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

log = logging.getLogger(__name__)

START_SECONDS = 20.0


def uvicorn_config(settings: Settings) -> uvicorn.Config:
    """Return how the emulator is served: no access log, because paths and queries can hold identifiers.

    Listening on anything but loopback is warned about: nothing here checks a signature.
    """
    if not is_loopback(settings.host):
        log.warning(
            "LISTENING ON %s: localaws checks no credentials, so whoever reaches this address reads all data. "
            "Use 127.0.0.1 unless the network itself is closed.",
            settings.host,
        )
    return uvicorn.Config(
        build_app(settings),
        host=settings.host,
        port=settings.port,
        access_log=False,
        log_level="warning",
        lifespan="on",
        timeout_graceful_shutdown=3,
    )


def bind_listener(settings: Settings) -> tuple[Settings, socket.socket]:
    """Take the port; return the settings with its number, and the socket to serve on.

    The number has to be known before the application is built: HealthLake answers it in data store endpoints.

    Raises
    ------
    OSError
        The port is taken, or the address is none of this machine's.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((settings.host, settings.port))
    except OSError:
        listener.close()
        raise
    return replace(settings, port=listener.getsockname()[1]), listener


class _Server(uvicorn.Server):
    """A server that says when it listens."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.listening = threading.Event()

    async def startup(self, sockets: Any = None) -> None:
        await super().startup(sockets)
        self.listening.set()

    def run_until_stopped(self, listener: socket.socket) -> None:
        try:
            self.run([listener])
        finally:
            self.listening.set()


@contextmanager
def serve(settings: Settings | None = None, **changes: Any) -> Iterator[str]:
    """Run the emulator in a thread; gives its URL.

    Parameters
    ----------
    settings : Settings, optional
        Without it: a free port and a temporary state file.
    **changes
        Fields of `Settings` to change, for example ``s3_endpoint``.

    Raises
    ------
    RuntimeError
        It does not start: the port is taken, or the state file cannot be used.

    Examples
    --------
    >>> with serve(s3_endpoint="http://127.0.0.1:4566") as url:  # doctest: +SKIP
    ...     client = boto3.client("medical-imaging", endpoint_url=url, config=Config(inject_host_prefix=False))
    """
    with TemporaryDirectory(prefix="localaws-") as folder:
        base = settings or Settings(port=0, state=Path(folder) / "localaws.db")
        chosen, listener = _bind_socket(replace(base, **changes))
        server = _Server(uvicorn_config(chosen))
        thread = threading.Thread(target=server.run_until_stopped, args=(listener,), name="localaws", daemon=True)
        thread.start()
        try:
            if not server.listening.wait(START_SECONDS) or not server.started:
                raise RuntimeError(f"localaws did not start on {chosen.host}:{chosen.port}.")
            yield f"http://{chosen.host}:{chosen.port}"
        finally:
            server.should_exit = True
            thread.join(START_SECONDS)
            listener.close()


def _bind_socket(settings: Settings) -> tuple[Settings, socket.socket]:
    try:
        return bind_listener(settings)
    except OSError as error:
        message = f"localaws did not start on {settings.host}:{settings.port}: is the port taken?"
        raise RuntimeError(message) from error
