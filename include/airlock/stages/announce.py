"""Announce: choose the subjects of which Airflow's assets are told, chunk by chunk, and mark them as sent afterwards.

An asset event counts only if the task that emits it succeeds. Therefore a first task collects the chunks, one mapped
task per chunk emits its events, and a last task marks the chunks as sent whose tasks have succeeded. What is lost
between the two is announced again: an event may come twice, but never not at all.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from datetime import timedelta
from typing import TYPE_CHECKING

import polars as pl

from airlock.stages.route_queue import queue_releases
from airlock.stages.sends import begin_lot, name_message, note_announced

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airlock.ledger import OutboxMessage
    from airlock.pipelines import Pipeline, Route
    from airlock.run import Run

CHUNK = 500  # subjects; Airflow writes the events of a task in one request, in about 4 ms each
MOST_CHUNKS = 1_000  # mapped tasks; Airflow's default limit is 1,024
LEASE = timedelta(minutes=15)  # in which no other run announces the same; the tasks usually take seconds
_FOLDER = "announce"


@dataclass(frozen=True)
class Chunk:
    """Subjects of which one asset is told by one task."""

    name: str
    asset: str
    address: str
    subject_keys: list[str]
    message_ids: list[int]
    lot: str = ""  # of `airlock.stages.sends`
    messages: list[str] = field(default_factory=list)  # their names in the lot


@dataclass(frozen=True)
class Collected:
    """The chunks to announce now, and the time until more messages have settled."""

    chunks: list[str]
    pause: timedelta | None


def collect(run: Run[Pipeline]) -> Collected:
    """Write what the assets of the pipeline's routes are to be told of as chunks; return the chunks' names.

    What earlier runs of the pipeline released and did not announce is included. A repeat collects the same again.
    """
    queue_releases(run)
    pipeline = run.pipeline
    routes = [item for item in pipeline.routes if item.asset is not None]
    names: list[str] = []
    for item in routes:
        address = item.address(pipeline.datastore_id)
        most = CHUNK * (MOST_CHUNKS - len(names))
        found = run.ledger.lease_due(pipeline.name, address, most, f"{run.key}/announce", lease=LEASE) if most else []
        for chunk in _split(run, item, address, found, len(names)):
            run.workspace.write_json(f"{_FOLDER}/{chunk.name}.json", vars(chunk))
            names.append(chunk.name)
    addresses = [item.address(pipeline.datastore_id) for item in routes]
    return Collected(names, run.ledger.time_until_free(pipeline.name, addresses, leased=False))


def _split(
    run: Run[Pipeline], item: Route, address: str, found: Sequence[OutboxMessage], first: int
) -> Iterator[Chunk]:
    """Yield chunks with all messages of their subjects, which are noted as about to be sent."""
    if item.asset is None:
        return
    by_id = {one.id: one for one in found}
    rows = pl.DataFrame([(one.subject_key, one.id) for one in found], ["subject_key", "id"], orient="row")
    subjects = rows.group_by("subject_key", maintain_order=True).agg("id") if found else pl.DataFrame()
    for number, part in enumerate(subjects.iter_slices(CHUNK), first):
        keys, ids = part["subject_key"].to_list(), part["id"].explode().to_list()
        messages = [by_id[one] for one in ids]
        lot = begin_lot(run, item, messages).name
        names = [name_message(one) for one in messages]
        yield Chunk(f"{number:04}", item.asset.name, address, keys, ids, lot, names)


def read_chunk(run: Run[Pipeline], name: str) -> Chunk:
    """Return a chunk that `collect` has written."""
    return Chunk(**json.loads(run.s3.get(run.workspace.root.join(_FOLDER, f"{name}.json"))))


def mark_announced(run: Run[Pipeline], names: Iterable[str]) -> dict[str, int]:
    """Mark chunks as sent; return the number of announced subjects by asset."""
    announced: dict[str, int] = {}
    for name in names:
        chunk = read_chunk(run, name)
        run.ledger.mark_all_sent(run.pipeline.name, chunk.address, pl.Series(chunk.message_ids, dtype=pl.Int64))
        if chunk.lot:
            note_announced(run, chunk.lot, chunk.messages)
        announced[chunk.asset] = announced.get(chunk.asset, 0) + len(chunk.subject_keys)
    return announced
