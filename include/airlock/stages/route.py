"""Route: send released contracts to their destinations through the ledger's outbox.

A destination gets the content of a contract once: the outbox identifies it by its digest, whichever run brings it
again. Each route has its own thread, so that a destination that is down or slow delays only its own messages.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from airlock.ledger import MessageState
from airlock.stages.route_queue import queue_contracts
from airlock.stages.route_sending import send_due_messages

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.destinations import Destination
    from airlock.pipelines import Pipeline, Route
    from airlock.run import Run
    from airlock.stages.route_sending import Try

REPORT = "routing.json"


class RouteError(RuntimeError):
    """A destination did not take every contract; the rest stays in the outbox."""


@dataclass(frozen=True)
class Routed:
    """The numbers of contracts after an attempt to send them, by the route's name.

    Parameters
    ----------
    sent
        Sent by this attempt.
    waiting
        Waiting in the outbox, from this run and earlier ones.
    failed
        Given up, from this run and earlier ones, until somebody requeues them.
    unrouted
        The number of subjects of the pipeline that no route takes.
    without_route
        Waiting in the outbox, by destination, for a route that the pipeline no longer has: nobody sends them.
    """

    sent: dict[str, int]
    waiting: dict[str, int]
    failed: dict[str, int]
    unrouted: int
    without_route: dict[str, int] = field(default_factory=dict)


def route(run: Run[Pipeline], destinations: Mapping[str, Destination]) -> Routed:
    """Send the run's released contracts, and those that earlier attempts could not send.

    Parameters
    ----------
    run
        The run whose contracts are queued first.
    destinations
        The destinations by the route's name. Messages of other routes stay in the outbox for `announce`.

    Raises
    ------
    RouteError
        If a destination did not take every contract. The other routes are served all the same.
    """
    routes = [item for item in run.pipeline.routes if item.name in destinations]
    queue_contracts(run)
    with ThreadPoolExecutor(max(1, len(routes))) as pool:
        done = list(pool.map(lambda item: send_due_messages(run, item, destinations[item.name]), routes))
    tries = {item.name: one for item, one in zip(routes, done, strict=True)}
    routed = _write_report(run, tries)
    own = run.ledger.messages_by_state(run.pipeline.name, run.key)
    trouble = [text for item in routes if (text := _describe_trouble(run, item, tries[item.name], own))]
    if trouble:
        raise RouteError(f"Contracts were not delivered. {' '.join(trouble)}")
    return routed


def announce(run: Run[Pipeline]) -> dict[str, list[str]]:
    """Return the subject keys to announce to Airflow's assets, by the asset's name, and record them in the ledger.

    An asset event counts only if the task that emits it succeeds. A retry of the same run therefore announces the same
    subjects again, and those released since.
    """
    queue_contracts(run)
    now, pipeline = datetime.now(UTC), run.pipeline
    return {
        item.asset.name: run.ledger.mark_announced(pipeline.name, item.address(pipeline.datastore_id), run.key, now)
        for item in pipeline.routes
        if item.asset is not None
    }


def _write_report(run: Run[Pipeline], tries: Mapping[str, Try]) -> Routed:
    """Count the ledger's messages by route, and write the numbers to routing.json."""
    states = run.ledger.messages_by_state(run.pipeline.name)
    found = {item.name: states.get(item.address(run.pipeline.datastore_id), {}) for item in run.pipeline.routes}
    routed = Routed(
        sent={name: one.sent for name, one in tries.items()},
        waiting={name: by_state.get(MessageState.PENDING, 0) for name, by_state in found.items()},
        failed={name: by_state.get(MessageState.FAILED, 0) for name, by_state in found.items()},
        unrouted=run.ledger.count_unrouted(run.pipeline.name),
        without_route=_count_without_route(run, states),
    )
    run.workspace.write_json(REPORT, vars(routed))
    return routed


def _count_without_route(run: Run[Pipeline], states: Mapping[str, Mapping[MessageState, int]]) -> dict[str, int]:
    known = {item.address(run.pipeline.datastore_id) for item in run.pipeline.routes}
    waits = {address: found.get(MessageState.PENDING, 0) for address, found in states.items() if address not in known}
    return {address: number for address, number in sorted(waits.items()) if number}


def _describe_trouble(
    run: Run[Pipeline], item: Route, one: Try, own: Mapping[str, Mapping[MessageState, int]]
) -> str | None:
    """Return the trouble of a route in counts and codes; None if there is none."""
    waits = own.get(item.address(run.pipeline.datastore_id), {}).get(MessageState.PENDING, 0)
    waits = max(waits, one.refused.total())
    said = []
    if waits:
        codes = f" ({', '.join(sorted(one.refused))})" if one.refused else ""
        said.append(f"{item.name}: {waits} in the outbox{codes}; the next try sends them.")
    if one.given_up:
        codes = ", ".join(sorted(one.given_up))
        said.append(
            f"{item.name}: gave up {one.given_up.total()} ({codes}); fix the cause and requeue them, see "
            f"docs/routing.md."
        )
    return " ".join(said) or None
