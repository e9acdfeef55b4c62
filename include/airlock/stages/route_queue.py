"""Queue released contracts in the ledger's outbox, each for the routes whose rules take it.

The ledger also remembers the contracts that no route takes. When the rules change, they are matched again.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import polars as pl
from pydantic_core import from_json

from airlock.destinations.s3 import contract_name
from airlock.records import CONTRACTS, digest
from airlock.storage.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airlock.pipelines import Pipeline, Route
    from airlock.run import Run

MATCHED_AT_A_TIME = 1_000  # contracts that no route took before
WRITERS = 16  # contracts written, or read again, at a time


def queue_contracts(run: Run[Pipeline]) -> None:
    """Put the run's released contracts into the outbox, for each route that takes them; a repeat changes nothing."""
    for contracts in run.workspace.parts("contracts", CONTRACTS):
        found = [_find_route_names(run, contract) for contract in contracts["contract"]]
        _queue_or_keep(run, _write_payloads(run, contracts), found)
    _match_unrouted(run)


def find_routes(pipeline: Pipeline, contract: str) -> list[Route]:
    """Return the routes that take a contract, which is given as JSON."""
    has_rules = any(item.match is not None for item in pipeline.routes)
    content: dict[str, Any] = from_json(contract) if has_rules else {}
    others = (item for item in pipeline.routes if item.name != pipeline.default_route)
    found = [item for item in others if item.match is None or item.match.matches(content)]
    if not found:
        return [item for item in pipeline.routes if item.name == pipeline.default_route]
    return found[:1] if pipeline.routing == "first" else found


def rules_digest(pipeline: Pipeline) -> str:
    """Return a digest that differs between two sets of rules."""
    rules = [f"{item.name}={item.match and item.match.model_dump_json()}" for item in pipeline.routes]
    return digest(pipeline.routing, pipeline.default_route, *rules)


def _write_payloads(run: Run[Pipeline], contracts: pl.DataFrame) -> pl.DataFrame:
    """Write each released contract to an object of its own; return the messages for the outbox."""

    def write(row: tuple[str, int, str]) -> str:
        subject_key, revision, text = row
        name = f"contracts/{contract_name(subject_key, revision)}"
        return run.workspace.write_text(name, text, "application/json")

    with ThreadPoolExecutor(WRITERS) as pool:
        addresses = list(pool.map(write, contracts.select("subject_key", "revision", "contract").iter_rows()))
    return contracts.select("subject_key", "revision", "content_digest").with_columns(
        payload_uri=pl.Series(addresses, dtype=pl.String)
    )


def _find_route_names(run: Run[Pipeline], contract: str) -> list[str]:
    return [item.name for item in find_routes(run.pipeline, contract)]


def _queue_or_keep(run: Run[Pipeline], messages: pl.DataFrame, found: Sequence[Sequence[str]]) -> None:
    rest = _enqueue_for_routes(run, messages, found)
    if run.pipeline.routes and not rest.is_empty():
        pipeline = run.pipeline
        run.ledger.record_unrouted(pipeline.name, run.key, pipeline.datastore_id, rules_digest(pipeline), rest)


def _match_unrouted(run: Run[Pipeline]) -> None:
    """Match the contracts that no route took under other rules with the present ones."""
    pipeline, rules = run.pipeline, rules_digest(run.pipeline)
    scope = pipeline.name, pipeline.datastore_id
    while not (kept := run.ledger.unrouted(*scope, rules, MATCHED_AT_A_TIME)).is_empty():
        with ThreadPoolExecutor(WRITERS) as pool:
            matched = list(pool.map(lambda uri: _match_again(run, uri), kept["payload_uri"]))
        exists = pl.Series([found is not None for found in matched], dtype=pl.Boolean)
        rest = _enqueue_for_routes(run, kept.filter(exists), [found for found in matched if found is not None])
        run.ledger.mark_unrouted(*scope, rules, pl.concat([rest, kept.filter(~exists)]))


def _match_again(run: Run[Pipeline], uri: str) -> list[str] | None:
    """Return the names of the routes that take a contract in the workspace; None if the contract is gone.

    Contracts are large, so each is in memory only while it is matched.
    """
    try:
        return _find_route_names(run, run.s3.get(S3Uri.parse(uri)).decode())
    except FileNotFoundError:
        return None


def _enqueue_for_routes(run: Run[Pipeline], messages: pl.DataFrame, found: Sequence[Sequence[str]]) -> pl.DataFrame:
    """Queue each message for the routes that take it; return the messages that no route takes."""
    pipeline = run.pipeline
    for item in pipeline.routes:
        taken = messages.filter(pl.Series([item.name in names for names in found], dtype=pl.Boolean))
        run.ledger.enqueue(pipeline.name, run.key, item.address(pipeline.datastore_id), taken)
    untaken = pl.Series([not names for names in found], dtype=pl.Boolean)
    run.ledger.drop_unrouted(pipeline.name, pipeline.datastore_id, messages.filter(~untaken))
    return messages.filter(untaken)
