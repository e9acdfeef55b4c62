"""Route: hand released contracts to their destinations through the ledger's outbox.

A contract's content goes to a destination once: the outbox knows it by its digest, whatever run brings it again. What
no route takes is kept in sight, and asked about again when the rules have changed. Each route is served by itself, so
that a destination that is down or slow delays its own messages only.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from threading import Event, Lock, Thread
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic_core import from_json

from airlock.destinations import DestinationError, Message
from airlock.destinations.s3 import contract_name
from airlock.ledger import LedgerError, MessageState
from airlock.ledger.outbox import LEASE
from airlock.records import CONTRACTS, digest
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from airlock.destinations import Destination
    from airlock.ledger import OutboxMessage
    from airlock.pipelines import Delivery, Pipeline, Route
    from airlock.run import Run

ASKED_AT_A_TIME = 1_000  # contracts that no route took before
LOT = 16  # messages leased for each that is on its way
RENEWED_EVERY = LEASE.total_seconds() / 5
WRITERS = 16  # contracts written, or read again, at a time
DOWN_AFTER = 32  # failures in a row: the rest waits for the next try instead of running into the same wall
REPORT = "routing.json"


class RouteError(RuntimeError):
    """A destination did not take every contract; the outbox keeps the rest."""


@dataclass(frozen=True)
class Routed:
    """What became of contracts, by the route's name.

    Parameters
    ----------
    sent
        By this try.
    waiting
        In the outbox, of this run and earlier ones.
    failed
        Given up, of this run and earlier ones, until they are requeued.
    unrouted
        Subjects of the pipeline that no route takes.
    without_route
        In the outbox, by destination, where no route of the pipeline leads any more: nobody sends them.
    """

    sent: dict[str, int]
    waiting: dict[str, int]
    failed: dict[str, int]
    unrouted: int
    without_route: dict[str, int] = field(default_factory=dict)


def route(run: Run[Pipeline], destinations: Mapping[str, Destination]) -> Routed:
    """Send what was released, and what earlier tries could not send.

    Parameters
    ----------
    run
        The run whose contracts are added.
    destinations
        By the route's name; the messages of a route without one stay in the outbox for `announce`.

    Raises
    ------
    RouteError
        If a destination failed; the others are served all the same.
    """
    routes = [item for item in run.pipeline.routes if item.name in destinations]
    queue(run)
    with ThreadPoolExecutor(max(1, len(routes))) as pool:
        done = list(pool.map(lambda item: _deliver(run, item, destinations[item.name]), routes))
    tries = {item.name: one for item, one in zip(routes, done, strict=True)}
    routed = _report(run, tries)
    own = run.ledger.messages_by_state(run.pipeline.name, run.key)
    trouble = [text for item in routes if (text := _trouble(run, item, tries[item.name], own))]
    if trouble:
        raise RouteError(f"contracts not delivered: {'; '.join(trouble)}")
    return routed


def queue(run: Run[Pipeline]) -> None:
    """Put what was released into the outbox, for every route that takes it; doing so twice changes nothing."""
    for contracts in run.workspace.parts("contracts", CONTRACTS):
        found = [_names(run, contract) for contract in contracts["contract"]]
        _enqueue(run, _payloads(run, contracts), found)
    _ask_again(run)


def announce(run: Run[Pipeline]) -> dict[str, list[str]]:
    """Return the subject keys that the run tells Airflow's assets of, by the asset's name, and write that it does.

    An asset's event counts only when the task that emits it succeeds: a later try of the same run tells of the same
    subjects again, and of what came since.
    """
    queue(run)
    now, whose = datetime.now(UTC), run.pipeline
    return {
        item.asset.name: run.ledger.announce(whose.name, item.address(whose.datastore_id), run.key, now)
        for item in whose.routes
        if item.asset is not None
    }


# Which routes


def takers(pipeline: Pipeline, contract: str) -> list[Route]:
    """Return the routes that take a contract, given as JSON."""
    ruled = any(item.match is not None for item in pipeline.routes)
    content: dict[str, Any] = from_json(contract) if ruled else {}
    others = (item for item in pipeline.routes if item.name != pipeline.default_route)
    found = [item for item in others if item.match is None or item.match.matches(content)]
    if not found:
        return [item for item in pipeline.routes if item.name == pipeline.default_route]
    return found[:1] if pipeline.routing == "first" else found


def rules_digest(pipeline: Pipeline) -> str:
    """Return what tells two sets of rules apart."""
    rules = [f"{item.name}={item.match and item.match.model_dump_json()}" for item in pipeline.routes]
    return digest(pipeline.routing, pipeline.default_route, *rules)


def _payloads(run: Run[Pipeline], contracts: pl.DataFrame) -> pl.DataFrame:
    """Write each released contract as an object of its own and return the outbox's messages."""

    def write(row: tuple[str, int, str]) -> str:
        subject_key, revision, text = row
        name = f"contracts/{contract_name(subject_key, revision)}"
        return run.workspace.write_text(name, text, "application/json")

    with ThreadPoolExecutor(WRITERS) as pool:
        addresses = list(pool.map(write, contracts.select("subject_key", "revision", "contract").iter_rows()))
    return contracts.select("subject_key", "revision", "content_digest").with_columns(
        payload_uri=pl.Series(addresses, dtype=pl.String)
    )


def _names(run: Run[Pipeline], contract: str) -> list[str]:
    return [item.name for item in takers(run.pipeline, contract)]


def _enqueue(run: Run[Pipeline], messages: pl.DataFrame, found: Sequence[Sequence[str]]) -> None:
    rest = _to_routes(run, messages, found)
    if run.pipeline.routes and not rest.is_empty():
        pipeline = run.pipeline
        run.ledger.keep_unrouted(pipeline.name, run.key, pipeline.datastore_id, rules_digest(pipeline), rest)


def _ask_again(run: Run[Pipeline]) -> None:
    """Ask about what no route took before the rules were as they are now."""
    pipeline, rules = run.pipeline, rules_digest(run.pipeline)
    whose = pipeline.name, pipeline.datastore_id
    while not (kept := run.ledger.unrouted(*whose, rules, ASKED_AT_A_TIME)).is_empty():
        with ThreadPoolExecutor(WRITERS) as pool:
            asked = list(pool.map(lambda uri: _asked(run, uri), kept["payload_uri"]))
        there = pl.Series([found is not None for found in asked], dtype=pl.Boolean)
        rest = _to_routes(run, kept.filter(there), [found for found in asked if found is not None])
        run.ledger.mark_unrouted(*whose, rules, pl.concat([rest, kept.filter(~there)]))


def _asked(run: Run[Pipeline], uri: str) -> list[str] | None:
    """Return the routes that take a contract that was kept; None where the workspace has it no more.

    Contracts are large: none stays in memory longer than its rules are asked.
    """
    try:
        return _names(run, run.s3.get(S3Uri.parse(uri)).decode())
    except FileNotFoundError:
        return None


def _to_routes(run: Run[Pipeline], messages: pl.DataFrame, found: Sequence[Sequence[str]]) -> pl.DataFrame:
    """Queue messages for the routes that were found to take them, and return those that none does."""
    pipeline = run.pipeline
    for item in pipeline.routes:
        taken = messages.filter(pl.Series([item.name in names for names in found], dtype=pl.Boolean))
        run.ledger.enqueue(pipeline.name, run.key, item.address(pipeline.datastore_id), taken)
    none = pl.Series([not names for names in found], dtype=pl.Boolean)
    run.ledger.drop_unrouted(pipeline.name, pipeline.datastore_id, messages.filter(~none))
    return messages.filter(none)


# Sending


@dataclass(frozen=True)
class _Answer:
    """What a destination said to one message: nothing where it took it."""

    code: str | None = None
    given_up: bool = False

    @property
    def to_be_tried_again(self) -> bool:
        """Whether the message waits for its next attempt."""
        return self.code is not None and not self.given_up


@dataclass
class _Try:
    """What this try did for one route."""

    sent: int = 0
    refused: Counter[str] = field(default_factory=Counter)  # to be sent again, by code
    given_up: Counter[str] = field(default_factory=Counter)
    in_a_row: int = 0
    _lock: Lock = field(default_factory=Lock)

    @property
    def is_down(self) -> bool:
        """Whether the destination takes nothing any more."""
        return self.in_a_row >= DOWN_AFTER

    def count(self, answer: _Answer) -> None:
        """Add an answer, in whatever thread it came."""
        with self._lock:
            self.in_a_row = self.in_a_row + 1 if answer.code is not None else 0
            if answer.code is None:
                self.sent += 1
            elif answer.given_up:
                self.given_up[answer.code] += 1
            else:
                self.refused[answer.code] += 1


def _deliver(run: Run[Pipeline], item: Route, destination: Destination) -> _Try:
    """Send every due message once; stop where the destination takes nothing any more."""
    name, address = run.pipeline.name, item.address(run.pipeline.datastore_id)
    done, since, lot = _Try(), datetime.now(UTC), LOT * item.delivery.in_flight
    with _leases(run, name, address):
        while not done.is_down:
            due = run.ledger.due(name, address, datetime.now(UTC), lot, run.key, since=since)
            if not due:
                break
            _send_lot(run, item, destination, due, done)
    return done


@contextmanager
def _leases(run: Run[Pipeline], name: str, address: str) -> Iterator[None]:
    """Keep what this run has leased from every other run, and hand back in the end what was not tried."""
    over = Event()

    def renew() -> None:
        while not over.wait(RENEWED_EVERY):
            with suppress(LedgerError):  # a ledger that is away now may be back before the lease ends
                run.ledger.renew(name, address, run.key, datetime.now(UTC))

    renewing = Thread(target=renew, daemon=True)
    renewing.start()
    try:
        yield
    finally:
        over.set()
        renewing.join()
        run.ledger.hand_back(name, address, run.key)


def _send_lot(
    run: Run[Pipeline], item: Route, destination: Destination, due: Sequence[OutboxMessage], done: _Try
) -> None:
    queues = defaultdict(list)
    for message in due:
        queues[message.subject_key].append(message)
    with ThreadPoolExecutor(item.delivery.in_flight) as pool:
        for _ in pool.map(lambda queue: _send(run, item, destination, queue, done), queues.values()):
            pass  # the ledger's errors come out here


def _send(
    run: Run[Pipeline], item: Route, destination: Destination, queue: Sequence[OutboxMessage], done: _Try
) -> None:
    """Send one subject's messages; a later revision waits for its earlier one."""
    for message in queue:
        if done.is_down:
            return
        error = _hand_over(destination, message)
        if error is None:
            run.ledger.mark_sent(message.id, datetime.now(UTC))
        answer = _Answer() if error is None else _not_taken(run, item.delivery, message, error)
        done.count(answer)
        if answer.to_be_tried_again:
            return


def _hand_over(destination: Destination, message: OutboxMessage) -> DestinationError | None:
    """Return why a destination did not take a message; what nobody foresaw costs its own message, not the route."""
    try:
        destination.send(Message.of(message))
    except DestinationError as error:
        return error
    except LedgerError:
        raise
    except Exception as error:  # noqa: BLE001  # its text may name a patient
        return DestinationError(f"unexpected_{type(error).__name__}", retryable=True)
    return None


def _not_taken(run: Run[Pipeline], delivery: Delivery, message: OutboxMessage, error: DestinationError) -> _Answer:
    """Write that a destination did not take a message: for good, or until its next attempt."""
    now = datetime.now(UTC)
    late = now - message.queued_at >= timedelta(hours=delivery.give_up_hours)
    if not error.retryable or late or message.attempts + 1 >= delivery.max_attempts:
        run.ledger.give_up(message.id, error.code)
        return _Answer(error.code, given_up=True)
    wait = max(pause(delivery, message.attempts), error.retry_after or 0)
    run.ledger.mark_failed(message.id, error.code, now + timedelta(seconds=wait))
    return _Answer(error.code)


def pause(delivery: Delivery, attempts: int) -> float:
    """Return the seconds before a message's next attempt, after so many and one more that failed."""
    longest = min(delivery.backoff_seconds * 2.0 ** min(attempts, 64), delivery.max_backoff_seconds)
    return longest * random.uniform(0.5, 1.0)  # noqa: S311  # spreads load, guards nothing


# What became of it


def _report(run: Run[Pipeline], tries: Mapping[str, _Try]) -> Routed:
    """Count what the ledger has by route, and write it beside the run's other reports."""
    states = run.ledger.messages_by_state(run.pipeline.name)
    found = {item.name: states.get(item.address(run.pipeline.datastore_id), {}) for item in run.pipeline.routes}
    routed = Routed(
        sent={name: one.sent for name, one in tries.items()},
        waiting={name: by_state.get(MessageState.PENDING, 0) for name, by_state in found.items()},
        failed={name: by_state.get(MessageState.FAILED, 0) for name, by_state in found.items()},
        unrouted=run.ledger.count_unrouted(run.pipeline.name),
        without_route=_without_route(run, states),
    )
    run.workspace.write_json(REPORT, vars(routed))
    return routed


def _without_route(run: Run[Pipeline], states: Mapping[str, Mapping[MessageState, int]]) -> dict[str, int]:
    known = {item.address(run.pipeline.datastore_id) for item in run.pipeline.routes}
    waits = {address: found.get(MessageState.PENDING, 0) for address, found in states.items() if address not in known}
    return {address: number for address, number in sorted(waits.items()) if number}


def _trouble(run: Run[Pipeline], item: Route, one: _Try, own: Mapping[str, Mapping[MessageState, int]]) -> str | None:
    """Say what is wrong with a route, in counts and codes."""
    waits = own.get(item.address(run.pipeline.datastore_id), {}).get(MessageState.PENDING, 0)
    waits = max(waits, one.refused.total())
    said = []
    if waits:
        codes = f" ({', '.join(sorted(one.refused))})" if one.refused else ""
        said.append(f"{waits} to {item.name}{codes}; they stay in the outbox and the next try sends them")
    if one.given_up:
        codes = ", ".join(sorted(one.given_up))
        said.append(
            f"{one.given_up.total()} to {item.name} given up ({codes}); cure the cause and requeue them, see "
            f"docs/routing.md"
        )
    return "; ".join(said) or None
