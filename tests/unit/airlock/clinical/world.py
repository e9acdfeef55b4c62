"""Files taken through the clinical stages before import, and a data store that answers from memory.

A unit is told by ``Type/id`` where it is a resource, else by file and line, ``a.ndjson:3``; a file by its name.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.parse import parse, read_chunks
from airlock.clinical.records import RESOURCES, VERDICTS
from airlock.clinical.validate import validate
from airlock.ledger import Job
from airlock.records import Verdict
from airlock.run import Run
from airlock.stages.batches import find_batches
from airlock.stages.buffer import buffer, find_shards
from airlock.stages.resources import FILES
from airlock.storage.s3uri import S3Uri
from tests.unit.airlock.clinical.books import pipeline, put
from tests.unit.airlock.world import read_arrivals

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from airlock.pipelines import ClinicalPipeline
    from tests.unit.airlock.world import World

Row = dict[str, Any]


class RefusedError(Exception):
    """The data store's answer to a request that it will not carry out."""

    def __init__(self, status: int) -> None:
        super().__init__(f"HTTP {status}")
        self.status = status


@dataclass
class Store:
    """A data store: what it holds by ``Type/id``, what its searches find by query, what $validate finds by id."""

    held: set[str] = field(default_factory=set)
    found: dict[str, list[str] | int] = field(default_factory=dict)  # ids, or the status of a refusal
    invalid: dict[str, str | int] = field(default_factory=dict)  # diagnostics, or the status of a refusal
    asked: list[str] = field(default_factory=list)
    validated: list[Row] = field(default_factory=list)

    def read(self, resource_type: str, resource_id: str) -> Row | None:
        name = f"{resource_type}/{resource_id}"
        self.asked.append(name)
        return {"resourceType": resource_type, "id": resource_id} if name in self.held else None

    def search(self, resource_type: str, params: Mapping[str, str]) -> Iterator[Row]:
        query = f"{resource_type}?" + "&".join(f"{name}={value}" for name, value in params.items())
        self.asked.append(query)
        found = self.found.get(query, [])
        if isinstance(found, int):
            raise RefusedError(found)
        yield from ({"resourceType": resource_type, "id": name} for name in found)

    def validate(self, resource: str) -> Row:
        content = json.loads(resource)
        self.validated.append(content)
        wrong = self.invalid.get(content["id"])
        if isinstance(wrong, int):
            raise RefusedError(wrong)
        issue = {"severity": "error", "code": "invalid", "diagnostics": wrong, "expression": ["Observation.code"]}
        passed = {"severity": "information", "code": "informational", "diagnostics": "all is well"}
        return {"resourceType": "OperationOutcome", "issue": [issue if wrong else passed]}


def delivery(world: World, files: Mapping[str, Any], run_id: str = "one", **changes: Any) -> Run[ClinicalPipeline]:
    """Buffer files: bytes, or lists of resources and raw lines."""
    run = Run(pipeline(**changes), run_id, None, S3Uri("archive", f"in/{run_id}/"), world.s3, world.ledger)
    put(world, run_id, files)
    buffer(run)
    return run


def parsed(world: World, files: Mapping[str, Any], run_id: str = "one", **changes: Any) -> Run[ClinicalPipeline]:
    run = delivery(world, files, run_id, **changes)
    for shard in find_shards(run):
        parse(run, shard)
    return run


def validated(
    world: World, files: Mapping[str, Any], run_id: str = "one", store: Store | None = None, **changes: Any
) -> Run[ClinicalPipeline]:
    run = parsed(world, files, run_id, **changes)
    validate(run, store)
    return run


def units(run: Run[ClinicalPipeline]) -> list[Row]:
    """Return the rows of the resources dataset with their ``file``."""
    names = file_names(run)
    rows = [row for chunk in read_chunks(run, find_shards(run)) for row in _rows(run, chunk)]
    return [row | {"file": names[row["arrival_id"]]} for row in rows]


def _rows(run: Run[ClinicalPipeline], chunk: str) -> list[Row]:
    return run.workspace.read(chunk, RESOURCES).to_dicts()


def files(run: Run[ClinicalPipeline]) -> dict[str, Row]:
    """Return the rows of the files dataset by the files' names."""
    names = file_names(run)
    rows = run.workspace.read_all([f"files/{shard}" for shard in find_shards(run)], FILES)
    return {names[row["arrival_id"]]: row for row in rows.iter_rows(named=True)}


def file_names(run: Run[ClinicalPipeline]) -> dict[str, str]:
    below = run.prefix.key
    return {row["arrival_id"]: row["key"].removeprefix(below) for row in read_arrivals(run).iter_rows(named=True)}


def verdicts(run: Run[ClinicalPipeline]) -> list[Row]:
    """Return the verdicts with the ``name`` of each unit."""
    names = file_names(run)
    rows = run.workspace.read("verdicts", VERDICTS).to_dicts()
    return [row | {"name": _name(row, names[row["arrival_id"]])} for row in rows]


def words(run: Run[ClinicalPipeline]) -> dict[str, tuple[str, str | None]]:
    """Return verdict and reason of each unit."""
    return {row["name"]: (row["verdict"], row["reason"]) for row in verdicts(run)}


def _name(row: Row, file: str) -> str:
    if row["resource_id"] and row["verdict"] != "duplicate":
        return f"{row['resource_type']}/{row['resource_id']}"
    return f"{file}:{row['line']}" if row["line"] else file


def bundle(kind: str | None, *entries: Any, **more: Any) -> Row:
    return {"resourceType": "Bundle", "type": kind, "entry": list(entries), **more}


def entry(resource: Any, full_url: str | None = None, method: str | None = None, url: str = "") -> Row:
    """Return a Bundle's entry; one with a method asks for something."""
    request = {"request": {"method": method, "url": url}} if method else {}
    return ({"fullUrl": full_url} if full_url else {}) | {"resource": resource} | request


def pretty(content: Any) -> bytes:
    return json.dumps(content, indent=1).encode()


def imported(run: Run[ClinicalPipeline]) -> None:
    """Tell the ledger that all that was accepted came in by a job, as an audit does."""
    run.ledger.record_job(Job(f"batch-of-{run.key}", 0, run.key, "token", "job-0"))
    rows = run.workspace.read("verdicts", VERDICTS).filter(pl.col("verdict") == Verdict.ACCEPT)
    batch = pl.lit(None, pl.String)
    run.ledger.record_imported_resources(run.pipeline.datastore_id, run.key, rows.with_columns(batch_id=batch))


def begun(run: Run[ClinicalPipeline]) -> None:
    """Tell the ledger that a job was begun for a batch of the run."""
    batch = find_batches(run)[0]
    run.ledger.record_job(Job(batch.batch_id, 0, run.key, "token", "job-1", input_uri=batch.input_uri))
