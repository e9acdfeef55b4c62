"""A hospital's network on loopback: a forward proxy, and servers with a certificate of the hospital's own authority."""

from __future__ import annotations

import socket
import ssl
from contextlib import contextmanager, suppress
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from threading import Thread
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.servers.serving import running

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_PIECE = 65_536


class ForwardProxy(ThreadingHTTPServer):
    """Passes CONNECT on, as a proxy for HTTPS does.

    Parameters
    ----------
    context
        The context of a proxy that itself speaks TLS.

    Attributes
    ----------
    tunnels
        The addresses that clients asked for.
    authorizations
        How clients named themselves, each time.
    """

    daemon_threads = True

    def __init__(self, context: ssl.SSLContext | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Tunnel)
        self.scheme = "https" if context else "http"
        if context:
            self.socket = context.wrap_socket(self.socket, server_side=True)
        self.tunnels: list[str] = []
        self.authorizations: list[str | None] = []

    @property
    def url(self) -> str:
        """Its address, for HTTPS_PROXY."""
        return f"{self.scheme}://127.0.0.1:{self.server_port}"


class _Tunnel(BaseHTTPRequestHandler):
    server: ForwardProxy

    def do_CONNECT(self) -> None:
        self.server.tunnels.append(self.path)
        self.server.authorizations.append(self.headers["Proxy-Authorization"])
        host, _, port = self.path.partition(":")
        with socket.create_connection((host, int(port))) as upstream:
            self.send_response(200)
            self.end_headers()
            back = Thread(target=_copy, args=(upstream, self.connection), daemon=True)
            back.start()
            _copy(self.connection, upstream)
            back.join()
        self.close_connection = True

    def log_request(self, *_: object) -> None:
        """Keep the test output quiet."""


def _copy(source: socket.socket, target: socket.socket) -> None:
    with suppress(OSError):  # either side may close at any time
        while piece := source.recv(_PIECE):
            target.sendall(piece)
        target.shutdown(socket.SHUT_WR)


@contextmanager
def forward_proxy(context: ssl.SSLContext | None = None) -> Iterator[ForwardProxy]:
    """Run a proxy; with a context it speaks TLS itself."""
    with running(ForwardProxy(context)) as proxy:
        yield proxy


def certify_loopback(folder: Path, *hosts: str) -> tuple[Path, ssl.SSLContext]:
    """Return the file with the certificate of a new authority, and the context of a server on 127.0.0.1.

    The server's certificate, which has further *hosts* too, and its key are in ``server.pem``.
    """
    authority, server = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    bundle, chain = folder / "authority.pem", folder / "server.pem"
    names = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1")), *map(x509.DNSName, hosts)])
    issuer = _sign("Hospital", "Hospital", authority, authority, x509.BasicConstraints(ca=True, path_length=0))
    bundle.write_bytes(issuer)
    key = server.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain.write_bytes(_sign("server", "Hospital", server, authority, names) + key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(chain)
    return bundle, context


def _sign(
    subject: str,
    issuer: str,
    own: ec.EllipticCurvePrivateKey,
    authority: ec.EllipticCurvePrivateKey,
    extension: x509.ExtensionType,
) -> bytes:
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(_name(subject))
        .issuer_name(_name(issuer))
        .public_key(own.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(extension, critical=False)
    )
    return builder.sign(authority, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])
