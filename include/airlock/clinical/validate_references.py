"""Validate's decisions on references: those that mean no single resource, and those to resources that are missing.

A missing resource may be one that another run brings: one that it has claimed, or any one while a run of the same
pipeline has not yet decided which it claims. The outcome then depends on which of the two runs is first, so it is not
decided: the reference is awaited, and its file comes again by itself, up to `source.owed_days`. A run of another
pipeline that has claimed nothing does not count: this pipeline would not see its files, whichever run is first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical import references
from airlock.clinical.records import REWRITES
from airlock.clinical.references import EDGES, IS_REWRITTEN, STOPPED
from airlock.clinical.verdicts import IN_ORDER, select_accepted, stop_rows
from airlock.reasons import Reason
from airlock.stages.resources import UNIT
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.clinical.references import FhirStore
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from airlock.storage.spool import Partitions, Spool
    from airlock.storage.workspace import DatasetWriter

_TARGET = pl.Schema({"target": pl.String})
_NOWHERE = pl.format("the one that is nowhere is of type {}", "kind").alias("finding")
_ELSEWHERE = pl.format("the one that another run may bring is of type {}", "kind").alias("finding")


def resolve_references(units: Spool, meanings: Spool, rewrites: DatasetWriter) -> Iterator[pl.DataFrame]:
    """Yield the units with the resolved patient; stop those with a reference that means no single resource.

    Writes the references that import files need in another form to ``rewrites``.
    """
    for part, found in zip_partitions(units, meanings):
        in_order = found.sort("row", "edge")
        written = in_order.filter(IS_REWRITTEN).select(REWRITES.names())
        rewrites.add(written)
        yield _resolve_patients(_stop_unresolved(part.sort("row"), in_order), written)


def _stop_unresolved(units: pl.DataFrame, meanings: pl.DataFrame) -> pl.DataFrame:
    lost = meanings.filter(pl.col("why").is_not_null()).unique("row", keep="first", maintain_order=True)
    return stop_rows(units, lost.select("row", finding="why"), Reason.UNRESOLVED_REFERENCE)


def _resolve_patients(units: pl.DataFrame, rewrites: pl.DataFrame) -> pl.DataFrame:
    """Return units with the resolved ``patient``; null if the resource's subject is not a Patient."""
    renamed = rewrites.rename({"found": "patient", "reference": "resolved"})
    units = units.join(renamed, on=[*UNIT, "patient"], how="left", maintain_order="left")
    whose = pl.coalesce("resolved", "patient").str.extract(r"^(Patient/[A-Za-z0-9\-.]{1,64})(?:/_history/.*)?$")
    return units.with_columns(patient=whose)


def stop_dangling(
    run: Run[ClinicalPipeline], units: Spool, meanings: Spool, store: FhirStore | None, partitions: Partitions
) -> Iterator[pl.DataFrame]:
    """Stop units with a reference to a missing resource, and units that refer to those, directly or through others."""
    if run.pipeline.validation.unknown_reference == "accept":
        yield from units
        return
    own = partitions.spool(pl.col("own"), pl.Schema({"own": pl.String}))
    edges, awaited = (partitions.spool(pl.col("target"), columns) for columns in (EDGES, _TARGET))
    for part, found in zip_partitions(units, meanings):
        accepted = select_accepted(part).select("row", own=references.name_of())
        own.add(accepted.select("own"))
        referring = found.filter(pl.col("target").is_not_null()).join(accepted, on="row", how="inner")
        edges.add(referring.select(EDGES.names()))
    missing = references.find_dependents(partitions, edges, _find_missing(run, edges, own, store, awaited))
    lost = partitions.numbered_spool(IN_ORDER, STOPPED, missing)
    targets = (set(rows["target"]) for rows in references.iter_edge_partitions(awaited))
    waiting = references.find_dependents(partitions, edges, targets) if awaited.rows else ()
    late = partitions.numbered_spool(IN_ORDER, STOPPED, waiting)
    for part, nowhere, elsewhere in zip_partitions(units, lost, late):
        rest = stop_rows(part, nowhere.select("row", _NOWHERE), Reason.UNRESOLVED_REFERENCE)
        yield stop_rows(rest, elsewhere.select("row", _ELSEWHERE), Reason.AWAITED_REFERENCE)


def _find_missing(
    run: Run[ClinicalPipeline], edges: Spool, own: Spool, store: FhirStore | None, awaited: Spool
) -> Iterator[set[str]]:
    """Yield the missing targets of each partition of the references, but add those that are awaited to ``awaited``."""
    others = _OtherRuns(run)
    for referring, accepted in zip_partitions(edges, own):
        missing = references.find_missing(
            referring["target"],
            others.find_known,
            accepted["own"],
            store,
            run.pipeline.validation.checks_in_flight,
        )
        waiting = missing if others.undecided else missing & others.claimed
        awaited.add(pl.DataFrame({"target": sorted(waiting)}, _TARGET))
        yield missing - waiting


class _OtherRuns:
    """What other runs may bring. It is asked before what is known, so that a resource that comes meanwhile is found."""

    def __init__(self, run: Run[ClinicalPipeline]) -> None:
        self._ledger, self._datastore = run.ledger, run.pipeline.datastore_id
        self.undecided = run.ledger.has_undecided_run(self._datastore, run.pipeline.name, except_run=run.key)
        self._claim = run.ledger.has_claims(self._datastore, except_run=run.key)
        self.claimed: set[str] = set()  # of the resources that were looked up last, as Type/id

    def find_known(self, keys: pl.DataFrame) -> pl.DataFrame:
        """Return the rows of a frame (resource_type, resource_id) that the ledger knows."""
        if self._claim:
            claims = self._ledger.claimed_resources(self._datastore, keys)
            self.claimed = set(claims.select(references.name_of()).to_series())
        return self._ledger.known_resources(self._datastore, keys)
