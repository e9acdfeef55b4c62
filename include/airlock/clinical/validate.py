"""Validate: decide on every unit before import: its line, its structure, its twins, its references, the store's word.

A decision, once made, stands: later rules see only what is still accepted. Writes ``verdicts`` with one row per unit,
``rewrites`` with the references that must be written otherwise, and ``operation_outcomes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical import references, service_check, structure
from airlock.clinical.bodies import read_bodies
from airlock.clinical.parse import read_chunks
from airlock.clinical.records import OPERATION_OUTCOMES, RESOURCES, REWRITES, VERDICTS
from airlock.clinical.redrive import drop_held
from airlock.clinical.references import EDGES, IS_REWRITTEN, MEANINGS, Resolver
from airlock.reasons import Reason
from airlock.records import Verdict, count_parts, schema
from airlock.stages.batches import find_begun_batches
from airlock.stages.buffer import find_shards
from airlock.stages.redrive_resources import find_overtaken
from airlock.stages.resources import FILES, IDENTITY, UNIT, claim_resources
from airlock.storage.spool import PARTITION_ROWS, Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.clinical.references import FhirStore
    from airlock.clinical.structure import Finding
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from airlock.storage.spool import Spool
    from airlock.storage.workspace import DatasetWriter

_MILDER = {  # verdicts of files that are no resources, other than quarantine
    str(Reason.SIDECAR): Verdict.IGNORE.value,
    str(Reason.NEWER_CONTENT): Verdict.IGNORE.value,  # a document, of a redrive
    str(Reason.DUPLICATE_SAME_CONTENT): Verdict.DUPLICATE.value,  # a document that was converted before
}
_WITHIN = "within the delivery"
_KEY = list(UNIT)
_OWN = list(IDENTITY)
_REFERRING = ("full_url", "references", "identifiers")
# A unit's row: the number of its partition in the order of the delivery, and its number there.
_ROW_BITS = 32
_UNITS = schema({"row": pl.Int64}, VERDICTS)
_REFERRING_UNITS = schema(_UNITS, {name: RESOURCES[name] for name in _REFERRING})
_IN_ORDER = pl.col("row") // 2**_ROW_BITS
# Units without a resource have nothing to do with each other.
_BY_RESOURCE = pl.coalesce(references.name_of(), pl.col("row").cast(pl.String))


def validate(run: Run[ClinicalPipeline], store: FhirStore | None) -> dict[str, int]:
    """Decide on every unit of a run's files; what is decided stands once an import job was begun.

    Parameters
    ----------
    run
        The run.
    store
        The data store's REST API: for references to what lies there already, and for $validate.

    Returns
    -------
    dict
        Units by verdict.
    """
    if find_begun_batches(run):
        return count_parts(run.workspace.parts("verdicts", VERDICTS, ["verdict"]), "verdict")
    with (
        Partitions(_count_units(run)) as partitions,
        run.workspace.writer("rewrites", REWRITES) as rewrites,
        run.workspace.writer("operation_outcomes", OPERATION_OUTCOMES) as findings,
    ):
        decided = _decide_all(run, store, partitions, rewrites, findings)
        with run.workspace.writer("verdicts", VERDICTS, part_rows=None) as verdicts:
            for units in decided:
                verdicts.add(units.sort("row").select(VERDICTS.names()))
                verdicts.end_part()  # whole chunks, so that normalize reads the bodies of each once
    return count_parts(run.workspace.parts("verdicts", VERDICTS, ["verdict"]), "verdict")


def _count_units(run: Run[ClinicalPipeline]) -> int:
    """Return the number of units that parse has found; a file without any counts as one."""
    parts = (rows for shard in find_shards(run) for rows in run.workspace.parts(f"files/{shard}", FILES, ["units"]))
    return sum(int(rows["units"].clip(1).sum()) for rows in parts)


def _decide_all(
    run: Run[ClinicalPipeline],
    store: FhirStore | None,
    partitions: Partitions,
    rewrites: DatasetWriter,
    findings: DatasetWriter,
) -> Spool:
    """Apply the rules; each sees the units in partitions in which what it compares is whole."""
    resolver = Resolver(partitions, store)
    read = partitions.spool(_BY_RESOURCE, _REFERRING_UNITS, _read(run, findings))
    compared = partitions.numbered_spool(_IN_ORDER, _UNITS, _compare(run, read, resolver))
    meanings = partitions.numbered_spool(_IN_ORDER, MEANINGS, resolver.meanings())
    resolved = partitions.numbered_spool(_IN_ORDER, _UNITS, _resolve(compared, meanings, rewrites))
    asked = partitions.numbered_spool(_IN_ORDER, _UNITS, _ask_service(run, resolved, meanings, store, findings))
    referring = partitions.spool(_BY_RESOURCE, _UNITS, _stop_dangling(run, asked, meanings, store, partitions))
    return partitions.numbered_spool(_IN_ORDER, _UNITS, _claim(run, referring))


def _with_their_copies(units: pl.DataFrame) -> pl.DataFrame:
    """Stop what was set aside as the twin of a resource that was stopped later: it is not in the store either."""
    twin = (pl.col("verdict") == Verdict.DUPLICATE) & (pl.col("detail") == _WITHIN)
    of_twins = units.filter(twin).select(_OWN).unique()
    fates = (
        units.join(of_twins, on=_OWN, how="semi")
        .filter(~twin.fill_null(value=False))
        .group_by(_OWN)
        .agg(
            stands=(pl.col("verdict") != Verdict.QUARANTINE).any(),
            copy_reason=pl.col("reason").drop_nulls().last(),
            copy_detail=pl.col("detail").drop_nulls().last(),
        )
    )
    units = units.join(fates.filter(~pl.col("stands")), on=_OWN, how="left", maintain_order="left")
    falls = twin & pl.col("copy_reason").is_not_null()
    return units.with_columns(
        verdict=pl.when(falls).then(pl.lit(Verdict.QUARANTINE.value)).otherwise("verdict"),
        reason=pl.when(falls).then("copy_reason").otherwise("reason"),
        detail=pl.when(falls).then("copy_detail").otherwise("detail"),
    ).drop("stands", "copy_reason", "copy_detail")


def _read(run: Run[ClinicalPipeline], findings: DatasetWriter) -> Iterator[pl.DataFrame]:
    """Yield the units in the order of the delivery, decided on by their lines, their structure and their files."""
    partition = first = 0
    for units in _in_shards(run, findings):
        if first >= PARTITION_ROWS:
            partition, first = partition + 1, 0
        rows = pl.int_range(pl.len(), dtype=pl.Int64) + (partition * 2**_ROW_BITS + first)
        first += units.height
        yield units.with_columns(row=rows).select(_REFERRING_UNITS.names()).cast(_REFERRING_UNITS)


def _in_shards(run: Run[ClinicalPipeline], findings: DatasetWriter) -> Iterator[pl.DataFrame]:
    """Yield the files that are units themselves, and the units of each chunk."""
    none = RESOURCES.to_frame().with_columns(chunk=_nothing())
    for shard in find_shards(run):
        for files in run.workspace.parts(f"files/{shard}", FILES):
            yield _by_file(pl.concat([none, _without_units(files)], how="diagonal"), files)
        chunks = read_chunks(run, [shard])
        if chunks:  # not of documents that were set aside, which are one shard however many they are
            files = run.workspace.read(f"files/{shard}", FILES)
            for chunk in chunks:
                yield _by_file(_checked(run, chunk, _without_units(files), findings), files)


def _without_units(files: pl.DataFrame) -> pl.DataFrame:
    return files.filter(pl.col("units") == 0).select("arrival_id")


def _by_file(units: pl.DataFrame, files: pl.DataFrame) -> pl.DataFrame:
    """Decide by the units' own reasons and by those of their files."""
    stopped = files.filter(pl.col("reason").is_not_null())
    whole = stopped.select("arrival_id", file_reason="reason", file_detail="detail")
    units = units.join(whole, on="arrival_id", how="left", maintain_order="left")
    # A file that cannot be trusted as a whole takes its resources with it, those that are whole too.
    of_file = pl.col("file_reason").is_not_null()
    units = units.with_columns(
        reason=pl.coalesce("file_reason", "reason"),
        detail=pl.when(of_file).then("file_detail").otherwise("detail"),
    )
    milder = pl.col("reason").replace_strict(_MILDER, default=Verdict.QUARANTINE.value, return_dtype=pl.String)
    verdict = pl.when(pl.col("reason").is_null()).then(pl.lit(Verdict.ACCEPT.value)).otherwise(milder)
    return units.with_columns(verdict=verdict)


def _checked(
    run: Run[ClinicalPipeline], chunk: str, without_units: pl.DataFrame, findings: DatasetWriter
) -> pl.DataFrame:
    """Return a chunk without its bodies and without the rows of files too large, each resource's structure checked."""
    rows = run.workspace.read(chunk, RESOURCES).join(without_units, on="arrival_id", how="anti", maintain_order="left")
    found = [None if body is None else structure.check(body) for body in rows["body"]]
    units = rows.select(_KEY + _OWN).iter_rows(named=True)
    wrong = [row | {"source": "local", "outcome": item.outcome} for row, item in zip(units, found, strict=True) if item]
    findings.add(pl.DataFrame(wrong, schema=OPERATION_OUTCOMES))
    return rows.drop("body").with_columns(
        reason=pl.coalesce(pl.Series([item and str(item.reason) for item in found], dtype=pl.String), "reason"),
        detail=pl.coalesce(pl.Series([item and item.detail for item in found], dtype=pl.String), "detail"),
        chunk=pl.lit(chunk),
    )


def _compare(run: Run[ClinicalPipeline], units: Iterable[pl.DataFrame], resolver: Resolver) -> Iterator[pl.DataFrame]:
    """Stop twins and what the data store has; hand references to the resolver."""
    for part in units:
        decided = _against_ledger(run, _duplicates(part))
        resolver.add_resources(decided.filter(pl.col("resource_id").is_not_null()))
        resolver.add_references(_accepted(decided))
        yield decided


def _accepted(units: pl.DataFrame) -> pl.DataFrame:
    return units.filter(pl.col("verdict") == Verdict.ACCEPT)


def _decide(units: pl.DataFrame, where: pl.Expr, verdict: Verdict, reason: Reason, detail: pl.Expr) -> pl.DataFrame:
    """Decide on those that are still accepted."""
    hit = (pl.col("verdict") == Verdict.ACCEPT) & where.fill_null(value=False)
    return units.with_columns(
        verdict=pl.when(hit).then(pl.lit(verdict.value)).otherwise("verdict"),
        reason=pl.when(hit).then(pl.lit(str(reason))).otherwise("reason"),
        detail=pl.when(hit).then(detail).otherwise("detail"),
    )


def _nothing() -> pl.Expr:
    return pl.lit(None, pl.String)


def _duplicates(units: pl.DataFrame) -> pl.DataFrame:
    """Stop twins in the delivery: of equal ones all but the first, of unequal ones all of them."""
    twins = _accepted(units).group_by(_OWN).agg(contents=pl.col("content_digest").n_unique())
    units = units.join(twins, on=_OWN, how="left", maintain_order="left")
    other = pl.lit("the delivery brings this type and id with several contents")
    units = _decide(units, pl.col("contents") > 1, Verdict.QUARANTINE, Reason.DUPLICATE_OTHER_CONTENT, other)
    again = (pl.col("verdict") == Verdict.ACCEPT).cum_sum().over(_OWN) > 1
    units = _decide(units, again, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, pl.lit(_WITHIN))
    return units.drop("contents")


def _against_ledger(run: Run[ClinicalPipeline], units: pl.DataFrame) -> pl.DataFrame:
    """Stop what the data store has already, and by policy what it has otherwise."""
    known = run.ledger.known_resources(run.pipeline.datastore_id, _accepted(units).select(_OWN), except_run=run.holder)
    if run.redrive is not None:
        units = _overtaken(run, units)
        known = drop_held(run, known)
    units = units.join(known.select(*_OWN, stored="content_digest"), on=_OWN, how="left", maintain_order="left")
    same = pl.col("stored") == pl.col("content_digest")
    earlier = pl.lit("by an earlier delivery")
    units = _decide(units, same, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, earlier)
    if run.pipeline.validation.changed_resource == "quarantine":
        changed = pl.col("stored").is_not_null()
        units = _decide(units, changed, Verdict.QUARANTINE, Reason.DUPLICATE_OTHER_CONTENT, earlier)
    return units.drop("stored")


def _overtaken(run: Run[ClinicalPipeline], units: pl.DataFrame) -> pl.DataFrame:
    """Leave out of a redrive what a newer file has brought since."""
    claims = _accepted(units).select("arrival_id", *_OWN, "content_digest")
    late = find_overtaken(run, run.pipeline.datastore_id, claims).with_columns(late=True)
    units = units.join(late, on=["arrival_id", *_OWN], how="left", maintain_order="left")
    return _decide(units, pl.col("late"), Verdict.IGNORE, Reason.NEWER_CONTENT, _nothing()).drop("late")


def _resolve(units: Spool, meanings: Spool, rewrites: DatasetWriter) -> Iterator[pl.DataFrame]:
    """Stop what refers to no single resource; say whose each resource is, and how references must be written."""
    for part, found in zip_partitions(units, meanings):
        in_order = found.sort("row", "edge")
        written = in_order.filter(IS_REWRITTEN).select(REWRITES.names())
        rewrites.add(written)
        yield _with_patients(_lost(part.sort("row"), in_order), written)


def _lost(units: pl.DataFrame, meanings: pl.DataFrame) -> pl.DataFrame:
    lost = meanings.filter(pl.col("why").is_not_null()).unique("row", keep="first", maintain_order=True)
    return _stop(units, lost.select("row", said="why"), Reason.UNRESOLVED_REFERENCE)


def _with_patients(units: pl.DataFrame, rewrites: pl.DataFrame) -> pl.DataFrame:
    """Resolve whose each resource is; a subject that is no Patient makes it nobody's."""
    renamed = rewrites.rename({"found": "patient", "reference": "resolved"})
    units = units.join(renamed, on=[*_KEY, "patient"], how="left", maintain_order="left")
    whose = pl.coalesce("resolved", "patient").str.extract(r"^(Patient/[A-Za-z0-9\-.]{1,64})(?:/_history/.*)?$")
    return units.with_columns(patient=whose)


def _ask_service(
    run: Run[ClinicalPipeline], units: Spool, meanings: Spool, store: FhirStore | None, findings: DatasetWriter
) -> Iterator[pl.DataFrame]:
    """Ask $validate about as many resources as the policy says, written as they would be sent."""
    settings = run.pipeline.validation
    if store is None or settings.service_check == "none":
        yield from units
        return
    sample = None if settings.service_check == "all" else service_check.sampled(map(_accepted, units), settings)
    for part, found in zip_partitions(units, meanings):
        accepted = _accepted(part)
        asked = accepted if sample is None else accepted.join(sample, on=_KEY, how="semi", maintain_order="left")
        stopped: dict[tuple[str, int], Finding] = {}
        for rows in read_bodies(run, asked, found.filter(IS_REWRITTEN).select(REWRITES.names())):
            bodies = rows.select(*_KEY, "body").iter_rows()
            for arrival, line, finding in service_check.ask(store, bodies, settings.checks_in_flight):
                stopped[arrival, line] = finding
        yield _refuse(part, asked, stopped, findings)


def _refuse(
    units: pl.DataFrame, asked: pl.DataFrame, stopped: dict[tuple[str, int], Finding], findings: DatasetWriter
) -> pl.DataFrame:
    """Stop what $validate finds wrong."""
    rows = {(row["arrival_id"], row["line"]): row for row in asked.select("row", *_KEY, *_OWN).iter_rows(named=True)}
    said = [(rows[key]["row"], finding.detail) for key, finding in stopped.items()]
    told = [rows[key] | {"source": "$validate", "outcome": finding.outcome} for key, finding in stopped.items()]
    findings.add(pl.DataFrame(told, schema=schema({"row": pl.Int64}, OPERATION_OUTCOMES)).drop("row"))
    frame = pl.DataFrame(said, schema={"row": pl.Int64, "said": pl.String}, orient="row")
    return _stop(units, frame, Reason.SERVICE_FINDS_INVALID)


def _stop(units: pl.DataFrame, said: pl.DataFrame, reason: Reason) -> pl.DataFrame:
    """Quarantine the units of these rows, with what is said of each."""
    units = units.join(said, on="row", how="left", maintain_order="left")
    return _decide(units, pl.col("said").is_not_null(), Verdict.QUARANTINE, reason, pl.col("said")).drop("said")


def _stop_dangling(
    run: Run[ClinicalPipeline], units: Spool, meanings: Spool, store: FhirStore | None, partitions: Partitions
) -> Iterator[pl.DataFrame]:
    """Stop what refers to a resource that is nowhere, and what refers to that in turn."""
    if run.pipeline.validation.unknown_reference == "accept":
        yield from units
        return
    own = partitions.spool(pl.col("own"), pl.Schema({"own": pl.String}))
    edges = partitions.spool(pl.col("target"), EDGES)
    for part, found in zip_partitions(units, meanings):
        accepted = _accepted(part).select("row", own=references.name_of())
        own.add(accepted.select("own"))
        referring = found.filter(pl.col("target").is_not_null()).join(accepted, on="row", how="inner")
        edges.add(referring.select(EDGES.names()))
    stopped = references.cascade(partitions, edges, _missing(run, edges, own, store))
    in_order = partitions.numbered_spool(_IN_ORDER, references.STOPPED, stopped)
    said = pl.format("the one that is nowhere is of type {}", "kind").alias("said")
    for part, found in zip_partitions(units, in_order):
        yield _stop(part, found.select("row", said), Reason.UNRESOLVED_REFERENCE)


def _missing(run: Run[ClinicalPipeline], edges: Spool, own: Spool, store: FhirStore | None) -> Iterator[set[str]]:
    """Yield of each partition the resources that are referred to and are nowhere."""
    for referring, accepted in zip_partitions(edges, own):
        yield references.missing(
            referring["target"],
            lambda keys: run.ledger.known_resources(run.pipeline.datastore_id, keys),
            accepted["own"],
            store,
            run.pipeline.validation.checks_in_flight,
        )


def _claim(run: Run[ClinicalPipeline], units: Spool) -> Iterator[pl.DataFrame]:
    """Take the resources for this run; what another run is bringing in stays out, and comes again."""
    claims = (_accepted(part).select("arrival_id", *_OWN, "content_digest") for part in units)
    taken = claim_resources(run, run.pipeline.datastore_id, claims)
    is_taken = pl.col("claimed_by").is_not_null()
    for part in units:
        held = part.join(taken, on=_OWN, how="left", maintain_order="left")
        decided = _decide(held, is_taken, Verdict.QUARANTINE, Reason.INSTANCE_CLAIMED, _nothing()).drop("claimed_by")
        yield _with_their_copies(decided)
