"""The resources that a run has not brought: what it notes of them in the ledger, and what other runs have noted."""

from __future__ import annotations

from dataclasses import replace as change
from itertools import chain
from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical import gate
from airlock.clinical.outcomes import IMPORTED
from airlock.clinical.records import STOPPED, VERDICTS
from airlock.clinical.verdicts import is_stopped
from airlock.ledger.columns import OpenState
from airlock.ledger.open_resources import OPEN
from airlock.reasons import Reason
from airlock.records import Disposition, Gate, Outcome, Verdict
from airlock.stages.auditing import is_open
from airlock.stages.content_order import decide_order, list_clocks, read_clock, select_outdated, select_superseded
from airlock.stages.resources import BY_UNIT, UNIT
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.clinical.books import Books
    from airlock.ledger import Ledger
    from airlock.pipelines import ClinicalAudit, ClinicalPipeline
    from airlock.run import Run
    from airlock.storage.spool import Partitions, Spool

_RESOURCE = ["resource_type", "resource_id"]


def _describe(rows: pl.DataFrame, state: pl.Expr) -> pl.DataFrame:
    named = rows.filter(pl.col("resource_id").is_not_null())
    known = named if "clock" in named.columns else named.with_columns(clock=None)
    return known.with_columns(state=state, patient=gate.subject()).select(OPEN.names()).cast(OPEN)


def find_unproven(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the resources that were refused, or of which nobody knows whether the data store has them."""
    refused, doubtful = pl.col("outcome") == Outcome.REJECTED, pl.col("uncertain") & ~is_open()
    state = pl.when(refused).then(pl.lit(OpenState.REFUSED.value)).otherwise(pl.lit(OpenState.DOUBTFUL.value))
    return _describe(outcomes.filter(refused | doubtful), state)


def find_stopped(verdicts: pl.DataFrame) -> pl.DataFrame:
    """Return the quarantined and parked resources.

    One that another run has claimed is that run's; one that waits for its turn has a note from before.
    """
    not_mine = [str(Reason.INSTANCE_CLAIMED), str(Reason.WAITING_FOR_TURN)]
    mine = ~pl.col("reason").is_in(not_mine).fill_null(value=False)
    return _describe(verdicts.filter(is_stopped() & mine), pl.lit(OpenState.STOPPED.value))


def find_held(sent: pl.DataFrame) -> pl.DataFrame:
    """Return the resources that are stored and held, of the rows of sent resources."""
    waits = is_open() | pl.col("word").is_in([str(Reason.AWAITING_REVIEW), str(Reason.RUN_UNBALANCED)])
    stored = pl.col("outcome").is_in(IMPORTED) & ~pl.col("uncertain")
    held = (pl.col("disposition") == Disposition.HELD) & stored & ~waits.fill_null(value=False)
    return _describe(sent.filter(held).with_columns(reason="word"), pl.lit(OpenState.HELD.value))


def find_missed(run: Run[ClinicalPipeline], books: Books, partitions: Partitions) -> Spool:
    """Return the resources that a run has not brought (`OPEN`), by patient."""
    missed = partitions.spool(pl.col("patient"), OPEN, map(find_unproven, books.outcomes()))
    for rows in _find_all_stopped(run, books.verdicts(), partitions):
        missed.add(rows)
    return missed


def _find_all_stopped(
    run: Run[ClinicalPipeline], verdicts: Iterable[pl.DataFrame], partitions: Partitions
) -> Iterator[pl.DataFrame]:
    """Yield the quarantined and parked resources of which no newer content is there."""
    unit, quarantined = [*UNIT], (rows.filter(is_stopped()) for rows in verdicts)
    stopped = partitions.spool(BY_UNIT, VERDICTS, (rows.select(VERDICTS.names()) for rows in quarantined))
    superseded = partitions.spool(BY_UNIT, STOPPED, find_superseded(run, released=False))
    ordered = partitions.spool(BY_UNIT, STOPPED, run.workspace.find_parts("stopped", STOPPED))
    for rows, units, known in zip_partitions(stopped, superseded, ordered):
        missing = rows.join(units, on=unit, how="anti")
        clocks = known.select(*unit, "clock")
        found = find_stopped(missing.join(clocks, on=unit, how="left", nulls_equal=True, maintain_order="left"))
        yield _drop_older(run, found)


def _drop_older(run: Run[ClinicalPipeline], stopped: pl.DataFrame) -> pl.DataFrame:
    """Drop stopped resources of which another run has stopped newer content: that run's note stands for both."""
    noted = run.ledger.open_of_patients(run.pipeline.datastore_id, stopped["patient"], except_run=run.key)
    known = noted.filter(has_order()).select(*_RESOURCE, known_clock="clock")
    decided = decide_order(stopped.join(known, on=_RESOURCE), run.pipeline.order)
    older = decided.filter(pl.col("order_verdict") == Verdict.IGNORE)
    return stopped.join(older, on=[*_RESOURCE, "clock"], how="anti", maintain_order="left")


def has_order() -> pl.Expr:
    """Return whether a note is about a stopped content with clocks."""
    return (pl.col("state") == OpenState.STOPPED) & pl.col("clock").is_not_null()


def _sort_newest(run: Run[ClinicalPipeline], missed: pl.DataFrame) -> pl.DataFrame:
    """Sort missed resources so that of several stopped contents of one the newest is the first, after other states."""
    newest = [read_clock(name) for name in list_clocks(run.pipeline.order)]
    by = pl.col("state") == OpenState.STOPPED, *newest
    return missed.sort(by, descending=[False] + [True] * len(newest), nulls_last=True, maintain_order=True)


def find_superseded(run: Run[ClinicalPipeline], *, released: bool = True) -> Iterator[pl.DataFrame]:
    """Yield the quarantined and parked units (`STOPPED`) of which other runs have brought newer content, or the same.

    With *released*, content that its run holds or doubts does not count.
    """
    for rows in run.workspace.find_parts("stopped", STOPPED):
        yield select_superseded(run, run.pipeline.datastore_id, rows, released=released)


def note_stopped(run: Run[ClinicalPipeline], partitions: Partitions) -> None:
    """Note in the ledger what validate has quarantined or parked: other runs hold its patients before this run's audit.

    A run that is given back keeps its notes, since its files come again.
    """
    verdicts = run.workspace.parts("verdicts", VERDICTS)
    stopped = partitions.spool(pl.col("patient"), OPEN, _find_all_stopped(run, verdicts, partitions))
    note_open(run, run.ledger, stopped, replace=True)


def note_open(
    run: Run[ClinicalPipeline],
    ledger: Ledger,
    missed: Iterable[pl.DataFrame],
    held: Iterable[pl.DataFrame] = (),
    *,
    replace: bool = False,
) -> None:
    """Note in the ledger what a run has not brought and what it holds; with *replace* its other notes go."""
    frames = chain((_sort_newest(run, rows) for rows in missed), held)
    ledger.note_open(run.pipeline.datastore_id, run.key, frames, replace=replace)


def has_superseded(run: Run[ClinicalPipeline], ledger: Ledger, missed: pl.DataFrame) -> bool:
    """Return whether other runs have brought newer content, or the same, of resources that a run has stopped."""
    stopped = missed.filter(has_order())
    if stopped.is_empty():
        return False
    asking = change(run, ledger=ledger)
    return not select_superseded(asking, run.pipeline.datastore_id, stopped, released=False).is_empty()


def find_outdated(run: Run[ClinicalPipeline], ledger: Ledger, brought: pl.DataFrame) -> pl.DataFrame:
    """Return the resources of which other runs have stopped newer content than this run brings."""
    if brought.is_empty():
        return brought.select(_RESOURCE)
    found = ledger.stopped_contents(run.pipeline.datastore_id, run.key, brought.select(_RESOURCE))
    return select_outdated(change(run, ledger=ledger), found)


def _find_staying(run: Run[ClinicalPipeline], ledger: Ledger, noted: pl.DataFrame) -> pl.DataFrame:
    """Return the resources whose notes stay although this run brings them, or has brought and forgotten them."""
    stopped = noted.filter(has_order()).select(_RESOURCE)
    if stopped.is_empty():
        return stopped
    found = ledger.stopped_contents(run.pipeline.datastore_id, run.key, stopped)
    outdated = select_outdated(change(run, ledger=ledger), found)
    return stopped.join(found.join(outdated, on=_RESOURCE, how="anti"), on=_RESOURCE, how="anti")


def find_doubts(run: Run[ClinicalPipeline], ledger: Ledger, patients: pl.Series) -> pl.DataFrame:
    """Return the resources for which other runs hold these patients (`gate.DOUBTS`), in a fixed order.

    A patient that this run has released stays released: what came later is a finding of the run that found it.
    """
    datastore = run.pipeline.datastore_id
    found = ledger.open_of_patients(datastore, patients, except_run=run.key)
    holding = found.filter(_holds(run.pipeline.audit))
    if holding.is_empty():
        return gate.DOUBTS.to_frame()
    releases = ledger.released_before(datastore, holding["patient"].unique())
    own = releases.filter((pl.col("run_key") == run.key) & (pl.col("gate") == Gate.RELEASE))["subject"]
    rows = holding.filter(~pl.col("patient").is_in(own.implode()))
    staying = _find_staying(run, ledger, rows).with_columns(stays=True)
    marked = rows.rename({"patient": "subject"}).join(staying, on=_RESOURCE, how="left", maintain_order="left")
    return marked.with_columns(pl.col("stays").fill_null(value=False)).select(gate.DOUBTS.names())


def _holds(settings: ClinicalAudit) -> pl.Expr:
    """Return whether an open resource holds its patient."""
    state = pl.col("state")
    refused_patient = (state == OpenState.REFUSED) & (pl.col("resource_type") == "Patient")
    missing = state.is_in([OpenState.REFUSED.value, OpenState.STOPPED.value]) | gate.is_dangling()
    counts = missing & pl.col("resource_type").is_in(settings.hold_types)
    holds = (state == OpenState.DOUBTFUL) | refused_patient
    return holds | counts if settings.hold_incomplete_patients else holds
