"""The Storage Commitment SCP: takes requests, decides them when enough is known, and has the results sent."""

from __future__ import annotations

import logging
import sqlite3
from collections import Counter
from contextlib import ExitStack
from threading import Condition, Thread
from time import monotonic
from typing import TYPE_CHECKING, Final, Self

from airlock.storage.s3uri import S3Uri
from airlock_edge.commitment.information import PUSH_MODEL_INSTANCE, REQUEST, InformationError, decode_request
from airlock_edge.commitment.reports import Reports
from airlock_edge.commitment.store import Added, CommitmentStore, State
from airlock_edge.commitment.told import ToldReader
from airlock_edge.commitment.verdict import failure_of, is_over, judge
from airlock_edge.negotiation import COMMITMENT
from airlock_edge.services import NO_SUCH_ACTION, SUCCESS

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from airlock_edge.commitment.clock import Clock
    from airlock_edge.commitment.settings import After
    from airlock_edge.commitment.store import Kept
    from airlock_edge.metrics import Metrics
    from airlock_edge.services import ActionRequest
    from airlock_edge.settings import Edge

_log = logging.getLogger(__name__)

# Statuses of N-ACTION (PS3.7 section 10.1.4.1.10). Failure Reason 0131, duplicate Transaction UID, is not among them.
NO_SUCH_INSTANCE: Final = 0x0112
INVALID_ARGUMENT: Final = 0x0115
NO_SUCH_CLASS: Final = 0x0118
NOT_AUTHORIZED: Final = 0x0124
RESOURCE_LIMITATION: Final = 0x0213
_LONGEST_NAP = 5.0  # seconds between two looks
_SHARE = 10  # a look that takes a second is followed by ten without one
_LONGEST_REST = 60.0  # seconds: a disk that once stood still must not delay results for long
_KEEP_CLOCK_SECONDS = 60.0
_HOUR, _MINUTE, _DAY = 3600.0, 60.0, 86_400.0


def after_of(settings: Edge, ae_title: str) -> After:
    """Return what makes an instance safe for a peer."""
    peer = settings.find_peer(ae_title)
    return (peer.commitment_after if peer else None) or settings.commitment.after


def offers_commitment(settings: Edge) -> bool:
    """Return whether the edge can commit to anything: to what is durable, or by what Airlock tells."""
    durable = any(after_of(settings, peer.ae_title) == "durable" for peer in settings.peers)
    return durable or settings.commitment.queue_url is not None


class Commitments:
    """The service; a context manager.

    Parameters
    ----------
    settings
        Of the edge.
    metrics
        Its numbers.
    clock
        The clock of waiting.
    flush_rows
        Writes the rows of what was acknowledged so far, and returns whether the book has them all.
    """

    def __init__(
        self,
        settings: Edge,
        metrics: Metrics,
        clock: Clock | None = None,
        flush_rows: Callable[[], bool] = lambda: True,
    ) -> None:
        self._settings = settings
        self._metrics = metrics
        self._flush_rows = flush_rows
        self.store = CommitmentStore(settings.state, clock)
        self._reports = Reports(settings, self.store, metrics, self.wake)
        self._changed = Condition()
        self._has_news = False
        self._ending = False
        self._looked_at: tuple[int, int] | None = None
        self._due: dict[int, float] = {}  # by request: when time alone may decide it
        self._kept_clock_at = self._pruned_at = float("-inf")
        self._thread = Thread(target=self._run, name="commitments")
        self._parts = ExitStack()

    def __enter__(self) -> Self:
        commitment, destination = self._settings.commitment, self._settings.destination
        self._parts.callback(self.store.close)
        self._parts.callback(self._reports.close)
        self._thread.start()
        self._parts.callback(self._stop)
        if commitment.queue_url is not None:
            reader = ToldReader(
                commitment,
                region_name=destination.region_name,
                bucket=S3Uri.parse(destination.uri).bucket,
                store=self.store,
                metrics=self._metrics,
                note_news=self.wake,
            )
            self._parts.enter_context(reader)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._parts.close()

    def _stop(self) -> None:
        with self._changed:
            self._ending = True
            self._changed.notify_all()
        self._thread.join()

    def wake(self) -> None:
        """Say that something has changed that may decide a request, or let a result be sent."""
        with self._changed:
            self._has_news = True
            self._changed.notify_all()

    def __call__(self, request: ActionRequest) -> int:
        """Take a request; return the status, SUCCESS when it is flushed to the disk."""
        title = request.caller.ae_title
        status = self._check(request)
        if status == SUCCESS:
            status = self._take(request)
        self._metrics.count("commitment_requests_total", ae_title=title, status=f"{status:04X}")
        self.wake()
        return status

    def _check(self, request: ActionRequest) -> int:
        if request.sop_class_uid != COMMITMENT:
            return NO_SUCH_CLASS
        if request.sop_instance_uid != PUSH_MODEL_INSTANCE:
            return NO_SUCH_INSTANCE
        if request.action_type_id != REQUEST:
            return NO_SUCH_ACTION
        title = request.caller.ae_title
        if after_of(self._settings, title) != "durable" and self._settings.commitment.queue_url is None:
            _log.error(
                "a commitment request of %s is refused: what its images become is unknown without "
                "commitment.queue_url; set it, or commitment_after: durable for this peer",
                title,
            )
            return NOT_AUTHORIZED
        return SUCCESS

    def _take(self, request: ActionRequest) -> int:
        title = request.caller.ae_title
        # With store: spool a row follows its object's response: without it an older content would be the newest.
        if not self._flush_rows():
            _log.error("a commitment request of %s cannot be taken: the book does not take rows, see the disk", title)
            return RESOURCE_LIMITATION
        try:
            asked = decode_request(request.information, request.transfer_syntax)
            added = self.store.add(title, asked)
            self._reports.note_channel(title, request.channel)
        except InformationError as error:
            _log.warning("a commitment request of %s is refused: %s", title, error)
            return INVALID_ARGUMENT
        except sqlite3.Error as error:
            _log.error("a commitment request of %s cannot be written (%s)", title, error)
            return RESOURCE_LIMITATION
        if added is Added.TAKEN:
            _log.warning("a commitment request of %s is refused: its Transaction UID was used before", title)
            return INVALID_ARGUMENT
        _log.info("%s asks for commitment of %d instances (%s)", title, len(asked.references), added)
        return SUCCESS

    def _run(self) -> None:
        nap = 0.0
        while not self._wait(nap):
            begun = monotonic()
            try:
                self.look()
            except sqlite3.Error as error:
                _log.error("commitment requests cannot be looked at (%s): check the disk of the state folder", error)
                nap = _LONGEST_NAP
                continue
            nap = min(_SHARE * (monotonic() - begun), _LONGEST_REST)

    def _wait(self, least: float) -> bool:
        """Wait for news, at least some seconds and at most `_LONGEST_NAP`; return whether to end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ending, least)
            self._changed.wait_for(lambda: self._ending or self._has_news, _LONGEST_NAP)
            self._has_news = False
            return self._ending

    def look(self) -> None:
        """Decide what can be decided, and begin to send what is due."""
        version = self.store.version()  # first: what comes meanwhile is looked at the next time
        changed, self._looked_at = version != self._looked_at, version
        waiting = self.store.list_in(State.WAITING)
        if waiting and not self._flush_rows():
            waiting = []  # what they are about may have come again with other bytes
        self._due = {one.number: self._due.get(one.number, 0.0) for one in waiting}
        for request in waiting:
            if changed or self.store.clock.now() >= self._due[request.number]:
                self._decide(request)
        self._reports.send_due()
        self._note_numbers()
        self._keep_house()

    def _wait_seconds(self, ae_title: str) -> float:
        peer = self._settings.find_peer(ae_title)
        own = peer.commitment_wait_hours if peer else None
        return (self._settings.commitment.wait_hours if own is None else own) * _HOUR

    def _decide(self, request: Kept) -> None:
        after = after_of(self._settings, request.ae_title)
        verdicts = [
            judge(after, one.contents, has_other_class=one.has_other_class) for one in self.store.look(request.number)
        ]
        waited = self.store.clock.now() - request.received
        waits = self._wait_seconds(request.ae_title), self._settings.commitment.unknown_minutes * _MINUTE
        self._due[request.number] = request.received + min((one for one in waits if one > waited), default=0.0)
        if is_over(verdicts, waited, wait=waits[0], unknown_wait=waits[1]):
            self.store.decide(request.number, [failure_of(one) for one in verdicts])
            counted = ", ".join(f"{number} {one}" for one, number in sorted(Counter(verdicts).items()))
            _log.info("commitment request %d of %s is answered: %s", request.number, request.ae_title, counted)

    def _note_numbers(self) -> None:
        open_ = self.store.list_in(State.WAITING, State.DECIDED)
        for state in (State.WAITING, State.DECIDED):
            self._metrics.put("commitment_requests", sum(one.state is state for one in open_), state=state)
        oldest = min((one.received for one in open_), default=None)
        seconds = 0.0 if oldest is None else self.store.clock.now() - oldest
        self._metrics.put("commitment_oldest_seconds", seconds)

    def _keep_house(self) -> None:
        now = monotonic()
        if now - self._kept_clock_at >= _KEEP_CLOCK_SECONDS:
            self._kept_clock_at = now
            self.store.keep_clock()
        if now - self._pruned_at >= _DAY:
            self._pruned_at = now
            self.store.prune(self._settings.commitment.keep_days * _DAY)
