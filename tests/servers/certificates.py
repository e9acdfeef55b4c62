"""Certificates for TLS between an edge and its peers, made anew for each test."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from typing import TYPE_CHECKING

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

if TYPE_CHECKING:
    from pathlib import Path


_OTHER_USES = (
    *("digital_signature", "content_commitment", "key_encipherment", "data_encipherment"),
    *("key_agreement", "encipher_only", "decipher_only"),
)
_SIGNS = x509.KeyUsage(key_cert_sign=True, crl_sign=True, **dict.fromkeys(_OTHER_USES, False))


@dataclass(frozen=True)
class Files:
    """The files of a certificate, in PEM."""

    certificate: Path
    key: Path


class Authority:
    """Issues certificates into a folder.

    Parameters
    ----------
    folder
        Where the files are written.
    name
        Of the authority.
    """

    def __init__(self, folder: Path, name: str) -> None:
        self._folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        extension = x509.BasicConstraints(ca=True, path_length=None)
        self.certificate = self._write(name, self._sign(self._name, self._key, extension), self._key).certificate

    def issue(self, name: str, *, days: int = 1) -> Files:
        """Return a certificate for loopback; with *days* below 0 it has expired."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        extension = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
        return self._write(name, self._sign(subject, key, extension, days), key)

    def revoke(self, *revoked: Files, days: float = 1) -> Path:
        """Return the file of a list of revoked certificates; with *days* below 0 it has expired."""
        end = datetime.now(UTC) + timedelta(days=days)
        builder = x509.CertificateRevocationListBuilder(self._name, end - timedelta(days=3), end)
        for files in revoked:
            number = x509.load_pem_x509_certificate(files.certificate.read_bytes()).serial_number
            one = x509.RevokedCertificateBuilder().serial_number(number).revocation_date(end - timedelta(days=3))
            builder = builder.add_revoked_certificate(one.build())
        path = self._folder / "revoked.pem"
        path.write_bytes(builder.sign(self._key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
        return path

    def _sign(
        self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, extension: x509.ExtensionType, days: int = 1
    ) -> x509.Certificate:
        end = datetime.now(UTC) + timedelta(days=days)
        builder = x509.CertificateBuilder(self._name, subject, key.public_key(), x509.random_serial_number())
        builder = builder.not_valid_before(end - timedelta(days=3)).not_valid_after(end)
        builder = builder.add_extension(extension, critical=subject == self._name)
        builder = builder.add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        if subject == self._name:
            builder = builder.add_extension(_SIGNS, critical=True)
        issuer = x509.AuthorityKeyIdentifier.from_issuer_public_key(self._key.public_key())
        return builder.add_extension(issuer, critical=False).sign(self._key, hashes.SHA256())

    def _write(self, name: str, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey) -> Files:
        files = Files(self._folder / f"{name}.pem", self._folder / f"{name}.key")
        files.certificate.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
        form = serialization.PrivateFormat.TraditionalOpenSSL, serialization.NoEncryption()
        files.key.write_bytes(key.private_bytes(serialization.Encoding.PEM, *form))
        return files
