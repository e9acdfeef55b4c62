"""Validate's decisions on references: those that mean no single resource, and those to resources that are missing.

With `validation.unknown_reference: park` what refers to a missing resource of a type of `validation.park_on` waits, and
in turn what refers to that. It does not matter which other runs are under way: what waits is taken in when the missing
resource is released, whichever run was first. Missing resources of other types are noted.

With `quarantine` a missing resource may be one that another run brings: one that it has claimed, or any one while a run
of the same pipeline has not yet decided which it claims. The outcome then depends on which of the two runs is first, so
it is not decided: the reference is awaited, and its file comes again by itself, up to `source.owed_days`. A run of
another pipeline that has claimed nothing does not count: this pipeline would not see its files, whichever run is first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical import references
from airlock.clinical.parked import select_ended
from airlock.clinical.parked_turns import leave_to_parked
from airlock.clinical.records import REWRITES
from airlock.clinical.references import EDGES, IS_REWRITTEN, STOPPED
from airlock.clinical.verdicts import IN_ORDER, select_accepted, stop_rows
from airlock.reasons import Reason
from airlock.records import Verdict, schema
from airlock.stages.resources import TYPES, UNIT
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from airlock.clinical.references import FhirStore
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from airlock.storage.spool import Partitions, Spool
    from airlock.storage.workspace import DatasetWriter

_TARGET = pl.Schema({"target": pl.String})
_OWN = pl.Schema({"own": pl.String})
_ABSENT = schema({"row": pl.Int64, "kind": pl.String})
_KIND = pl.col("target").str.extract("^([^/]*)").alias("kind")
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


@dataclass(frozen=True)
class Waiting:
    """What parked units wait for, which `decide_references` adds, and the parked units that the run has taken in."""

    waits: Spool  # `records.WAITS`, in the delivery's order
    taken: pl.DataFrame  # `records.TAKEN`


def decide_references(
    run: Run[ClinicalPipeline],
    units: Spool,
    meanings: Spool,
    store: FhirStore | None,
    partitions: Partitions,
    *,
    waiting: Waiting,
) -> Iterator[pl.DataFrame]:
    """Yield the units; those with a reference to a missing resource are decided on by the pipeline's policy."""
    settings = run.pipeline.validation
    if settings.unknown_reference == "accept":
        yield from units
    elif settings.unknown_reference == "park":
        edges = _spool_edges(partitions, units, meanings, settings.park_on)
        yield from _park(run, units, edges, store, partitions, waiting=waiting)
    else:
        yield from _stop_dangling(run, units, _spool_edges(partitions, units, meanings), store, partitions)


@dataclass(frozen=True)
class _Edges:
    """The accepted resources and their references, partitioned by the names of the resources and of the targets."""

    own: Spool
    edges: Spool  # `EDGES`
    others: Spool  # `EDGES`, to types that nothing waits for


def _spool_edges(partitions: Partitions, units: Spool, meanings: Spool, types: Sequence[str] | None = None) -> _Edges:
    """Return the references of the accepted units; with types those to other types apart."""
    own, target = partitions.spool(pl.col("own"), _OWN), pl.col("target")
    edges, others = (partitions.spool(target, EDGES) for _ in range(2))
    for part, found in zip_partitions(units, meanings):
        accepted = select_accepted(part).select("row", own=references.name_of())
        own.add(accepted.select("own"))
        referring = found.filter(target.is_not_null()).join(accepted, on="row", how="inner").select(EDGES.names())
        waits = pl.lit(value=True) if types is None else _KIND.is_in(list(types))
        edges.add(referring.filter(waits))
        others.add(referring.filter(~waits))
    return _Edges(own, edges, others)


def _park(
    run: Run[ClinicalPipeline],
    units: Spool,
    found: _Edges,
    store: FhirStore | None,
    partitions: Partitions,
    *,
    waiting: Waiting,
) -> Iterator[pl.DataFrame]:
    """Park units with a reference to a missing resource, and in turn what refers to those; note other references."""
    absent = partitions.spool(pl.col("target"), _TARGET)
    for targets in _find_absent(run, found.edges, found.own, store):
        absent.add(pl.DataFrame({"target": sorted(targets)}, _TARGET))
    gone = (set(rows["target"]) for rows in references.iter_edge_partitions(absent))
    dependents = references.find_dependents(partitions, found.edges, gone)
    for rows in _find_waits(found.edges, absent, dependents):
        waiting.waits.add(rows)
    noted = partitions.numbered_spool(IN_ORDER, _ABSENT)
    for rows in _find_others(run, found, dependents, store, partitions):
        noted.add(rows)
    for part, waits, dangling in zip_partitions(units, waiting.waits, noted):
        late = _name_types(waits.rename({"waits_for_type": "kind"}))
        ended = _select_overdue(run, part, waits, waiting.taken).rename({"waits_for_type": "kind"})
        stopped = stop_rows(part, _name_types(ended), Reason.WAITED_TOO_LONG)
        parked = stop_rows(stopped, late, Reason.WAITING_FOR_RESOURCE, Verdict.PARK)
        left = leave_to_parked(run, parked, waiting.taken)
        yield _note_dangling(left, _name_types(dangling))


def _find_others(
    run: Run[ClinicalPipeline], found: _Edges, dependents: Spool, store: FhirStore | None, partitions: Partitions
) -> Iterator[pl.DataFrame]:
    """Yield the references (`_ABSENT`), which nothing waits for, to resources that are missing or wait themselves."""
    names = (own.join(waiting, on="own", how="anti") for own, waiting in zip_partitions(found.own, dependents))
    coming = partitions.spool(pl.col("own"), _OWN, names)
    missing = _find_absent(run, found.others, coming, store)
    for referring, targets in zip(references.iter_edge_partitions(found.others), missing, strict=True):
        yield referring.filter(pl.col("target").is_in(sorted(targets))).select("row", _KIND)


def _select_overdue(
    run: Run[ClinicalPipeline], units: pl.DataFrame, waits: pl.DataFrame, taken: pl.DataFrame
) -> pl.DataFrame:
    """Return the references (`WAITS`) of units whose time is over, unless something that they wait for is coming."""
    rows = waits.join(select_ended(units, taken).select("row"), on="row", how="semi")
    if rows.is_empty():
        return rows
    names = {"waits_for_type": "resource_type", "waits_for_id": "resource_id"}
    asked = rows.rename(names)
    coming = run.ledger.find_coming(run.pipeline.datastore_id, run.pipeline.name, run.key, asked)
    return rows.join(asked.join(coming, on=[*names.values()], how="semi"), on="row", how="anti")


def _find_absent(run: Run[ClinicalPipeline], edges: Spool, own: Spool, store: FhirStore | None) -> Iterator[set[str]]:
    """Yield the targets of each partition of the references that are not in the delivery, the ledger or the store."""
    at_a_time = run.pipeline.validation.checks_in_flight
    for referring, accepted in zip_partitions(edges, own):
        yield references.find_missing(
            referring["target"],
            lambda keys: run.ledger.known_resources(run.pipeline.datastore_id, keys),
            accepted["own"],
            store,
            at_a_time,
        )


def _find_waits(edges: Spool, absent: Spool, dependents: Spool) -> Iterator[pl.DataFrame]:
    """Yield all references (`WAITS`) to missing and to waiting resources; nothing waits for itself."""
    names = pl.col("target").str.splitn("/", 2)
    for referring, gone, waiting in zip_partitions(edges, absent, dependents):
        targets = pl.concat([gone["target"], waiting["own"]]).unique()
        found = referring.filter(pl.col("target").is_in(targets.implode()) & (pl.col("target") != pl.col("own")))
        kind, name = names.struct.field("field_0"), names.struct.field("field_1")
        yield found.select("row", waits_for_type=kind, waits_for_id=name).unique()


def _name_types(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the types (``kind``) that each row lacks, as its ``finding``."""
    return rows.group_by("row").agg(finding=pl.col("kind").unique().sort().str.join(TYPES))


def _note_dangling(units: pl.DataFrame, lacking: pl.DataFrame) -> pl.DataFrame:
    """Return units; accepted ones without another note name the types of what they refer to and that is nowhere."""
    rows = units.join(lacking, on="row", how="left", maintain_order="left")
    noted = (pl.col("verdict") == Verdict.ACCEPT) & pl.col("reason").is_null() & pl.col("finding").is_not_null()
    return rows.with_columns(
        reason=pl.when(noted).then(pl.lit(str(Reason.DANGLING_REFERENCE))).otherwise("reason"),
        detail=pl.when(noted).then("finding").otherwise("detail"),
    ).drop("finding")


def _stop_dangling(
    run: Run[ClinicalPipeline], units: Spool, found: _Edges, store: FhirStore | None, partitions: Partitions
) -> Iterator[pl.DataFrame]:
    """Stop units with a reference to a missing resource, and units that refer to those, directly or through others."""
    own, edges = found.own, found.edges
    awaited = partitions.spool(pl.col("target"), _TARGET)
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
