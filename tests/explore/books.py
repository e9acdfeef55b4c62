"""What the ledger's tables hold at one moment, read on a connection of its own; nothing is written."""

from __future__ import annotations

import json
import sqlite3
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airlock.ledger import tables
from airlock.ledger.generations import next_generation
from airlock.records import study_key

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from tests.explore.memory_s3 import MemoryS3

RELEASED = "releases" if hasattr(tables, "releases") else "unrouted"  # the table of released contracts
STOPPED = frozenset({"quarantined", "failed"})


@dataclass(frozen=True)
class ArrivalRow:
    """An arrival with its latest word."""

    arrival_id: str
    pipeline: str
    key: str
    etag: str
    last_modified: str
    run_key: str
    disposition: str | None
    reason: str | None
    successor: str | None
    sop: str | None


@dataclass(frozen=True)
class Queued:
    """A released contract that is queued, or is kept for the routes' next rules."""

    pipeline: str
    subject_key: str
    revision: int
    digest: str
    payload_uri: str
    destination: str | None
    state: str | None
    number: int  # in the order of queueing


@dataclass(frozen=True)
class ParkedRow:
    """A parked resource, and one that it waits for, by their references."""

    pipeline: str
    resource: str
    target: str
    body_uri: str
    due: int | None
    taken_as: str | None
    is_known: bool  # whether the target is in the data store


@dataclass
class Books:
    """The state of the books."""

    arrivals: list[ArrivalRow] = field(default_factory=list)
    queued: list[Queued] = field(default_factory=list)
    contracts: dict[str, tuple[int, str]] = field(default_factory=dict)  # revision and JSON by subject_key

    def newest_queued(self) -> dict[str, Queued]:
        """Return the queued contract of the highest revision, by subject key."""
        found: dict[str, Queued] = {}
        for one in self.queued:
            if one.subject_key not in found or one.revision > found[one.subject_key].revision:
                found[one.subject_key] = one
        return found

    def by_generation(self) -> list[ArrivalRow]:
        """Return the arrivals, those of one content in the order of its generations."""
        before = {next_generation(row.arrival_id): row.arrival_id for row in self.arrivals}

        def count_before(arrival_id: str | None) -> int:
            return 0 if arrival_id is None else 1 + count_before(before.get(arrival_id))

        return sorted(self.arrivals, key=lambda row: count_before(row.arrival_id))


class Reader:
    """Reads the books.

    Parameters
    ----------
    execute
        Runs a statement and returns its rows.
    """

    def __init__(self, execute: Callable[[str], Iterable[Any]]) -> None:
        self._execute = execute
        self._kept = RELEASED

    def read(self) -> Books:
        """Return the present state."""
        return Books(self._read_arrivals(), self._read_queued(), self._read_contracts())

    def read_parked(self) -> list[ParkedRow]:
        """Return the parked resources."""
        known = (
            "EXISTS (SELECT 1 FROM resources r WHERE r.resource_id = waits_for_id AND r.resource_type = waits_for_type "
            "AND r.datastore_id = parked.datastore_id AND r.content_digest IS NOT NULL)"
        )
        names = "resource_type || '/' || resource_id, waits_for_type || '/' || waits_for_id"
        columns = f"pipeline, {names}, body_uri, due, taken_as, {known}"
        rows = self._execute(f"SELECT {columns} FROM parked")  # our own names
        return [ParkedRow(*row) for row in rows]

    def _read_arrivals(self) -> list[ArrivalRow]:
        statement = (
            "SELECT arrival_id, pipeline, key, etag, last_modified, run_key, disposition, reason, superseded_by, "
            "sop_instance_uid FROM arrival_states ORDER BY arrival_id"
        )
        return [ArrivalRow(*row) for row in self._execute(statement)]

    def _read_queued(self) -> list[Queued]:
        outbox = (
            "SELECT pipeline, subject_key, revision, content_digest, payload_uri, destination, state, id FROM outbox"
        )
        kept = f"SELECT pipeline, subject_key, revision, content_digest, payload_uri, NULL, NULL, 0 FROM {self._kept}"
        return [Queued(*row) for statement in (outbox, kept) for row in self._execute(statement)]

    def _read_contracts(self) -> dict[str, tuple[int, str]]:
        rows = self._execute("SELECT subject_key, revision, contract FROM contracts")
        return {row[0]: (row[1], row[2]) for row in rows}


class FileReader(Reader):
    """Reads the books of a ledger on SQLite, on a connection of its own.

    Parameters
    ----------
    file
        The ledger.
    """

    def __init__(self, file: Path) -> None:
        self._connection = sqlite3.connect(file, isolation_level=None, check_same_thread=False)
        super().__init__(self._connection.execute)

    def version(self) -> int:
        """Return a number that changes when anybody has written."""
        return int(self._connection.execute("PRAGMA data_version").fetchone()[0])

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()


def read_payload(s3: MemoryS3, uri: str) -> dict[str, Any] | None:
    """Return a queued contract; None if it is not there."""
    bucket, _, key = uri.removeprefix("s3://").partition("/")
    stored = s3.buckets[bucket].objects.get(key)
    return None if stored is None else json.loads(stored.body)


def instances_of(contract: dict[str, Any]) -> set[str]:
    """Return the SOPInstanceUIDs that a study's contract names."""
    return {one["SOPInstanceUID"] for series in contract.get("series", ()) for one in series["instances"]}


def contents_of(contract: dict[str, Any]) -> dict[str, str]:
    """Return the digests of the resources that a patient's or a file's contract names, by their reference."""
    return {one["reference"]: one["content_digest"] for one in contract.get("resources", ())}


def key_of_study(uid: str) -> str:
    """Return the key under which a study is queued."""
    return study_key(uid)
