"""Certificate revocation lists (RFC 5280): OpenSSL checks them at each handshake; here is until when they count."""

from __future__ import annotations

import re
import ssl
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Final

from airlock_edge.start_error import EdgeStartError, describe_error

if TYPE_CHECKING:
    from pathlib import Path

_NEAR: Final = timedelta(days=7)
_NEVER: Final = datetime.max.replace(tzinfo=UTC)
_LIST = re.compile(rb"-----BEGIN X509 CRL-----.+?-----END X509 CRL-----", re.DOTALL)
_FIELD: Final = "listen.tls.revocation_list"


def check_revocations(context: ssl.SSLContext, path: Path) -> None:
    """Let a context refuse certificates that their authority has revoked, and those of authorities without a list.

    Raises
    ------
    EdgeStartError
        As `find_first_end`.
    """
    find_first_end(path)
    context.load_verify_locations(path)
    context.verify_flags |= ssl.VERIFY_CRL_CHECK_LEAF


def find_first_end(path: Path) -> datetime:
    """Return when the first list of a file expires; the end of time if none says when.

    Raises
    ------
    EdgeStartError
        If the file cannot be read, has no list, or has something else.
    """
    from cryptography.x509 import load_pem_x509_crl  # noqa: PLC0415 - an edge without lists starts faster

    try:
        content = path.read_bytes()
        ends = [load_pem_x509_crl(text).next_update_utc or _NEVER for text in _LIST.findall(content)]
    except OSError as error:
        raise EdgeStartError(f"{_FIELD}: {path} cannot be read ({describe_error(error)}): correct the path") from None
    except ValueError:
        raise EdgeStartError(f"{_FIELD}: a list of {path} cannot be read: write it in PEM") from None
    if b"CERTIFICATE-----" in content:
        raise EdgeStartError(f"{_FIELD}: {path} has a certificate, which would count as an authority: write only lists")
    if not ends:
        raise EdgeStartError(f"{_FIELD}: {path} has no list, so that every peer is refused: write each authority's")
    return min(ends)


def is_near(end: datetime) -> bool:
    """Return whether a list has expired or will within a week, by the wall clock, as OpenSSL compares it."""
    return end - datetime.now(UTC) < _NEAR


def describe_end(end: datetime) -> str:
    """Return the line about a list that has expired or soon will."""
    verb = "has expired" if end < datetime.now(UTC) else "expires"
    return f"the list {verb} on {end:%Y-%m-%d %H:%M} UTC; from then on its authority's peers are refused: renew it"
