"""Results of commitment requests, sent to the peers that asked: on their own association, or on a new one."""

from __future__ import annotations

import logging
import sqlite3
import ssl
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import groupby
from threading import Event, Lock
from typing import TYPE_CHECKING, Any, Final

from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom import AE, build_role

from airlock_edge.commitment.information import PUSH_MODEL_INSTANCE, describe_result, encode_information
from airlock_edge.commitment.reactor import guard_responses
from airlock_edge.negotiation import COMMITMENT, IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION
from airlock_edge.revocations import check_revocations
from airlock_edge.services import SUCCESS, EventReport

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from pydicom.dataset import Dataset

    from airlock_edge.commitment.store import CommitmentStore, Kept
    from airlock_edge.metrics import Metrics
    from airlock_edge.services import Channel
    from airlock_edge.settings import Edge, Peer

_log = logging.getLogger(__name__)

_PEERS_AT_A_TIME = 8
_ANSWER_SECONDS = 60.0  # for the response to a result
_CONNECT_SECONDS = 30.0
_FIRST_PAUSE, _LONGEST_PAUSE = 60.0, 3600.0  # between two tries
_DOUBLED = 10  # times at most; each request of the peer is a try, so there may be thousands
_DAY: Final = 86_400.0


class UnreachableError(Exception):
    """A peer does not take results now; the text says why."""


@dataclass(frozen=True)
class Result:
    """A result to send."""

    event_type_id: int
    content: Dataset


class Reports:
    """Sends results; the peers are served side by side, and each gets one result after the other.

    Parameters
    ----------
    settings
        Of the edge.
    store
        Has the results.
    metrics
        Counts them.
    note_end
        Is called when a peer was served, so that more can be sent to it.
    """

    def __init__(self, settings: Edge, store: CommitmentStore, metrics: Metrics, note_end: Callable[[], None]) -> None:
        self._settings = settings
        self._store = store
        self._metrics = metrics
        self._note_end = note_end
        self._pool = ThreadPoolExecutor(_PEERS_AT_A_TIME, thread_name_prefix="reports")
        self._lock = Lock()
        self._served: set[str] = set()
        self._channels: dict[str, Channel] = {}  # by AE title: the association of the last request

    def close(self) -> None:
        """End after the results that are being sent."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    def note_channel(self, ae_title: str, channel: Channel) -> None:
        """Remember the association of a peer, and send what waits for the peer."""
        with self._lock:
            self._channels[ae_title] = channel
        self._store.hurry(ae_title)

    def send_due(self) -> None:
        """Begin to send the results that are due; one thread calls this.

        The peers in service are read before the results that are due: in the other order a peer that takes its results
        in between would get them twice.
        """
        with self._lock:
            served = set(self._served)
        due = [one for one in self._store.list_due() if one.ae_title not in served]
        due.sort(key=lambda one: one.ae_title)
        for ae_title, requests in groupby(due, lambda one: one.ae_title):
            with self._lock:
                self._served.add(ae_title)
            self._pool.submit(self._serve, ae_title, list(requests))

    def _serve(self, ae_title: str, requests: list[Kept]) -> None:
        try:
            self._send_all(ae_title, requests)
        except Exception as error:  # noqa: BLE001 - a defect must not stop the results for ever; the text may quote values
            _log.error("commitment results for %s: a defect of the edge (%s)", ae_title, type(error).__name__)
            for one in requests:
                self._store.postpone(one.number, _LONGEST_PAUSE)
        finally:
            with self._lock:
                self._served.discard(ae_title)
            self._note_end()

    def _send_all(self, ae_title: str, requests: list[Kept]) -> None:
        peer = self._settings.find_peer(ae_title)
        waiting = [one for one in requests if not self._send_on_channel(one)]
        if not waiting:
            return
        try:
            self._send_on_new_association(peer, waiting)
        except UnreachableError as error:
            for one in waiting:
                self._postpone(one, str(error))
        with self._lock:
            is_there = ae_title in self._channels  # it came while a try failed, whose pause has begun after its coming
        if is_there:
            self._store.hurry(ae_title)

    def _make_result(self, request: Kept) -> Result:
        return Result(*describe_result(request.transaction_uid, self._store.references(request.number)))

    def _send_on_channel(self, request: Kept) -> bool:
        """Send a result on the peer's own association; return whether the peer has taken it."""
        with self._lock:
            channel = self._channels.get(request.ae_title)
        if channel is None:
            return False
        result, answered = self._make_result(request), Event()
        statuses: list[int | None] = []

        def note(status: int | None) -> None:
            try:
                if status == SUCCESS:
                    self._note_reported(request)  # also where it comes after the wait has ended
                statuses.append(status)
            except sqlite3.Error as error:  # the association's thread runs this, and may receive images next
                statuses.append(None)
                _log.error("commitment request %d: its answer cannot be written (%s)", request.number, error)
            finally:
                answered.set()

        encode = partial(encode_information, result.content)
        event = EventReport(COMMITMENT, PUSH_MODEL_INSTANCE, result.event_type_id, encode, note)
        if channel.send_event(event) and answered.wait(_ANSWER_SECONDS) and statuses[0] == SUCCESS:
            return True
        with self._lock:
            if self._channels.get(request.ae_title) is channel:
                del self._channels[request.ae_title]
        return False

    def _send_on_new_association(self, peer: Peer | None, requests: list[Kept]) -> None:
        """Send results on an association that the edge opens, until it ends.

        Only the result with which it ends is postponed. Those behind it stay due, so that the next association begins
        with them: a peer may break off at the same result each time.

        Raises
        ------
        UnreachableError
            If no association with the SCP role can be had.
        """
        if peer is None:
            raise UnreachableError("the AE title is no longer among the peers: add it again")
        if peer.reports_to is None:
            raise UnreachableError("its association has ended, and reports_to does not say where it listens")
        with self._associate(peer) as association:
            for request in requests:
                if self._send_on(association, request):
                    self._note_reported(request)
                else:
                    self._postpone(request, "the peer did not confirm it")
                if not association.is_established:
                    break

    def _send_on(self, association: Any, request: Kept) -> bool:
        """Send a result on an open association; return whether the peer has taken it."""
        result = self._make_result(request)
        self._metrics.count("events_total", ae_title=request.ae_title)
        try:
            answer, _ = association.send_n_event_report(
                result.content, result.event_type_id, COMMITMENT, PUSH_MODEL_INSTANCE
            )
        except Exception as error:  # noqa: BLE001 - pynetdicom raises several kinds where the peer breaks off meanwhile
            _log.warning("commitment request %d: its result was cut off (%s)", request.number, type(error).__name__)
            association.abort()
            return False
        return bool(answer.get("Status") == SUCCESS)

    @contextmanager
    def _associate(self, peer: Peer) -> Iterator[Any]:
        """Yield an association on which the edge is the SCP, and release it afterwards (PS3.4 section J.3.3.1.3)."""
        host, _, port = str(peer.reports_to).rpartition(":")
        host = host.strip("[]")  # a certificate has an IPv6 address without brackets
        ae = AE(self._settings.listen.ae_title)
        ae.implementation_class_uid, ae.implementation_version_name = IMPLEMENTATION_CLASS, IMPLEMENTATION_VERSION
        ae.connection_timeout, ae.acse_timeout = _CONNECT_SECONDS, _CONNECT_SECONDS
        ae.dimse_timeout, ae.network_timeout = _ANSWER_SECONDS, _ANSWER_SECONDS
        ae.add_requested_context(COMMITMENT, [ExplicitVRLittleEndian, ImplicitVRLittleEndian])
        association = ae.associate(
            host,
            int(port),
            ae_title=peer.ae_title,
            ext_neg=[build_role(COMMITMENT, scp_role=True)],
            tls_args=self._make_tls(peer, host),
        )
        if not association.is_established:
            raise UnreachableError("it does not accept an association at reports_to")
        guard_responses(association)
        try:
            if not association.accepted_contexts:
                raise UnreachableError("it does not accept Storage Commitment at reports_to")
            _take_unanswered_role(association)
            if not association.accepted_contexts[0].as_scp:
                raise UnreachableError("it refuses the SCP role of Storage Commitment")
            yield association
        finally:
            if association.is_established:
                association.release()

    def _make_tls(self, peer: Peer, host: str) -> tuple[ssl.SSLContext, str] | None:
        tls = self._settings.listen.tls
        if not peer.reports_tls or tls is None:
            return None
        context = ssl.create_default_context(cafile=str(tls.client_authorities))
        context.minimum_version = ssl.TLSVersion.TLSv1_2
        context.load_cert_chain(tls.certificate, tls.key)
        if tls.revocation_list is not None:
            check_revocations(context, tls.revocation_list)
        return context, host

    def _note_reported(self, request: Kept) -> None:
        self._store.note_reported(request.number)
        self._metrics.count("commitments_reported_total", ae_title=request.ae_title)
        _log.info("the result of commitment request %d was taken by %s", request.number, request.ae_title)

    def _postpone(self, request: Kept, why: str) -> None:
        since = request.decided if request.decided is not None else request.received
        if self._store.clock.now() - since > self._settings.commitment.report_days * _DAY:
            self._store.give_up(request.number)
            self._metrics.count("commitments_undelivered_total", ae_title=request.ae_title)
            _log.error(
                "the result of commitment request %d of %s is not sent any more: %s",
                request.number,
                request.ae_title,
                why,
            )
            return
        pause = min(_FIRST_PAUSE * 2 ** min(request.attempts, _DOUBLED), _LONGEST_PAUSE)
        self._store.postpone(request.number, pause)
        _log.warning(
            "the result of commitment request %d waits for %s: %s; the next try is in %.0f s",
            request.number,
            request.ae_title,
            why,
            pause,
        )


def _take_unanswered_role(association: Any) -> None:
    """Take the SCP role where the peer accepts the class and does not answer the role selection at all.

    By PS3.7 annex D.3.3.4 the default roles hold then. Peers that do so take results all the same: they have accepted a
    class of which they are only the SCU.
    """
    for context in association.accepted_contexts:
        if context.abstract_syntax not in association.acceptor.role_selection:
            context._as_scp = True  # noqa: SLF001 - pynetdicom has no other way
