"""Resources that are stored but refer to one that the service refused: they are not released, or have a note.

Before import such a resource waits or is quarantined; when the service refuses its target, it is in the data store
already. One that would not have waited for a target of this type is released with the note that it would have had.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical import gate, references
from airlock.clinical.outcomes import IMPORTED
from airlock.clinical.parse import read_chunks
from airlock.clinical.records import RESOURCES, REWRITES
from airlock.reasons import Reason
from airlock.records import Outcome, schema
from airlock.stages.buffer import find_shards
from airlock.stages.resources import BY_RESOURCE, BY_UNIT, IDENTITY, TYPES, UNIT
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.clinical.read_back import FhirReader
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from airlock.storage.spool import Partitions, Spool

_REFERRING = schema(UNIT, {"own": pl.String, "found": pl.String})
_COLUMNS = [*UNIT, *IDENTITY, "references"]
_NAME = pl.Schema({"name": pl.String})
_READS = 8  # resources read from the data store at a time


def flag_dangling(
    run: Run[ClinicalPipeline], partitions: Partitions, reader: FhirReader, outcomes: Iterable[pl.DataFrame]
) -> Iterator[pl.DataFrame]:
    """Yield outcomes (`gate.JUDGED`); those that depend on a refused resource have the reason unresolved_reference.

    Those that only refer to one of a type that nothing waits for have the note dangling_reference.
    """
    if run.pipeline.validation.unknown_reference == "accept":
        yield from outcomes
        return
    judged = partitions.spool(BY_RESOURCE, gate.JUDGED, outcomes)
    refused = partitions.spool(pl.col("name"), _NAME, map(_name_refused, judged))
    if not refused.rows:
        yield from judged
        return
    needed, others = (partitions.spool(pl.col("target"), references.EDGES) for _ in range(2))
    for rows in _read_edges(run, partitions):
        needed.add(rows.filter(_is_needed(run)))
        others.add(rows.filter(~_is_needed(run)))
    stopped = references.find_dependents(partitions, needed, _find_missing(run, reader, needed, refused))
    missing = _find_missing(run, reader, others, refused)
    referring = map(references.find_referring, references.iter_edge_partitions(others), missing)
    lacking = partitions.spool(pl.col("own"), references.STOPPED, referring)
    for rows, found, lost in zip_partitions(judged, stopped, lacking):
        yield _note(_flag(rows, found), lost)


def _is_needed(run: Run[ClinicalPipeline]) -> pl.Expr:
    """Return whether a resource cannot do without the target of a reference."""
    settings = run.pipeline.validation
    parks, kind = settings.unknown_reference == "park", pl.col("target").str.extract("^([^/]*)")
    return kind.is_in(list(settings.park_on)) if parks else pl.lit(value=True)


def _name_refused(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("outcome") == Outcome.REJECTED).select(name=BY_RESOURCE)


def _find_missing(run: Run[ClinicalPipeline], reader: FhirReader, edges: Spool, refused: Spool) -> Iterator[set[str]]:
    """Yield the refused targets of each partition of the references that the data store has no earlier content of."""
    for referring, names in zip_partitions(edges, refused):
        targets = referring.filter(pl.col("target").is_in(names["name"].implode()))["target"]
        yield references.find_missing(
            targets,
            lambda keys: run.ledger.known_resources(run.pipeline.datastore_id, keys),
            pl.Series([], dtype=pl.String),
            reader,
            _READS,
        )


def _read_edges(run: Run[ClinicalPipeline], partitions: Partitions) -> Iterator[pl.DataFrame]:
    """Yield the references of the delivery's resources with their targets, as in the import files."""
    referring = partitions.spool(BY_UNIT, _REFERRING, _read_references(run))
    rewrites = partitions.spool(BY_UNIT, REWRITES, run.workspace.find_parts("rewrites", REWRITES))
    for rows, rewritten in zip_partitions(referring, rewrites):
        yield references.find_edges(rows, rewritten)


def _read_references(run: Run[ClinicalPipeline]) -> Iterator[pl.DataFrame]:
    for chunk in read_chunks(run, find_shards(run)):
        for rows in run.workspace.parts(chunk, RESOURCES, _COLUMNS):
            named = rows.with_columns(own=BY_RESOURCE).explode("references").rename({"references": "found"})
            yield named.drop_nulls(["own", "found"]).select(_REFERRING.names())


def _flag(rows: pl.DataFrame, stopped: pl.DataFrame) -> pl.DataFrame:
    kinds = stopped.select("own", "kind").unique("own")
    found = rows.with_columns(own=BY_RESOURCE).join(kinds, on="own", how="left", maintain_order="left")
    hit = pl.col("kind").is_not_null() & _is_stored()
    detail = pl.format("the service refused the {} that it needs", "kind")
    return found.with_columns(
        reason=pl.when(hit).then(pl.lit(str(Reason.UNRESOLVED_REFERENCE))).otherwise("reason"),
        detail=pl.when(hit).then(detail).otherwise("detail"),
    ).drop("own", "kind")


def _note(rows: pl.DataFrame, lacking: pl.DataFrame) -> pl.DataFrame:
    kinds = lacking.group_by("own").agg(kinds=pl.col("kind").unique().sort().str.join(TYPES))
    found = rows.with_columns(own=BY_RESOURCE).join(kinds, on="own", how="left", maintain_order="left")
    noted = pl.col("kinds").is_not_null() & pl.col("reason").is_null() & _is_stored()
    return found.with_columns(
        reason=pl.when(noted).then(pl.lit(str(Reason.DANGLING_REFERENCE))).otherwise("reason"),
        detail=pl.when(noted).then("kinds").otherwise("detail"),
    ).drop("own", "kinds")


def _is_stored() -> pl.Expr:
    return pl.col("outcome").is_in(IMPORTED) & ~pl.col("uncertain")
