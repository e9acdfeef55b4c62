"""Send one route's messages from the ledger's outbox; a destination that is down stops its own route only."""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING

from airlock.destinations import DestinationError, Message
from airlock.ledger import LedgerError
from airlock.ledger.outbox import LEASE

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


def send_due_messages(run: Run[Pipeline], item: Route, destination: Destination) -> Try:
    """Send every due message once, until the destination no longer takes messages; return the counts."""
    name, address = run.pipeline.name, item.address(run.pipeline.datastore_id)
    done, since, lot = Try(), datetime.now(UTC), LOT * item.delivery.in_flight
    with _keep_leases(run, name, address):
        while not done.is_down:
            due = run.ledger.lease_due(name, address, datetime.now(UTC), lot, run.key, since=since)
            if not due:
                break
            _send_lot(run, item, destination, due, done)
    return done


@contextmanager
def _keep_leases(run: Run[Pipeline], name: str, address: str) -> Iterator[None]:
    """Renew this run's leases while messages are sent; then hand back the messages that were not tried."""
    over = Event()

    def renew() -> None:
        while not over.wait(RENEWED_EVERY):
            with suppress(LedgerError):  # the ledger may be back before the lease ends
                run.ledger.renew_leases(name, address, run.key, datetime.now(UTC))

    renewing = Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        run.ledger.return_leases(name, address, run.key)


def _send_lot(
    run: Run[Pipeline], item: Route, destination: Destination, due: Sequence[OutboxMessage], done: Try
) -> None:
    queues = defaultdict(list)
    for message in due:
        queues[message.subject_key].append(message)
    with ThreadPoolExecutor(item.delivery.in_flight) as pool:
        for _ in pool.map(lambda queue: _send_subject(run, item, destination, queue, done), queues.values()):
            pass  # raises the ledger's errors


def _send_subject(
    run: Run[Pipeline], item: Route, destination: Destination, queue: Sequence[OutboxMessage], done: Try
) -> None:
    """Send one subject's messages; a later revision waits for its earlier one."""
    for message in queue:
        if done.is_down:
            return
        error = _send_message(destination, message)
        if error is None:
            run.ledger.mark_sent(message.id, datetime.now(UTC))
        answer = _Answer() if error is None else _record_refusal(run, item.delivery, message, error)
        done.count(answer)
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


def _record_refusal(run: Run[Pipeline], delivery: Delivery, message: OutboxMessage, error: DestinationError) -> _Answer:
    """Record that a destination did not take a message: for good, or until its next attempt."""
    now = datetime.now(UTC)
    late = now - message.queued_at >= timedelta(hours=delivery.give_up_hours)
    if not error.retryable or late or message.attempts + 1 >= delivery.max_attempts:
        run.ledger.mark_given_up(message.id, error.code)
        return _Answer(error.code, given_up=True)
    wait = max(pause_seconds(delivery, message.attempts), error.retry_after or 0)
    run.ledger.mark_failed(message.id, error.code, now + timedelta(seconds=wait))
    return _Answer(error.code)


def pause_seconds(delivery: Delivery, attempts: int) -> float:
    """Return the seconds before a message's next attempt, after this many failed attempts and one more."""
    longest = min(delivery.backoff_seconds * 2.0 ** min(attempts, 64), delivery.max_backoff_seconds)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, guards nothing
