"""Route: send the pipeline's releases to their destinations through the ledger's outbox.

A run's releases are in the ledger since the run was settled; route works off what is open, of all runs of the pipeline.
Each route has its own thread, so that a destination that is down or slow delays only its own messages.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airlock.ledger import MessageState
from airlock.stages.route_queue import queue_releases
from airlock.stages.route_sending import send_due_messages

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import timedelta

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
    overtaken
        Matched by this attempt and not queued: the destination has a later revision of the subject.
    gone
        Matched by this attempt in vain: the workspace no longer has their contracts.
    """

    sent: dict[str, int]
    waiting: dict[str, int]
    failed: dict[str, int]
    unrouted: int
    without_route: dict[str, int] = field(default_factory=dict)
    overtaken: int = 0
    gone: int = 0
    pause: timedelta | None = field(default=None, compare=False)  # until more messages can be sent


def route(run: Run[Pipeline], destinations: Mapping[str, Destination], *, comes_again: bool = False) -> Routed:
    """Send the releases of the pipeline that are open, and the messages that earlier attempts could not send.

    Parameters
    ----------
    run
        The run of the task; releases of other runs of its pipeline are sent too.
    destinations
        The destinations by the route's name. Messages of other routes stay in the outbox for `announce`.
    comes_again
        Whether the caller calls again after `Routed.pause`, if there is one: nothing is raised before.

    Raises
    ------
    RouteError
        If a destination did not take every contract. The other routes are served all the same.
    """
    routes = [item for item in run.pipeline.routes if item.name in destinations]
    matched = queue_releases(run)
    with ThreadPoolExecutor(max(1, len(routes))) as pool:
        done = list(pool.map(lambda item: send_due_messages(run, item, destinations[item.name]), routes))
    tries = {item.name: one for item, one in zip(routes, done, strict=True)}
    pipeline = run.pipeline
    pause = run.ledger.time_until_free(pipeline.name, [item.address(pipeline.datastore_id) for item in routes])
    routed = _count(run, tries, overtaken=matched.overtaken, gone=matched.gone, pause=pause)
    run.workspace.write_json(REPORT, {name: value for name, value in vars(routed).items() if name != "pause"})
    own = run.ledger.overdue_messages(pipeline.name, run.key)
    trouble = [text for item in routes if (text := _describe_trouble(run, item, tries[item.name], own))]
    if trouble and not (comes_again and pause):
        raise RouteError(f"Contracts were not delivered. {' '.join(trouble)}")
    return routed


def _count(run: Run[Pipeline], tries: Mapping[str, Try], **known: Any) -> Routed:
    """Return the numbers of an attempt, with the ledger's messages by route."""
    states = run.ledger.open_messages(run.pipeline.name)
    found = {item.name: states.get(item.address(run.pipeline.datastore_id), {}) for item in run.pipeline.routes}
    return Routed(
        sent={name: one.sent for name, one in tries.items()},
        waiting={name: by_state.get(MessageState.PENDING, 0) for name, by_state in found.items()},
        failed={name: by_state.get(MessageState.FAILED, 0) for name, by_state in found.items()},
        unrouted=run.ledger.count_unrouted(run.pipeline.name),
        without_route=_count_without_route(run, states),
        **known,
    )


def _count_without_route(run: Run[Pipeline], states: Mapping[str, Mapping[MessageState, int]]) -> dict[str, int]:
    known = {item.address(run.pipeline.datastore_id) for item in run.pipeline.routes}
    waits = {address: found.get(MessageState.PENDING, 0) for address, found in states.items() if address not in known}
    return {address: number for address, number in sorted(waits.items()) if number}


def _describe_trouble(run: Run[Pipeline], item: Route, one: Try, own: Mapping[str, int]) -> str | None:
    """Return the trouble of a route in counts and codes; None if there is none."""
    waits = max(own.get(item.address(run.pipeline.datastore_id), 0), one.refused.total())
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
