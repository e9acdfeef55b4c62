"""Route: hand released contracts to their destinations through the ledger's outbox.

A contract's content goes to a destination once: the outbox knows it by its digest, whatever run brings it again. Each
data store has a folder of its own below a route's prefix.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import polars as pl
from botocore.exceptions import BotoCoreError, ClientError

from airlock.records import CONTRACTS
from airlock.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.ledger import OutboxMessage
    from airlock.pipelines import Pipeline, Route
    from airlock.run import Run
    from airlock.s3 import S3

DUE_AT_A_TIME = 1_000
IN_FLIGHT = 16  # objects written at a time


class RouteError(RuntimeError):
    """A destination did not take every contract; the outbox keeps the rest for the next try."""


def route(run: Run[Pipeline], destinations: Mapping[str, S3]) -> dict[str, int]:
    """Send what was released, and what earlier tries could not send.

    Parameters
    ----------
    run
        The run whose contracts are added.
    destinations
        S3 by the route's name.

    Returns
    -------
    dict
        Contracts sent now, by the route's name.

    Raises
    ------
    RouteError
        If a destination failed; the others are served all the same.
    """
    for contracts in run.workspace.parts("contracts", CONTRACTS):
        messages = _payloads(run, contracts)
        for item in run.pipeline.routes:
            run.ledger.enqueue(run.pipeline.name, run.key, str(address(run, item)), messages)
    sent, failed = {}, {}
    for item in run.pipeline.routes:
        sent[item.name], failed[item.name] = _deliver(run, item, destinations[item.name])
    if any(failed.values()):
        waiting = ", ".join(f"{number} to {name}" for name, number in failed.items() if number)
        raise RouteError(f"contracts not delivered: {waiting}; they stay in the outbox and the next try sends them")
    return sent


def address(run: Run[Pipeline], item: Route) -> S3Uri:
    """Return the folder that a run's contracts go to by a route; the outbox knows the destination by it."""
    return S3Uri.parse(item.address(run.pipeline.datastore_id))


def _payloads(run: Run[Pipeline], contracts: pl.DataFrame) -> pl.DataFrame:
    """Write each released contract as an object of its own and return the outbox's messages."""

    def write(row: tuple[str, int, str]) -> str:
        subject_key, revision, text = row
        return run.workspace.write_text(f"contracts/{_name(subject_key, revision)}", text, "application/json")

    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        addresses = list(pool.map(write, contracts.select("subject_key", "revision", "contract").iter_rows()))
    return contracts.select("subject_key", "revision", "content_digest").with_columns(
        payload_uri=pl.Series(addresses, dtype=pl.String)
    )


def _deliver(run: Run[Pipeline], destination: Route, target: S3) -> tuple[int, int]:
    """Send every due message once; return how many went and how many did not."""
    sent = failed = 0
    moment = datetime.now(UTC)
    with ThreadPoolExecutor(IN_FLIGHT) as pool:
        while messages := run.ledger.due(
            run.pipeline.name, str(address(run, destination)), moment, DUE_AT_A_TIME, run.key
        ):
            errors = pool.map(lambda message: _error_of(run, destination, target, message), messages)
            for message, error in zip(messages, errors, strict=True):
                if error is None:
                    run.ledger.mark_sent(message.id, datetime.now(UTC))
                    sent += 1
                else:
                    # Not due again within this try; Airflow's retry delay is the pause.
                    run.ledger.mark_failed(message.id, error, datetime.now(UTC))
                    failed += 1
    return sent, failed


def _error_of(run: Run[Pipeline], destination: Route, target: S3, message: OutboxMessage) -> str | None:
    try:
        _put(run, destination, target, message)
    except (ClientError, BotoCoreError, FileNotFoundError) as error:
        return type(error).__name__
    return None


def _put(run: Run[Pipeline], destination: Route, target: S3, message: OutboxMessage) -> None:
    payload = run.s3.get(S3Uri.parse(message.payload_uri))
    where = address(run, destination).join(_name(message.subject_key, message.revision))
    target.put(where, payload, "application/json")


def _name(subject_key: str, revision: int) -> str:
    """Return a contract's key below a prefix; a message that still waits must find its own revision there."""
    return f"{subject_key}/revision-{revision:06}.json"
