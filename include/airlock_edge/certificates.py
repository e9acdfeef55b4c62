"""The names in a peer's certificate."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


def find_names(certificate: Mapping[str, Any] | None) -> list[str]:
    """Return the DNS names and common names of a verified certificate, as `ssl.SSLSocket.getpeercert` describes it."""
    found = certificate or {}
    alternatives = [name for kind, name in found.get("subjectAltName", ()) if kind == "DNS"]
    subject = [pair for part in found.get("subject", ()) for pair in part]
    return alternatives + [value for kind, value in subject if kind == "commonName"]
