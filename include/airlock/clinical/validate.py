"""Validate: decide on every unit before import, by its line, structure, duplicates and references, and by $validate.

Later rules decide only on units that are still accepted, with two exceptions: a quarantined unit is ignored where the
delivery brings newer content, and a duplicate comes again while another run may store other content. Writes
``verdicts`` with one row per unit, ``rewrites`` with the references that import files need in another form, ``parked``
with what each parked unit waits for, and ``operation_outcomes``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical import references, service_check, structure
from airlock.clinical.bodies import read_bodies
from airlock.clinical.open_resources import note_stopped
from airlock.clinical.parked import read_taken, restore, select_whole, write_parked
from airlock.clinical.parked_turns import is_of, let_claimed_wait, let_taken_count, let_twins_wait, let_unread_wait
from airlock.clinical.parse import read_chunks
from airlock.clinical.records import OPERATION_OUTCOMES, RESOURCES, REWRITES, STOPPED, TAKEN, VERDICTS, WAITS
from airlock.clinical.redrive import drop_held
from airlock.clinical.references import IS_REWRITTEN, MEANINGS, Resolver
from airlock.clinical.validate_references import Waiting, decide_references, resolve_references
from airlock.clinical.verdicts import (
    IN_ORDER,
    ROW_BITS,
    UNITS,
    WITHIN_DELIVERY,
    decide_where,
    is_stopped,
    select_accepted,
    stop_rows,
)
from airlock.ledger.open_resources import scope
from airlock.ledger.parked import PARKED
from airlock.ledger.resources import CLAIMS
from airlock.reasons import Reason
from airlock.records import ARRIVALS, Verdict, count_parts, schema
from airlock.stages.batches import find_begun_batches
from airlock.stages.buffer import find_shards, read_arrivals
from airlock.stages.content_order import (
    DECIDED,
    FileClocks,
    find_confirmed,
    find_late,
    find_spare,
    format_clock,
    read_clock,
    read_last_updated,
    refuse_late,
)
from airlock.stages.resources import FILES, IDENTITY, UNIT, claim_resources
from airlock.storage.spool import PARTITION_ROWS, NumberedSpool, Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.clinical.references import FhirStore
    from airlock.clinical.structure import Finding
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from airlock.storage.spool import Spool
    from airlock.storage.workspace import DatasetWriter

_MILD_VERDICTS = {  # reasons of files for which the verdict is not quarantine
    str(Reason.SIDECAR): Verdict.IGNORE.value,
    str(Reason.NEWER_CONTENT): Verdict.IGNORE.value,  # of a C-CDA document
    str(Reason.DUPLICATE_SAME_CONTENT): Verdict.DUPLICATE.value,  # of a C-CDA document that was converted before
}
_ALL = pl.lit(value=True)
_KEY = list(UNIT)
_RESOURCE = list(IDENTITY)
_REFERRING = ("full_url", "references", "identifiers")
_REFERRING_UNITS = schema(UNITS, {name: RESOURCES[name] for name in _REFERRING})
# Units without a resource are not compared with others, so each may be in any partition.
_BY_RESOURCE = pl.coalesce(references.name_of(), pl.col("row").cast(pl.String))


def validate(run: Run[ClinicalPipeline], store: FhirStore | None) -> dict[str, int]:
    """Decide on every unit of a run's files; once an import job was begun, the verdicts do not change.

    Parameters
    ----------
    run
        The run.
    store
        The data store's REST API, for references to resources that it already holds and for $validate.

    Returns
    -------
    dict
        The number of units by verdict.
    """
    if find_begun_batches(run):
        return count_parts(run.workspace.parts("verdicts", VERDICTS, ["verdict"]), "verdict")
    with Partitions(_count_units(run)) as partitions:
        _write_verdicts(run, store, partitions)
        if not run.plan_only:
            note_stopped(run, partitions)
    return count_parts(run.workspace.parts("verdicts", VERDICTS, ["verdict"]), "verdict")


def _write_verdicts(run: Run[ClinicalPipeline], store: FhirStore | None, partitions: Partitions) -> None:
    taken = TAKEN.to_frame() if run.plan_only else read_taken(run)
    with (  # the verdicts are there last: what they let wait is not lost if the task ends in between
        run.workspace.writer("verdicts", VERDICTS, part_rows=None) as verdicts,
        run.workspace.writer("rewrites", REWRITES) as rewrites,
        run.workspace.writer("operation_outcomes", OPERATION_OUTCOMES) as findings,
        run.workspace.writer("stopped", STOPPED) as stopped,
        run.workspace.writer("parked", PARKED) as parked,
    ):
        decided = _decide_all(run, store, partitions, _Writers(rewrites, findings), taken)
        now = run.ledger.database_time()
        for units, waits, found in zip_partitions(decided.units, decided.waits, decided.meanings):
            verdicts.add(units.sort("row").select(VERDICTS.names()))
            stopped.add(_select_stopped(units))
            if not run.plan_only:
                written = found.filter(IS_REWRITTEN).select(REWRITES.names())
                write_parked(run, units.sort("row"), written, waits, taken, writer=parked, now=now)
            verdicts.end_part()  # whole chunks, so that normalize reads the bodies of each once


@dataclass(frozen=True)
class _Decided:
    """The decided units, what the parked ones wait for, and the meanings of references, all in the delivery's order."""

    units: Spool
    waits: Spool
    meanings: Spool


@dataclass(frozen=True)
class _Writers:
    """The datasets that validate writes besides the verdicts."""

    rewrites: DatasetWriter
    findings: DatasetWriter


def _select_stopped(units: pl.DataFrame) -> pl.DataFrame:
    """Return the quarantined and parked units with content (`STOPPED`)."""
    return units.filter(is_stopped() & pl.col("content_digest").is_not_null()).select(STOPPED.names())


def _count_units(run: Run[ClinicalPipeline]) -> int:
    """Return the number of units that parse has found; a file without units counts as one."""
    parts = (rows for shard in find_shards(run) for rows in run.workspace.parts(f"files/{shard}", FILES, ["units"]))
    return sum(int(rows["units"].clip(1).sum()) for rows in parts)


def _decide_all(
    run: Run[ClinicalPipeline],
    store: FhirStore | None,
    partitions: Partitions,
    writers: _Writers,
    taken: pl.DataFrame,
) -> _Decided:
    """Return the decided units; each rule reads partitions that hold all rows that the rule compares."""
    settings, findings = run.pipeline.validation, writers.findings
    resolver = Resolver(partitions, store, settings.park_on if settings.unknown_reference == "park" else ())
    waits = partitions.numbered_spool(IN_ORDER, WAITS)
    read = partitions.spool(_BY_RESOURCE, _REFERRING_UNITS, _read_units(run, partitions, findings, taken))
    compared = partitions.numbered_spool(IN_ORDER, UNITS, _stop_duplicates(run, read, resolver, taken))
    meanings = partitions.numbered_spool(IN_ORDER, MEANINGS, resolver.find_meanings())
    resolved = partitions.numbered_spool(IN_ORDER, UNITS, resolve_references(compared, meanings, writers.rewrites))
    asked = partitions.numbered_spool(IN_ORDER, UNITS, _ask_service(run, resolved, meanings, store, findings))
    known = decide_references(run, asked, meanings, store, partitions, waiting=Waiting(waits, taken))
    referring = partitions.spool(_BY_RESOURCE, UNITS, known)
    units = partitions.numbered_spool(IN_ORDER, UNITS, _claim_resources(run, referring, taken))
    return _Decided(units, waits, meanings)


def _stop_copies(units: pl.DataFrame) -> pl.DataFrame:
    """Quarantine the duplicates of a resource that a later rule has quarantined, since no copy is imported."""
    twin = (pl.col("verdict") == Verdict.DUPLICATE) & (pl.col("detail") == WITHIN_DELIVERY)
    of_twins = units.filter(twin).select(_RESOURCE).unique()
    fates = (
        units.join(of_twins, on=_RESOURCE, how="semi")
        .filter(~twin.fill_null(value=False))
        .group_by(_RESOURCE)
        .agg(
            stands=(pl.col("verdict") != Verdict.QUARANTINE).any(),
            copy_reason=pl.col("reason").drop_nulls().last(),
            copy_detail=pl.col("detail").drop_nulls().last(),
        )
    )
    units = units.join(fates.filter(~pl.col("stands")), on=_RESOURCE, how="left", maintain_order="left")
    falls = twin & pl.col("copy_reason").is_not_null()
    return units.with_columns(
        verdict=pl.when(falls).then(pl.lit(Verdict.QUARANTINE.value)).otherwise("verdict"),
        reason=pl.when(falls).then("copy_reason").otherwise("reason"),
        detail=pl.when(falls).then("copy_detail").otherwise("detail"),
    ).drop("stands", "copy_reason", "copy_detail")


def _read_units(
    run: Run[ClinicalPipeline], partitions: Partitions, findings: DatasetWriter, taken: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """Yield the units in the order of the delivery, with verdicts by their lines, structure and files."""
    partition = first = 0
    for units in _read_shards(run, partitions, findings, taken):
        if first >= PARTITION_ROWS:
            partition, first = partition + 1, 0
        rows = pl.int_range(pl.len(), dtype=pl.Int64) + (partition * 2**ROW_BITS + first)
        first += units.height
        yield units.with_columns(row=rows).select(_REFERRING_UNITS.names()).cast(_REFERRING_UNITS)


def _read_shards(
    run: Run[ClinicalPipeline], partitions: Partitions, findings: DatasetWriter, taken: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """Yield the files without units as one unit each, and the units of each chunk."""
    none = RESOURCES.to_frame().with_columns(chunk=_null_text(), clock=_null_text())
    clocks = _Clocks(run, partitions)
    for number, shard in enumerate(find_shards(run)):
        for files in run.workspace.parts(f"files/{shard}", FILES):
            whole = _decide_by_file(pl.concat([none, _select_without_units(files)], how="diagonal"), files)
            yield let_unread_wait(run, whole, taken, select_whole(files, taken))
        chunks = read_chunks(run, [shard])
        if chunks:  # the shard of stopped C-CDA documents has no chunks and may have very many files
            files, of_files = run.workspace.read(f"files/{shard}", FILES), clocks.read(number, shard)
            for chunk in chunks:
                checked = _check_structures(run, chunk, _select_without_units(files), findings)
                decided = _decide_by_file(restore(clocks.add(checked, of_files), taken), files)
                yield let_unread_wait(run, decided, taken, select_whole(files, taken))


class _Clocks:
    """Gives units their clocks: their own time of update, and the clocks of the files that were delivered."""

    def __init__(self, run: Run[ClinicalPipeline], partitions: Partitions) -> None:
        self._run = run
        self._files = FileClocks(run)
        self._now = run.ledger.database_time()
        self._documents = _spool_documents(run, partitions) if run.folder else None

    def read(self, number: int, shard: str) -> pl.DataFrame:
        """Return the clocks of a shard's files; those of converted files are the clocks of their documents."""
        if self._documents is not None:
            return self._files.read(self._documents.partition(number))
        return self._files.read(self._run.workspace.read(f"arrivals/{shard}", ARRIVALS))

    def add(self, units: pl.DataFrame, files: pl.DataFrame) -> pl.DataFrame:
        """Return units with ``clock``."""
        known = units.join(files, on="arrival_id", how="left", maintain_order="left")
        return known.with_columns(format_clock(self._run.pipeline.order, self._now))


def _spool_documents(run: Run[ClinicalPipeline], partitions: Partitions) -> Spool:
    """Return the documents of converted files, partitioned by the number of the shard that has the file."""
    file, shards = pl.col("arrival_id"), find_shards(run)
    numbered = schema({"arrival_id": pl.String, "shard": pl.Int64})
    files = (
        rows.select("arrival_id", shard=pl.lit(number, pl.Int64))
        for number, shard in enumerate(shards)
        for rows in run.workspace.parts(f"arrivals/{shard}", ARRIVALS, ["arrival_id"])
    )
    documents = partitions.spool(file, ARRIVALS, read_arrivals(run.within("")))
    found = partitions.enter_context(NumberedSpool(pl.col("shard"), len(shards)))
    for rows, places in zip_partitions(documents, partitions.spool(file, numbered, files)):
        found.add(rows.join(places, on="arrival_id"))
    return found


def _select_without_units(files: pl.DataFrame) -> pl.DataFrame:
    return files.filter(pl.col("units") == 0).select("arrival_id")


def _decide_by_file(units: pl.DataFrame, files: pl.DataFrame) -> pl.DataFrame:
    """Return units with verdicts by their own reasons and by the reasons of their files."""
    stopped = files.filter(pl.col("reason").is_not_null())
    whole = stopped.select("arrival_id", file_reason="reason", file_detail="detail")
    units = units.join(whole, on="arrival_id", how="left", maintain_order="left")
    # A reason of the whole file also stops its valid resources.
    of_file = pl.col("file_reason").is_not_null()
    units = units.with_columns(
        reason=pl.coalesce("file_reason", "reason"),
        detail=pl.when(of_file).then("file_detail").otherwise("detail"),
    )
    milder = pl.col("reason").replace_strict(_MILD_VERDICTS, default=Verdict.QUARANTINE.value, return_dtype=pl.String)
    verdict = pl.when(pl.col("reason").is_null()).then(pl.lit(Verdict.ACCEPT.value)).otherwise(milder)
    return units.with_columns(verdict=verdict)


def _check_structures(
    run: Run[ClinicalPipeline], chunk: str, without_units: pl.DataFrame, findings: DatasetWriter
) -> pl.DataFrame:
    """Return a chunk's units with the findings about their structure, without bodies and files that are one unit."""
    rows = run.workspace.read(chunk, RESOURCES).join(without_units, on="arrival_id", how="anti", maintain_order="left")
    found = [None if body is None else structure.check(body) for body in rows["body"]]
    units = rows.select(_KEY + _RESOURCE).iter_rows(named=True)
    wrong = [row | {"source": "local", "outcome": item.outcome} for row, item in zip(units, found, strict=True) if item]
    findings.add(pl.DataFrame(wrong, schema=OPERATION_OUTCOMES))
    return (
        rows.with_columns(_read_time_of_update(run))
        .drop("body")
        .with_columns(
            reason=pl.coalesce(pl.Series([item and str(item.reason) for item in found], dtype=pl.String), "reason"),
            detail=pl.coalesce(pl.Series([item and item.detail for item in found], dtype=pl.String), "detail"),
            chunk=pl.lit(chunk),
        )
    )


def _read_time_of_update(run: Run[ClinicalPipeline]) -> pl.Expr:
    """Return the time of a resource's update if the pipeline orders contents by it."""
    if run.pipeline.order.across_keys == "last_updated":
        return read_last_updated()
    return pl.lit(None, pl.Int64).alias("last_updated")


def _stop_duplicates(
    run: Run[ClinicalPipeline], units: Iterable[pl.DataFrame], resolver: Resolver, taken: pl.DataFrame
) -> Iterator[pl.DataFrame]:
    """Stop duplicates within the delivery and of the data store; add resources and references to the resolver."""
    for part in units:
        decided = _stop_stored(run, _stop_twins(run, _stop_older_twins(run, _take_turns(run, part, taken))))
        resolver.add_resources(decided.filter(pl.col("resource_id").is_not_null()))
        resolver.add_references(select_accepted(decided))
        yield decided


def _take_turns(run: Run[ClinicalPipeline], units: pl.DataFrame, taken: pl.DataFrame) -> pl.DataFrame:
    """Let parked resources wait for their turn; one of which newer content is there does not take a turn."""
    if taken.is_empty():
        return units
    waiting = let_twins_wait(run, _stop_late(run, units, is_of(taken)), taken)
    return let_taken_count(run, waiting, taken)


def _null_text() -> pl.Expr:
    return pl.lit(None, pl.String)


def _stop_older_twins(run: Run[ClinicalPipeline], units: pl.DataFrame) -> pl.DataFrame:
    """Ignore units of one resource with several contents where the declared clock orders all of them, but the newest.

    A unit that was stopped is ignored too if an accepted one is newer. The next clock does not count here: files of one
    delivery are uploaded in any order.
    """
    declared = read_clock(run.pipeline.order.across_keys)
    of_twins = (
        select_accepted(units)
        .group_by(_RESOURCE)
        .agg(newest=declared.max(), ordered=declared.is_not_null().all(), contents=pl.col("content_digest").n_unique())
    )
    units = units.join(of_twins, on=_RESOURCE, how="left", maintain_order="left")
    older = pl.col("ordered") & (declared < pl.col("newest"))
    accepted, stopped = (pl.col("verdict") == verdict for verdict in (Verdict.ACCEPT, Verdict.QUARANTINE))
    hit = (older & ((accepted & (pl.col("contents") > 1)) | stopped)).fill_null(value=False)
    return units.with_columns(
        verdict=pl.when(hit).then(pl.lit(Verdict.IGNORE.value)).otherwise("verdict"),
        reason=pl.when(hit).then(pl.lit(str(Reason.NEWER_CONTENT))).otherwise("reason"),
        detail=pl.when(hit).then(pl.lit("the delivery brings newer content")).otherwise("detail"),
    ).drop("newest", "ordered", "contents")


def _stop_twins(run: Run[ClinicalPipeline], units: pl.DataFrame) -> pl.DataFrame:
    """Stop units of one resource: all but the newest if their contents are equal, else all of them."""
    twins = select_accepted(units).group_by(_RESOURCE).agg(contents=pl.col("content_digest").n_unique())
    units = units.join(twins, on=_RESOURCE, how="left", maintain_order="left")
    other = pl.lit("the delivery brings this type and id with several contents")
    units = decide_where(units, pl.col("contents") > 1, Verdict.QUARANTINE, Reason.DUPLICATE_OTHER_CONTENT, other)
    spare = find_spare(run, run.pipeline.datastore_id, select_accepted(units).select("row", *CLAIMS.names()))
    again = pl.col("row").is_in(spare["row"].implode())
    units = decide_where(units, again, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, pl.lit(WITHIN_DELIVERY))
    return units.drop("contents")


def _stop_stored(run: Run[ClinicalPipeline], units: pl.DataFrame) -> pl.DataFrame:
    """Stop resources of which newer content is there, or the same, and by policy those with other content."""
    units = _stop_late(run, units)
    known = run.ledger.known_resources(
        run.pipeline.datastore_id, select_accepted(units).select(_RESOURCE), except_run=run.holder
    )
    if run.redrive is not None:
        known = drop_held(run, known)
    units = units.join(
        known.select(*_RESOURCE, stored="content_digest"), on=_RESOURCE, how="left", maintain_order="left"
    )
    same = pl.col("stored") == pl.col("content_digest")
    earlier = pl.lit("by an earlier delivery")
    again = select_accepted(units).filter(same)
    _confirm_stored(run, again)
    stays = pl.col("row").is_in(_find_claimed(run, again).implode()).not_()
    units = decide_where(units, same & stays, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, earlier)
    if run.pipeline.validation.changed_resource == "quarantine":
        changed = pl.col("stored").is_not_null()
        units = decide_where(units, changed, Verdict.QUARANTINE, Reason.DUPLICATE_OTHER_CONTENT, earlier)
    return units.drop("stored")


def _stop_late(run: Run[ClinicalPipeline], units: pl.DataFrame, among: pl.Expr = _ALL) -> pl.DataFrame:
    """Ignore the resources of which newer content is there, and quarantine those that cannot be ordered."""
    late = find_late(run, run.pipeline.datastore_id, _make_claims(units.filter(among)))
    units = units.join(late, on=["arrival_id", *_RESOURCE, "content_digest"], how="left", maintain_order="left")
    hit = (pl.col("verdict") == Verdict.ACCEPT) & pl.col("order_reason").is_not_null()
    return units.with_columns(
        verdict=pl.when(hit).then("order_verdict").otherwise("verdict"),
        reason=pl.when(hit).then("order_reason").otherwise("reason"),
        detail=pl.when(hit).then("order_detail").otherwise("detail"),
    ).drop(DECIDED)


def _confirm_stored(run: Run[ClinicalPipeline], same: pl.DataFrame) -> None:
    """Let contents that come again unchanged count as of now, so that nothing between the two comes after them."""
    if same.height and not run.plan_only:
        datastore = run.pipeline.datastore_id
        confirmed = find_confirmed(run, datastore, _make_claims(same))
        with run.ledger.at_once(scope(datastore), keep_first=True) as ledger:  # a second try finds nothing to confirm
            ledger.confirm_contents(datastore, confirmed)


def _find_claimed(run: Run[ClinicalPipeline], same: pl.DataFrame) -> pl.Series:
    """Return the rows of confirmed contents of which another run may be about to store another content.

    They are not duplicates: the claim of such a content is refused, and its file comes again. A run that claims the
    resource from now on is refused if its own content is older than the confirmed one.
    """
    claimed = run.ledger.claimed_resources(run.pipeline.datastore_id, same.select(_RESOURCE))
    of_others = claimed.filter(pl.col("claimed_by").ne_missing(pl.lit(run.holder, pl.String)))
    return same.join(of_others, on=_RESOURCE, how="semi")["row"]


def _make_claims(units: pl.DataFrame) -> pl.DataFrame:
    """Return the accepted units as `ledger.resources.CLAIMS`."""
    return select_accepted(units).select(CLAIMS.names())


def _ask_service(
    run: Run[ClinicalPipeline], units: Spool, meanings: Spool, store: FhirStore | None, findings: DatasetWriter
) -> Iterator[pl.DataFrame]:
    """Stop resources that $validate refuses: as many as the policy asks about, in the form of the import files."""
    settings, check = run.pipeline.validation, run.pipeline.service_check
    if store is None or check == "none":
        yield from units
        return
    sample = None if check == "all" else service_check.sampled(map(select_accepted, units), settings)
    for part, found in zip_partitions(units, meanings):
        accepted = select_accepted(part)
        asked = accepted if sample is None else accepted.join(sample, on=_KEY, how="semi", maintain_order="left")
        stopped: dict[tuple[str, int], Finding] = {}
        for rows in read_bodies(run, asked, found.filter(IS_REWRITTEN).select(REWRITES.names())):
            bodies = rows.select(*_KEY, "body").iter_rows()
            for arrival, line, finding in service_check.ask(store, bodies, settings.checks_in_flight):
                stopped[arrival, line] = finding
        yield _stop_invalid(part, asked, stopped, findings)


def _stop_invalid(
    units: pl.DataFrame, asked: pl.DataFrame, stopped: dict[tuple[str, int], Finding], findings: DatasetWriter
) -> pl.DataFrame:
    """Stop the units with a finding of $validate, and write the findings."""
    rows = {
        (row["arrival_id"], row["line"]): row for row in asked.select("row", *_KEY, *_RESOURCE).iter_rows(named=True)
    }
    details = [(rows[key]["row"], finding.detail) for key, finding in stopped.items()]
    reported = [rows[key] | {"source": "$validate", "outcome": finding.outcome} for key, finding in stopped.items()]
    findings.add(pl.DataFrame(reported, schema=schema({"row": pl.Int64}, OPERATION_OUTCOMES)).drop("row"))
    frame = pl.DataFrame(details, schema={"row": pl.Int64, "finding": pl.String}, orient="row")
    return stop_rows(units, frame, Reason.SERVICE_FINDS_INVALID)


def _claim_resources(run: Run[ClinicalPipeline], units: Spool, taken: pl.DataFrame) -> Iterator[pl.DataFrame]:
    """Claim the accepted resources; stop those that another run has claimed, so that a later run takes their file.

    The order of contents is asked again: another run may have brought newer content since.
    """
    refused = claim_resources(
        run, run.pipeline.datastore_id, map(_make_claims, units), lambda contested: refuse_late(run, contested)
    ).rename({"reason": "why", "detail": "finding"})
    is_older = pl.col("why") == Reason.NEWER_CONTENT
    for part in units:
        held = part.join(refused, on=_RESOURCE, how="left", maintain_order="left")
        is_claimed = pl.col("claimed_by").is_not_null()
        held = let_claimed_wait(held, taken, is_claimed)
        decided = decide_where(held, is_claimed, Verdict.QUARANTINE, Reason.INSTANCE_CLAIMED, _null_text())
        decided = decide_where(decided, is_older, Verdict.IGNORE, Reason.NEWER_CONTENT, pl.col("finding"))
        for reason in (Reason.ORDER_UNKNOWN, Reason.FUTURE_TIMESTAMP):
            decided = decide_where(decided, pl.col("why") == reason, Verdict.QUARANTINE, reason, pl.col("finding"))
        yield _stop_copies(decided.drop("claimed_by", "why", "finding"))
