"""Validate: decide on every unit before import: its line, its structure, its twins, its references, the store's word.

A decision, once made, stands: later rules see only what is still accepted. Writes ``verdicts`` with one row per unit,
``rewrites`` with the references that must be written otherwise, and ``operation_outcomes``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical import references, service_check, structure
from airlock.clinical.bodies import read_bodies
from airlock.clinical.parse import read_chunks
from airlock.clinical.records import OPERATION_OUTCOMES, RESOURCES, REWRITES, VERDICTS
from airlock.clinical.redrive import drop_held
from airlock.reasons import Reason
from airlock.records import Verdict
from airlock.stages.batches import find_begun_batches
from airlock.stages.buffer import find_shards
from airlock.stages.redrive_resources import find_overtaken
from airlock.stages.resources import FILES, claim_resources

if TYPE_CHECKING:
    from airlock.clinical.references import FhirStore, References
    from airlock.clinical.structure import Finding
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run

_MILDER = {  # verdicts of files that are no resources, other than quarantine
    str(Reason.SIDECAR): Verdict.IGNORE.value,
    str(Reason.NEWER_CONTENT): Verdict.IGNORE.value,  # a document, of a redrive
    str(Reason.DUPLICATE_SAME_CONTENT): Verdict.DUPLICATE.value,  # a document that was converted before
}
_WITHIN = "within the delivery"
_KEY = ["arrival_id", "line"]
_SLIM = [name for name in RESOURCES.names() if name != "body"]
_OWN = ["resource_type", "resource_id"]


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
        return _counts(run.workspace.read("verdicts", VERDICTS))
    findings: list[dict[str, Any]] = []
    units = _against_ledger(run, _duplicates(_lines_and_structure(run, findings)))
    known = references.resolve(_accepted(units), units.filter(pl.col("resource_id").is_not_null()), store)
    units = _lost(units, known)
    units = _ask_service(run, units, known, store, findings)
    units = _dangling(run, units, known, store)
    units = _with_their_copies(_claim(run, _with_patients(units, known)))
    verdicts = units.select(VERDICTS.names()).cast(VERDICTS)
    run.workspace.write("rewrites", REWRITES, known.rewrites)
    run.workspace.write("operation_outcomes", OPERATION_OUTCOMES, pl.DataFrame(findings, schema=OPERATION_OUTCOMES))
    run.workspace.write("verdicts", VERDICTS, verdicts)
    return _counts(verdicts)


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


def _counts(verdicts: pl.DataFrame) -> dict[str, int]:
    return dict(verdicts["verdict"].value_counts().sort("verdict").iter_rows())


def _lines_and_structure(run: Run[ClinicalPipeline], findings: list[dict[str, Any]]) -> pl.DataFrame:
    shards = find_shards(run)
    files = run.workspace.read_all([f"files/{shard}" for shard in shards], FILES)
    without_units = files.filter(pl.col("units") == 0).select("arrival_id")  # one unit each: the file
    frames = [_checked(run, chunk, without_units, findings) for chunk in read_chunks(run, shards)]
    none = RESOURCES.to_frame().select(_SLIM).with_columns(chunk=_nothing())
    units = pl.concat([none, without_units, *frames], how="diagonal")
    whole = files.filter(pl.col("reason").is_not_null()).select(
        "arrival_id", file_reason="reason", file_detail="detail"
    )
    units = units.join(whole, on="arrival_id", how="left", maintain_order="left")
    # A file that cannot be trusted as a whole takes its resources with it, those that are whole too.
    of_file = pl.col("file_reason").is_not_null()
    units = units.with_columns(
        reason=pl.coalesce("file_reason", "reason"),
        detail=pl.when(of_file).then("file_detail").otherwise("detail"),
    )
    stopped = pl.col("reason").replace_strict(_MILDER, default=Verdict.QUARANTINE.value, return_dtype=pl.String)
    verdict = pl.when(pl.col("reason").is_null()).then(pl.lit(Verdict.ACCEPT.value)).otherwise(stopped)
    return units.with_columns(verdict=verdict)


def _checked(
    run: Run[ClinicalPipeline], chunk: str, without_units: pl.DataFrame, findings: list[dict[str, Any]]
) -> pl.DataFrame:
    """Return a chunk without its bodies and without the rows of files too large, each resource's structure checked."""
    rows = run.workspace.read(chunk, RESOURCES).join(without_units, on="arrival_id", how="anti", maintain_order="left")
    found = [None if body is None else structure.check(body) for body in rows["body"]]
    for row, finding in zip(rows.select(*_KEY, *_OWN).iter_rows(named=True), found, strict=True):
        if finding is not None:
            findings.append(row | {"source": "local", "outcome": finding.outcome})
    return rows.select(_SLIM).with_columns(
        reason=pl.coalesce(pl.Series([item and str(item.reason) for item in found], dtype=pl.String), "reason"),
        detail=pl.coalesce(pl.Series([item and item.detail for item in found], dtype=pl.String), "detail"),
        chunk=pl.lit(chunk),
    )


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


def _lost(units: pl.DataFrame, known: References) -> pl.DataFrame:
    lost = known.lost.unique(_KEY, keep="first", maintain_order=True)
    units = units.join(lost, on=_KEY, how="left", maintain_order="left")
    where = pl.col("why").is_not_null()
    return _decide(units, where, Verdict.QUARANTINE, Reason.UNRESOLVED_REFERENCE, pl.col("why")).drop("why")


def _ask_service(
    run: Run[ClinicalPipeline],
    units: pl.DataFrame,
    known: References,
    store: FhirStore | None,
    findings: list[dict[str, Any]],
) -> pl.DataFrame:
    """Ask $validate about as many resources as the policy says, written as they would be sent."""
    wanted = service_check.chosen(_accepted(units), run.pipeline.validation)
    if store is None or not wanted.height:
        return units
    stopped: dict[tuple[str, int], Finding] = {}
    asked = _accepted(units).join(wanted, on=_KEY, how="semi", maintain_order="left")
    for rows in read_bodies(run, asked, known.rewrites):
        bodies = rows.select(*_KEY, "body").iter_rows()
        for arrival, line, finding in service_check.ask(store, bodies, run.pipeline.validation.checks_in_flight):
            stopped[arrival, line] = finding
    said = {key: finding.detail for key, finding in stopped.items()}
    own = {(row["arrival_id"], row["line"]): row for row in asked.select(*_KEY, *_OWN).iter_rows(named=True)}
    findings += [own[key] | {"source": "$validate", "outcome": finding.outcome} for key, finding in stopped.items()]
    return _stop(units, said, Reason.SERVICE_FINDS_INVALID)


def _stop(units: pl.DataFrame, said: dict[tuple[str, int], str], reason: Reason) -> pl.DataFrame:
    rows = pl.DataFrame(
        [(arrival, line, detail) for (arrival, line), detail in said.items()],
        schema={"arrival_id": pl.String, "line": pl.Int64, "said": pl.String},
        orient="row",
    )
    units = units.join(rows, on=_KEY, how="left", maintain_order="left")
    return _decide(units, pl.col("said").is_not_null(), Verdict.QUARANTINE, reason, pl.col("said")).drop("said")


def _dangling(
    run: Run[ClinicalPipeline], units: pl.DataFrame, known: References, store: FhirStore | None
) -> pl.DataFrame:
    """Stop what refers to a resource that is nowhere, and what refers to that in turn."""
    if run.pipeline.validation.unknown_reference == "accept":
        return units
    accepted = _accepted(units)
    edges = known.edges.join(accepted.select(_KEY), on=_KEY, how="semi", maintain_order="left")
    missing = references.missing(
        edges,
        lambda keys: run.ledger.known_resources(run.pipeline.datastore_id, keys),
        accepted.select(pl.format("{}/{}", *_OWN)).to_series(),
        store,
        run.pipeline.validation.checks_in_flight,
    )
    stopped = references.cascade(accepted, edges, missing)
    said = {key: f"the one that is nowhere is of type {kind}" for key, kind in stopped.items()}
    return _stop(units, said, Reason.UNRESOLVED_REFERENCE)


def _with_patients(units: pl.DataFrame, known: References) -> pl.DataFrame:
    """Resolve whose each resource is; a subject that is no Patient makes it nobody's."""
    renamed = known.rewrites.rename({"found": "patient", "reference": "resolved"})
    units = units.join(renamed, on=["arrival_id", "line", "patient"], how="left", maintain_order="left")
    whose = pl.coalesce("resolved", "patient").str.extract(r"^(Patient/[A-Za-z0-9\-.]{1,64})(?:/_history/.*)?$")
    return units.with_columns(patient=whose)


def _claim(run: Run[ClinicalPipeline], units: pl.DataFrame) -> pl.DataFrame:
    """Take the resources for this run; what another run is bringing in stays out, and comes again."""
    taken = claim_resources(
        run, run.pipeline.datastore_id, _accepted(units).select("arrival_id", *_OWN, "content_digest")
    )
    units = units.join(taken, on=_OWN, how="left", maintain_order="left")
    held = pl.col("claimed_by").is_not_null()
    return _decide(units, held, Verdict.QUARANTINE, Reason.INSTANCE_CLAIMED, _nothing()).drop("claimed_by")
