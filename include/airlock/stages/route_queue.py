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
    """Put what was released into the outbox, for every route that takes it; doing so twice changes nothing."""
    for contracts in run.workspace.parts("contracts", CONTRACTS):
        found = [_find_route_names(run, contract) for contract in contracts["contract"]]
        _queue_or_keep(run, _write_payloads(run, contracts), found)
    _match_unrouted(run)


def find_routes(pipeline: Pipeline, contract: str) -> list[Route]:
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


def _write_payloads(run: Run[Pipeline], contracts: pl.DataFrame) -> pl.DataFrame:
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


def _find_route_names(run: Run[Pipeline], contract: str) -> list[str]:
    return [item.name for item in find_routes(run.pipeline, contract)]


def _queue_or_keep(run: Run[Pipeline], messages: pl.DataFrame, found: Sequence[Sequence[str]]) -> None:
    rest = _enqueue_for_routes(run, messages, found)
    if run.pipeline.routes and not rest.is_empty():
        pipeline = run.pipeline
        run.ledger.keep_unrouted(pipeline.name, run.key, pipeline.datastore_id, rules_digest(pipeline), rest)


def _match_unrouted(run: Run[Pipeline]) -> None:
    """Ask about what no route took before the rules were as they are now."""
    pipeline, rules = run.pipeline, rules_digest(run.pipeline)
    whose = pipeline.name, pipeline.datastore_id
    while not (kept := run.ledger.unrouted(*whose, rules, MATCHED_AT_A_TIME)).is_empty():
        with ThreadPoolExecutor(WRITERS) as pool:
            asked = list(pool.map(lambda uri: _match_again(run, uri), kept["payload_uri"]))
        there = pl.Series([found is not None for found in asked], dtype=pl.Boolean)
        rest = _enqueue_for_routes(run, kept.filter(there), [found for found in asked if found is not None])
        run.ledger.mark_unrouted(*whose, rules, pl.concat([rest, kept.filter(~there)]))


def _match_again(run: Run[Pipeline], uri: str) -> list[str] | None:
    """Return the routes that take a contract that was kept; None where the workspace has it no more.

    Contracts are large: none stays in memory longer than its rules are asked.
    """
    try:
        return _find_route_names(run, run.s3.get(S3Uri.parse(uri)).decode())
    except FileNotFoundError:
        return None


def _enqueue_for_routes(run: Run[Pipeline], messages: pl.DataFrame, found: Sequence[Sequence[str]]) -> pl.DataFrame:
    """Queue messages for the routes that were found to take them, and return those that none does."""
    pipeline = run.pipeline
    for item in pipeline.routes:
        taken = messages.filter(pl.Series([item.name in names for names in found], dtype=pl.Boolean))
        run.ledger.enqueue(pipeline.name, run.key, item.address(pipeline.datastore_id), taken)
    none = pl.Series([not names for names in found], dtype=pl.Boolean)
    run.ledger.drop_unrouted(pipeline.name, pipeline.datastore_id, messages.filter(~none))
    return messages.filter(none)
