"""Refusal of foreign web pages by a local server that checks no credentials; programs of this machine may call it.

A page in a browser reaches loopback too. Its own name may resolve to loopback (DNS rebinding): the Host header shows
that. Or it asks across origins: Origin and Sec-Fetch-Site show that. Browsers let no page choose these headers.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

_HOST = re.compile(r"\[([0-9a-f:.]+)\](?::[0-9]+)?|([^][:]+?)\.?(?::[0-9]+)?")
_ELSEWHERE = frozenset({"cross-site", "same-site"})  # another port of this machine is the same site


def is_loopback(host: str) -> bool:
    """Return whether an address can only be reached from this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def why_refused(header: Callable[[str], str | None], allowed: Collection[str]) -> str | None:
    """Return why a request is refused; None if it may pass.

    Parameters
    ----------
    header
        Returns a request header by its name in lower case, None without it.
    allowed
        Names that the Host header may have besides those of loopback, in lower case.
    """
    host, origin = (header("host") or "").lower(), header("origin")
    if not _is_known(host, allowed):
        return f"The Host {host!r} is not allowed here: call 127.0.0.1 or localhost, or allow it with --allowed-host."
    if origin is not None and origin.lower() not in {f"http://{host}", f"https://{host}"}:
        return f"A page of the origin {origin!r} may not call this server: only its own pages and programs may."
    if header("sec-fetch-site") in _ELSEWHERE:
        return "A page of another origin may not call this server: only its own pages and programs may."
    return None


def _is_known(host: str, allowed: Collection[str]) -> bool:
    match = _HOST.fullmatch(host)
    name = match[1] or match[2] if match else ""
    # Names below localhost are buckets in S3's virtual-hosted form; no name server decides where they lead.
    return is_loopback(name) or name.endswith(".localhost") or name in allowed
