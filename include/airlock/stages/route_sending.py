"""Send one route's messages from the ledger's outbox; a destination that is down stops its own route only."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, Lock, Thread
from time import monotonic
from typing import TYPE_CHECKING
from uuid import uuid4

from airlock.destinations import DestinationError, Message
from airlock.ledger import LedgerError
from airlock.ledger.outbox import LEASE
from airlock.stages.sends import Lot, begin_lot, end_lot

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.destinations import Destination
    from airlock.ledger import OutboxMessage
    from airlock.pipelines import Delivery, Pipeline, Route
    from airlock.run import Run

LOT = 16  # messages leased for each one in flight
RENEWED_EVERY = LEASE.total_seconds() / 5
DOWN_AFTER = 32  # failures in a row, after which the rest waits for the next try


@dataclass(frozen=True)
class _Answer:
    """A destination's answer to one message; without a code, the destination took it."""

    code: str | None = None
    given_up: bool = False

    @property
    def to_be_tried_again(self) -> bool:
        """Whether the message waits for its next attempt."""
        return self.code is not None and not self.given_up


@dataclass
class Try:
    """The counts of one attempt to send a route's messages."""

    sent: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # to be sent again, by code
    given_up: Counter[str] = field(default_factory=Counter)
    in_a_row: int = 0
    _lock: Lock = field(default_factory=Lock)

    @property
    def is_down(self) -> bool:
        """Whether the destination no longer takes messages."""
        return self.in_a_row >= DOWN_AFTER

    def count(self, answer: _Answer) -> None:
        """Add an answer; any thread may call this."""
        with self._lock:
            self.in_a_row = self.in_a_row + 1 if answer.code is not None else 0
            if answer.code is None:
                self.sent += 1
            elif answer.given_up:
                self.given_up[answer.code] += 1
            else:
                self.refused[answer.code] += 1


@dataclass
class _Sender:
    """One try to send a route's messages, which has leases of its own: Airflow may have lost a try that still sends."""

    run: Run[Pipeline]
    item: Route
    destination: Destination
    done: Try = field(default_factory=Try)
    renewed_at: float = field(default_factory=monotonic)

    def __post_init__(self) -> None:
        self.owner = f"{self.run.key}/{uuid4().hex[:12]}"
        self.address = self.item.address(self.run.pipeline.datastore_id)

    @property
    def may_send(self) -> bool:
        """Whether the destination takes messages and the leases hold; they end while a process is stopped."""
        return not self.done.is_down and monotonic() - self.renewed_at < LEASE.total_seconds()

    def lease(self, since: datetime) -> list[OutboxMessage]:
        """Lease the next messages."""
        self.renewed_at = monotonic()
        lot = LOT * self.item.delivery.in_flight
        return self.run.ledger.lease_due(self.run.pipeline.name, self.address, lot, self.owner, since=since)

    def renew(self) -> None:
        """Renew all leases."""
        began = monotonic()
        with suppress(LedgerError):  # the ledger may be back before the lease ends
            self.run.ledger.renew_leases(self.run.pipeline.name, self.address, self.owner)
            self.renewed_at = began


def send_due_messages(run: Run[Pipeline], item: Route, destination: Destination) -> Try:
    """Send every due message once, until the destination no longer takes messages; return the counts."""
    sender, since = _Sender(run, item, destination), run.ledger.clock()
    with _keep_leases(sender):
        while not sender.done.is_down:
            due = sender.lease(since)
            if not due:
                break
            _send_lot(sender, due)
    return sender.done


@contextmanager
def _keep_leases(sender: _Sender) -> Iterator[None]:
    """Renew the leases while messages are sent; then hand back the messages that were not tried."""
    over = Event()

    def renew() -> None:
        while not over.wait(RENEWED_EVERY):
            sender.renew()

    renewing = Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        sender.run.ledger.return_leases(sender.run.pipeline.name, sender.address, sender.owner)


def _send_lot(sender: _Sender, due: Sequence[OutboxMessage]) -> None:
    queues = defaultdict(list)
    for message in due:
        queues[message.subject_key].append(message)
    lot = begin_lot(sender.run, sender.item, due)
    with ThreadPoolExecutor(sender.item.delivery.in_flight) as pool:
        for _ in pool.map(lambda queue: _send_subject(sender, queue, lot), queues.values()):
            pass  # raises the ledger's errors
    end_lot(sender.run, lot)


def _send_subject(sender: _Sender, queue: Sequence[OutboxMessage], lot: Lot) -> None:
    """Send one subject's messages; a later revision waits for its earlier one."""
    for message in queue:
        if not sender.may_send:
            return
        error = _send_message(sender.destination, message)
        if error is None:
            sender.run.ledger.mark_sent(message.id)
            lot.add_sent(message)
        answer = _Answer() if error is None else _record_refusal(sender, message, error)
        if answer.code is not None:
            lot.add_refused(message, answer.code, given_up=answer.given_up)
        sender.done.count(answer)
        if answer.to_be_tried_again:
            return


def _send_message(destination: Destination, message: OutboxMessage) -> DestinationError | None:
    """Return a destination's error; an unforeseen exception counts as an error of this message, not of the route."""
    try:
        destination.send(Message.of(message))
    except DestinationError as error:
        return error
    except LedgerError:
        raise
    except Exception as error:  # noqa: BLE001  # its text may name a patient
        return DestinationError(f"unexpected_{type(error).__name__}", retryable=True)
    return None


def _record_refusal(sender: _Sender, message: OutboxMessage, error: DestinationError) -> _Answer:
    """Record that a destination did not take a message: for good, or until its next attempt."""
    ledger, delivery = sender.run.ledger, sender.item.delivery
    late = datetime.now(UTC) - message.queued_at >= timedelta(hours=delivery.give_up_hours)
    if not error.retryable or late or message.attempts + 1 >= delivery.max_attempts:
        ledger.mark_given_up(message.id, error.code, sender.owner)
        return _Answer(error.code, given_up=True)
    wait = max(pause_seconds(delivery, message.attempts), error.retry_after or 0)
    ledger.mark_failed(message.id, error.code, timedelta(seconds=wait), sender.owner)
    return _Answer(error.code)


def pause_seconds(delivery: Delivery, attempts: int) -> float:
    """Return the seconds before a message's next attempt, after this many failed attempts and one more."""
    longest = min(delivery.backoff_seconds * 2.0 ** min(attempts, 64), delivery.max_backoff_seconds)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, guards nothing
