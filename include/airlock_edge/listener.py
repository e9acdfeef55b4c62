"""The listening socket, and a thread per association."""

from __future__ import annotations

import errno
import logging
import resource
import socket
import ssl
from contextlib import suppress
from threading import Event, Lock, Thread
from time import monotonic, sleep
from typing import TYPE_CHECKING, Self

from airlock_edge.admission import Admission
from airlock_edge.association import Association, Server
from airlock_edge.negotiation import Negotiator
from airlock_edge.pending import Pending
from airlock_edge.rate import Rate
from airlock_edge.revocations import check_revocations, find_first_end
from airlock_edge.settings import MIB
from airlock_edge.start_error import EdgeStartError, describe_error

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from airlock_edge.metrics import Metrics
    from airlock_edge.services import Services
    from airlock_edge.settings import Edge, Listen, Tls

_log = logging.getLogger(__name__)

_BACKLOG = 1024
_PAUSE_SECONDS = 0.1  # after a connection that could not be accepted
_PENDING = 64  # connections without an association: of one address, and of all addresses from which no peer may call
_MOST_PENDING = 4 * _PENDING  # of all addresses together
_STRANGERS = ""  # in place of an address from which no peer may call
# The BCP 195 profile: TLS 1.2 with forward secrecy and authenticated encryption, or TLS 1.3 (RFC 9325 section 4.2).
_CIPHERS = "ECDHE+AESGCM:ECDHE+CHACHA20:DHE+AESGCM:!aNULL:!PSK"


class Listener:
    """Accepts connections; a context manager.

    Parameters
    ----------
    settings
        Of the edge.
    services
        What it offers.
    metrics
        Its numbers.
    """

    def __init__(self, settings: Edge, services: Services, metrics: Metrics) -> None:
        listen = settings.listen
        rate = Rate(listen.mib_per_second and listen.mib_per_second * MIB)
        negotiator = Negotiator(settings, commits=services.act is not None)
        tls = None if listen.tls is None else make_tls_context(listen.tls)
        revoked = listen.tls and listen.tls.revocation_list
        self.list_ends = find_first_end(revoked) if revoked else None
        self._server = Server(listen, negotiator, Admission(settings), services, metrics, rate, tls)
        self._socket = _open_socket(listen)
        self._thread = Thread(target=self._accept_all, name="listener")
        self._pending = Pending(_MOST_PENDING, _PENDING)
        self._lock = Lock()
        self._open: dict[Association, Thread] = {}
        self._stopping = Event()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self._socket.getsockname()[1])

    def __enter__(self) -> Self:
        _raise_file_limit()
        self._thread.start()
        _log.info("listening on port %d as %s", self.port, self._server.listen.ae_title)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self, patience: float = 30) -> None:
        """Accept nobody any more, and let each association end between two messages.

        Parameters
        ----------
        patience
            Seconds after which messages that are still being received are given up; they are not acknowledged.
        """
        self._stopping.set()
        with suppress(OSError):  # stopped twice
            self._socket.shutdown(socket.SHUT_RD)  # which ends accept
        self._thread.join()
        self._socket.close()
        with self._lock:
            open_ = dict(self._open)
        for association in open_:
            association.stop()
        end = monotonic() + patience
        for thread in open_.values():
            thread.join(max(0.0, end - monotonic()))

    def open_by_peer(self) -> dict[str, int]:
        """Return the number of open associations of each AE title that has had any."""
        return self._server.admission.open_by_peer

    def note_open(self) -> None:
        """Write the number of open associations as gauges; 0 for a peer that has none any more."""
        for ae_title, number in self.open_by_peer().items():
            self._server.metrics.put("open_associations", number, ae_title=ae_title)

    def _accept_all(self) -> None:
        number = 0
        while not self._stopping.is_set():
            try:
                connection, address = self._socket.accept()
            except OSError as error:  # stop has shut it down, or too many files are open
                if self._stopping.is_set():
                    return
                _log.error("a connection cannot be accepted (%s)", type(error).__name__)
                sleep(_PAUSE_SECONDS)
                continue
            number += 1
            try:
                self._begin(connection, str(address[0]), number)
            except (OSError, RuntimeError) as error:  # too many connections, files or threads; or it was reset by now
                _log.warning("connection %d from %s is closed (%s)", number, address[0], type(error).__name__)
                self._server.metrics.count("closed_connections_total")
                connection.close()

    def _begin(self, connection: socket.socket, address: str, number: int) -> None:
        if len(self._open) >= self._server.listen.associations + 2 * _MOST_PENDING:
            raise ConnectionRefusedError
        leave = self._pending.enter(address if self._server.admission.knows_address(address) else _STRANGERS)
        if leave is None:
            raise ConnectionRefusedError
        try:
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            association = Association(connection, address, number, self._server, leave)
            self._start(association, number, leave)
        except BaseException:
            leave()
            raise

    def _start(self, association: Association, number: int, leave: Callable[[], None]) -> None:
        thread = Thread(target=self._run, args=(association, leave), name=f"association-{number}", daemon=True)
        with self._lock:
            self._open[association] = thread
        try:
            thread.start()
        except RuntimeError:  # no further thread can be started
            with self._lock:
                del self._open[association]
            association.abandon()
            raise

    def _run(self, association: Association, leave: Callable[[], None]) -> None:
        try:
            association.run()
        finally:
            leave()
            with self._lock:
                del self._open[association]


def _open_socket(listen: Listen) -> socket.socket:
    family = socket.AF_INET6 if ":" in listen.address else socket.AF_INET
    try:
        return socket.create_server(
            (listen.address, listen.port), family=family, backlog=_BACKLOG, dualstack_ipv6=listen.address == "::"
        )
    except OSError as error:
        fix = "stop the program that listens there, or choose another port"
        if error.errno != errno.EADDRINUSE:
            fix = "write an address of this machine, and a port that the edge's user may open"
        raise EdgeStartError(
            f"listen: {listen.address} port {listen.port} cannot be opened ({describe_error(error)}): {fix}"
        ) from None


def make_tls_context(settings: Tls) -> ssl.SSLContext:
    """Return the context of the BCP 195 TLS profile with client certificates (PS3.15 annex B.9).

    Raises
    ------
    EdgeStartError
        If a file cannot be used.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(_CIPHERS)
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_NO_COMPRESSION
    context.verify_mode = ssl.CERT_REQUIRED
    try:
        context.load_cert_chain(settings.certificate, settings.key, password=_refuse_encrypted)
    except OSError as error:
        raise EdgeStartError(
            f"listen.tls: {settings.certificate} and {settings.key} cannot be used ({describe_error(error)}): both "
            "must be PEM, and the key that of the certificate and not encrypted"
        ) from None
    try:
        context.load_verify_locations(settings.client_authorities)
    except OSError as error:
        raise EdgeStartError(
            f"listen.tls.client_authorities: {settings.client_authorities} cannot be used ({describe_error(error)}): "
            "it must have certificates in PEM"
        ) from None
    if settings.revocation_list is not None:
        check_revocations(context, settings.revocation_list)
    return context


def _refuse_encrypted() -> str:
    """Return a password that opens no key: without one, OpenSSL asks at the terminal."""
    return ""


def _raise_file_limit() -> None:
    """Allow as many open files as the system does: an association takes three."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
