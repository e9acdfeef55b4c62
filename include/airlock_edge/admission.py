"""Admission: who may open an association, from where, and how many at a time."""

from __future__ import annotations

from collections import Counter
from contextlib import contextmanager
from ipaddress import IPv4Address, IPv6Address, ip_address
from threading import Lock
from typing import TYPE_CHECKING

from airlock_edge.negotiation import (
    APPLICATION_CONTEXT,
    TOO_MANY,
    TOO_MANY_OF_PEER,
    UNKNOWN_ADDRESS,
    UNKNOWN_APPLICATION,
    UNKNOWN_CALLED,
    UNKNOWN_CALLING,
    UNKNOWN_CERTIFICATE,
    Proposal,
    Rejection,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from airlock_edge.settings import Edge


class RefusedError(Exception):
    """An association is not admitted.

    Parameters
    ----------
    rejection
        Why.
    """

    def __init__(self, rejection: Rejection) -> None:
        super().__init__(rejection.text)
        self.rejection = rejection


class Admission:
    """Decides on association requests, and counts the open associations.

    Parameters
    ----------
    settings
        Of the edge.
    """

    def __init__(self, settings: Edge) -> None:
        self._listen = settings.listen
        self._peers = {peer.ae_title: peer for peer in settings.peers}
        self._open: Counter[str] = Counter()
        self._lock = Lock()

    @property
    def open_by_peer(self) -> dict[str, int]:
        """The number of open associations of each AE title that has had any."""
        with self._lock:
            return dict(self._open)

    def knows_address(self, address: str) -> bool:
        """Return whether any peer may call from an address."""
        caller = _read_address(address)
        return any(caller in network for peer in self._peers.values() for network in peer.addresses)

    def refuse_stranger(self, ae_title: str) -> RefusedError:
        """Return the error for a caller from an address of no peer."""
        return RefusedError(UNKNOWN_ADDRESS if ae_title in self._peers else UNKNOWN_CALLING)

    @contextmanager
    def admit(self, proposal: Proposal, address: str, names: Collection[str] = ()) -> Iterator[None]:
        """Count an association as open while the block runs.

        Parameters
        ----------
        proposal
            Its request.
        address
            Of the peer.
        names
            Those of its certificate.

        Raises
        ------
        RefusedError
            If it is not admitted.
        """
        self._check_peer(proposal, address, names)
        with self._lock:
            self._check_limits(proposal.calling)
            self._open[proposal.calling] += 1
        try:
            yield
        finally:
            with self._lock:
                self._open[proposal.calling] -= 1

    def _check_peer(self, proposal: Proposal, address: str, names: Collection[str]) -> None:
        peer = self._peers.get(proposal.calling)
        if peer is None:
            raise RefusedError(UNKNOWN_CALLING)
        caller = _read_address(address)
        if not any(caller in network for network in peer.addresses):
            raise RefusedError(UNKNOWN_ADDRESS)
        if peer.certificate_names and not set(peer.certificate_names) & set(names):
            raise RefusedError(UNKNOWN_CERTIFICATE)
        if self._listen.require_called and proposal.called != self._listen.ae_title:
            raise RefusedError(UNKNOWN_CALLED)
        if proposal.application_context != APPLICATION_CONTEXT:
            raise RefusedError(UNKNOWN_APPLICATION)

    def _check_limits(self, ae_title: str) -> None:
        if self._open.total() >= self._listen.associations:
            raise RefusedError(TOO_MANY)
        if self._open[ae_title] >= self._listen.associations_of_peer:
            raise RefusedError(TOO_MANY_OF_PEER)


def _read_address(address: str) -> IPv4Address | IPv6Address:
    """Return an address of a socket; that of IPv4 if a socket of IPv6 took its connection."""
    read = ip_address(address)
    return (read.ipv4_mapped if isinstance(read, IPv6Address) else None) or read
