"""Queue releases in the ledger's outbox, each for the routes whose rules take it.

The releases of all runs of a pipeline are matched, whatever became of their runs. A release that no route takes stays
open; when the rules change, it is matched again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic_core import from_json

from airlock.ledger.releases import MATCHED
from airlock.records import digest
from airlock.stages.releases import WRITERS, adopt_releases
from airlock.stages.subject_keys import add_subject_keys
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.pipelines import Pipeline, Route
    from airlock.run import Run

MATCHED_AT_A_TIME = 1_000


@dataclass
class Matched:
    """The numbers of releases of which something must be said."""

    overtaken: int = 0  # not queued for a destination that has a later revision
    gone: int = 0  # the workspace no longer has their contracts


def queue_releases(run: Run[Pipeline]) -> Matched:
    """Put the pipeline's open releases into the outbox, for each route that takes them; a repeat changes nothing."""
    adopt_releases(run)
    pipeline, rules, matched = run.pipeline, rules_digest(run.pipeline), Matched()
    scope = pipeline.name, pipeline.datastore_id
    while not (found := run.ledger.open_releases(*scope, rules, MATCHED_AT_A_TIME)).is_empty():
        with ThreadPoolExecutor(WRITERS) as pool:
            names = list(pool.map(lambda uri: _match(run, uri), found["payload_uri"]))
        matched.gone += names.count(None)
        matched.overtaken += _enqueue_for_routes(run, found, names)
        routes = pl.Series("routes", [len(one or ()) for one in names], MATCHED["routes"])
        run.ledger.mark_matched(*scope, rules, found.with_columns(routes).select(MATCHED.names()))
    return matched


def find_routes(pipeline: Pipeline, contract: str) -> list[Route]:
    """Return the routes that take a contract, which is given as JSON."""
    content: dict[str, Any] = from_json(contract) if _has_rules(pipeline) else {}
    others = (item for item in pipeline.routes if item.name != pipeline.default_route)
    found = [item for item in others if item.match is None or item.match.matches(content)]
    if not found:
        return [item for item in pipeline.routes if item.name == pipeline.default_route]
    return found[:1] if pipeline.routing == "first" else found


def rules_digest(pipeline: Pipeline) -> str:
    """Return a digest that differs between two sets of rules."""
    rules = [f"{item.name}={item.match and item.match.model_dump_json()}" for item in pipeline.routes]
    return digest(pipeline.routing, pipeline.default_route, *rules)


def settle_time(pipeline: Pipeline, item: Route) -> timedelta:
    """Return the time after a release in which later revisions take its place on the way to a route."""
    minutes = pipeline.settle_minutes if item.settle_minutes is None else item.settle_minutes
    return timedelta(minutes=minutes)


def _has_rules(pipeline: Pipeline) -> bool:
    return any(item.match is not None for item in pipeline.routes)


def _match(run: Run[Pipeline], uri: str) -> list[str] | None:
    """Return the names of the routes that take a contract in the workspace; None if the contract is gone.

    Contracts are large, so each is in memory only while it is matched, and is not read if no route has a rule.
    """
    try:
        contract = run.s3.get(S3Uri.parse(uri)).decode() if _has_rules(run.pipeline) else ""
    except FileNotFoundError:
        return None
    return [item.name for item in find_routes(run.pipeline, contract)]


def _enqueue_for_routes(run: Run[Pipeline], found: pl.DataFrame, names: Sequence[Sequence[str] | None]) -> int:
    """Queue each release for the routes that take it; return how many were not queued since they were overtaken."""
    pipeline, overtaken = run.pipeline, 0
    for item in pipeline.routes:
        taken = found.filter(pl.Series([item.name in (one or ()) for one in names], dtype=pl.Boolean))
        if item.clinical:
            taken = add_subject_keys(run, taken)
        for (run_key,), rows in taken.group_by(["run_key"], maintain_order=True):
            # A run releases its contracts within one task, so the latest time stands for all.
            released_at = rows.select(pl.col("released_at").max()).item()
            queued = run.ledger.enqueue(
                pipeline.name,
                str(run_key),
                item.address(pipeline.datastore_id),
                rows,
                not_before=released_at + settle_time(pipeline, item),
            )
            overtaken += queued.overtaken
    return overtaken
