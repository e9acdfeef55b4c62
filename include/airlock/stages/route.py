"""Route: send released contracts to their destinations through the ledger's outbox.

A contract's content goes to a destination once: the outbox knows it by its digest, whatever run brings it again. Each
route is served by itself, so that a destination that is down or slow delays its own messages only.
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
    queue_contracts(run)
    with ThreadPoolExecutor(max(1, len(routes))) as pool:
        done = list(pool.map(lambda item: send_due_messages(run, item, destinations[item.name]), routes))
    tries = {item.name: one for item, one in zip(routes, done, strict=True)}
    routed = _write_report(run, tries)
    own = run.ledger.messages_by_state(run.pipeline.name, run.key)
    trouble = [text for item in routes if (text := _describe_trouble(run, item, tries[item.name], own))]
    if trouble:
        raise RouteError(f"contracts not delivered: {'; '.join(trouble)}")
    return routed


def announce(run: Run[Pipeline]) -> dict[str, list[str]]:
    """Return the subject keys that the run tells Airflow's assets of, by the asset's name, and write that it does.

    An asset's event counts only when the task that emits it succeeds: a later try of the same run tells of the same
    subjects again, and of what came since.
    """
    queue_contracts(run)
    now, whose = datetime.now(UTC), run.pipeline
    return {
        item.asset.name: run.ledger.mark_announced(whose.name, item.address(whose.datastore_id), run.key, now)
        for item in whose.routes
        if item.asset is not None
    }


def _write_report(run: Run[Pipeline], tries: Mapping[str, Try]) -> Routed:
    """Count what the ledger has by route, and write it beside the run's other reports."""
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
