"""Audit: read every manifest, match every line to the batch's list, balance the books, decide release or hold.

Writes ``outcomes``, ``gates``, ``dispositions`` and ``contracts``, and always audit/report.json and
audit/dispositions.csv, whatever broke off before. Auditing again gives the same result.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging import gate, manifests, report
from airlock.imaging.books import ARRIVAL, DECIDED, open_books
from airlock.imaging.declarations import DATASET as DECLARED_COUNTS
from airlock.imaging.declarations import DECLARED
from airlock.imaging.import_ import find_replaced
from airlock.imaging.input_files import name_files
from airlock.imaging.matching import MATCHED, find_contradicted, is_matching, read_matches
from airlock.imaging.outcomes import account, find_discrepancies, list_notes
from airlock.imaging.publication import FOLDER, find_proven
from airlock.imaging.read_back import ask_primary, choose_image_sets, read_back
from airlock.imaging.reading import find_reading
from airlock.imaging.repoint import read_look, release_repointed
from airlock.imaging.report import Tally
from airlock.imaging.resolve import CARRIED
from airlock.imaging.settle import (
    IN_STORE,
    Part,
    Policy,
    UnbalancedError,
    cut_studies,
    foresee_holds,
    release_waiting,
    settle_part,
)
from airlock.imaging.stage import describe_staged, is_staged
from airlock.imaging.unread import attribute
from airlock.ledger.studies import SERIES as SERIES_ELEMENTS
from airlock.ledger.studies import STUDIES as STUDY_ELEMENTS
from airlock.reasons import Reason
from airlock.records import (
    ARRIVALS,
    BATCHES,
    CONTRACTS,
    DISPOSITIONS,
    GATES,
    HOLDS,
    OUTCOMES,
    STUDIES,
    VERDICTS,
    Gate,
    Outcome,
    count_parts,
    study_key,
)
from airlock.stages.auditing import (
    OPEN_REASONS,
    Audited,
    build_job_entry,
    explain_problems,
    leave_open,
    missing_job_reason,
    write_report,
)
from airlock.stages.batches import find_batches
from airlock.stages.brake import check_held, count_held
from airlock.stages.buffer import Buffered, find_buffered
from airlock.stages.edge import keep_edge
from airlock.stages.jobs import find_ended_job
from airlock.stages.outputs import account_for_each, read_best_output
from airlock.stages.releases import remove_unreleased_payloads
from airlock.stages.reporting import describe_imbalances, describe_untaken, to_csv
from airlock.stages.review import find_approvals, keep_scope
from airlock.stages.split_studies import give_up_taken
from airlock.stages.waves import describe_wave
from airlock.storage.spool import count_partitions, zip_partitions
from airlock.storage.workspace import PART_ROWS

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from airlock.imaging.books import Books
    from airlock.imaging.read_back import ImageSetReader
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.stages.brake import Finding
    from airlock.storage.spool import SortedSpool
    from airlock.storage.workspace import DatasetWriter


def audit(run: Run, imaging: ImageSetReader, published: Collection[str] = ()) -> Audited:
    """Decide on every arrival of a run, write the datasets and the report, and record the decisions in the ledger.

    Parameters
    ----------
    run
        The run.
    imaging
        Reads image sets back.
    published
        The keys of the studies that are proven in HealthLake. A pipeline that publishes releases only these.
    """
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)  # buffer may have failed before it did
    keep_scope(run)
    keep_edge(run)
    give_up_taken(run)
    found = find_buffered(run)
    buffered = found or Buffered()
    with open_books(count_partitions(buffered.arrivals)) as books:
        jobs = _account_all(run, books, imaging)
        _fill_books(run, books, buffered.all_shards)
        problems = explain_problems(run, describe_imbalances(books.balance()))
        evidence = _gather_evidence(run, books, jobs, _record_imports(run, books), imaging)
        stopped_by = _check_brake(run, books, evidence, balanced=not problems)
        policy = _make_policy(run, books, published, balanced=not problems, settles=stopped_by is None)
        try:
            decisions = _settle_all(run, books, evidence, policy)
        except UnbalancedError as error:
            problems = error.problems
            decisions = _settle_all(run, books, evidence, replace(policy, balanced=False))
        remove_unreleased_payloads(run)
        audited = _write_reports(run, buffered, decisions, jobs, problems)
        if stopped_by is not None:
            return leave_open(run, audited, stopped_by)
        state = "audited" if audited.balanced and not audited.open_arrivals else "open"
        run.ledger.close_run(run.key, state, audited.report)
    return audited


def _fill_books(run: Run, books: Books, shards: list[str]) -> None:
    """Add the datasets of the stages before import, as far as they exist, and the ids that the ledger holds."""
    for shard in shards:
        for rows in run.workspace.parts(f"arrivals/{shard}", ARRIVALS, ARRIVAL):
            books.add_arrivals(rows)
    for rows in run.workspace.find_parts("verdicts", VERDICTS, DECIDED):
        books.add_verdicts(rows)
    for rows in run.workspace.find_parts("studies", STUDIES):
        books.drafts.add(rows)
    for rows in run.workspace.find_parts(DECLARED_COUNTS, DECLARED):
        books.declared.add(rows)
    for rows in run.ledger.held_ids(run.pipeline.name, run.key):
        books.held_ids.add(rows)
    attribute(run, books)


def _account_all(run: Run, books: Books, imaging: ImageSetReader) -> list[dict[str, Any]]:
    """Add the outcomes of all batches to the books; return an entry per job for the report."""
    jobs: list[dict[str, Any]] = []
    for carried in run.workspace.find_parts(CARRIED, OUTCOMES):
        books.add_outcomes(carried)
    # One wait for all jobs: they have ended, and a hundred without output must not cost a hundred waits.
    until = time.monotonic() + run.pipeline.audit.manifest_wait_seconds
    one = partial(_account_batch, run, imaging=imaging, until=until)
    for outcomes, entries in account_for_each(find_batches(run), one):
        books.add_outcomes(outcomes)
        jobs += entries
    return jobs


def _account_batch(
    run: Run, batch: Batch, *, imaging: ImageSetReader, until: float
) -> tuple[pl.DataFrame, list[dict[str, Any]]]:
    """Return a batch's outcomes, and the entry of its job if one was begun; wait for its output at most until then."""
    files = run.workspace.read(f"batches/{batch.batch_id}", BATCHES)
    batch = describe_staged(files) if is_staged(files) else batch
    job = find_ended_job(run, batch.batch_id)
    if job is not None:
        output = read_best_output(run, job, max(0.0, until - time.monotonic()), manifests)
        output = ask_primary(imaging, run.pipeline.datastore_id, name_files(files, job, output))
        entry = build_job_entry(batch, job, find_discrepancies(files, output)) | list_notes(output)
        return account(files, job, output, replaced=find_replaced(run, job)), [entry]
    known = run.ledger.job(batch.batch_id)
    entries = [] if known is None else [build_job_entry(batch, known, [])]
    return account(files, None, None, missing_job_reason(known)), entries


def _record_imports(run: Run, books: Books) -> pl.Series:
    """Record the imported instances in the ledger; return those that another run has imported meanwhile.

    This comes before the gate: a study is complete as soon as this run has imported the file that an earlier run could
    not.
    """
    datastore = run.pipeline.healthimaging.datastore_id
    state = pl.when(pl.col("outcome") == Outcome.NON_PRIMARY).then(pl.lit("non_primary")).otherwise(pl.lit("imported"))
    in_store = (outcomes.filter(IN_STORE).with_columns(state=state) for outcomes in books.outcomes)
    studies, series = _select_elements(books, STUDY_ELEMENTS), _select_elements(books, SERIES_ELEMENTS)
    return run.ledger.record_imported(datastore, run.key, in_store, studies, series)["SOPInstanceUID"]


def _select_elements(books: Books, schema: pl.Schema) -> Iterator[pl.DataFrame]:
    """Yield the grouping elements of the studies, or of the series, that have a file in the data store."""
    names = schema.names()
    for decided, outcomes in zip_partitions(books.decided, books.outcomes):
        primary = outcomes.filter(pl.col("outcome").is_in(gate.IMPORTED)).select("arrival_id")
        verdicts = decided.filter(pl.col("verdict").is_not_null()).select("arrival_id", *names)
        rows = primary.join(verdicts, on="arrival_id", how="inner", maintain_order="left")
        yield rows.unique(names[0], keep="first", maintain_order=True).select(names)


@dataclass(frozen=True)
class _Evidence:
    """The facts about a run's jobs that decide on a study, besides its own books."""

    imaging: ImageSetReader
    suspect: list[str]  # batches whose counts disagree
    repeated: list[str]  # batches whose job was not the first
    split: pl.Series  # series that more than one batch brings
    brought_elsewhere: pl.Series  # instances that another run has imported as well
    to_read_back: list[str]  # image sets


def _gather_evidence(
    run: Run, books: Books, jobs: list[dict[str, Any]], brought_elsewhere: pl.Series, imaging: ImageSetReader
) -> _Evidence:
    fraction = run.pipeline.audit.read_back_fraction
    image_sets = {name for part in books.outcomes for name in part["image_set_id"].drop_nulls()} if fraction else set()
    return _Evidence(
        imaging=imaging,
        suspect=[job["batch_id"] for job in jobs if job["discrepancies"]],
        repeated=[job["batch_id"] for job in jobs if job["generation"]],
        split=books.split_series(),
        brought_elsewhere=brought_elsewhere,
        to_read_back=choose_image_sets(image_sets, fraction),
    )


def _make_policy(run: Run, books: Books, published: Collection[str], *, balanced: bool, settles: bool) -> Policy:
    """Return what decides on all studies; of people's decisions not those on studies that a redrive has taken over.

    The audit of the redrive decides on those: a late answer must not release a study that the redrive imports again.
    """
    store = run.pipeline.datastore_id
    redriven = run.ledger.find_redriven_studies(run.pipeline.name, run.key)
    overrides = find_approvals(run)
    before = run.ledger.gates_of(store, run.key)
    contradicted = set(map(study_key, find_contradicted(run)))  # an earlier try may have published them
    return Policy(
        balanced=balanced,
        settles=settles,
        published={*published} - contradicted,
        overrides=overrides.filter(~pl.col("subject").is_in(redriven.implode())),
        redriven=redriven,
        released=before.filter(pl.col("gate") == Gate.RELEASE)["subject"],
        unattributed=books.unattributed,
        late=_find_late(run, before),
        matches=read_matches(run) if is_matching(run) else MATCHED.to_frame(),
    )


def _find_late(run: Run, before: pl.DataFrame) -> dict[str, str] | None:
    """Return the studies that could not be in the publication, with the reason; None before it was over.

    They waited for others, or their order is another patient's.
    """
    if not run.within(FOLDER).workspace.is_committed("published"):
        return None
    reasons = (Reason.STUDY_IN_FLIGHT, Reason.AWAITING_DECLARED, Reason.WAITING_FOR_FILE)
    waited = pl.col("reason").is_in([str(reason) for reason in reasons])
    late = dict(before.filter(waited).select("subject", "reason").iter_rows())
    return late | dict.fromkeys(find_contradicted(run), str(Reason.PATIENT_CONTRADICTED))


@dataclass(frozen=True)
class _Decisions:
    """The decisions of an audit."""

    dispositions: SortedSpool  # by key
    tally: Tally

    def in_order(self) -> Iterator[pl.DataFrame]:
        """Yield the dispositions part by part, by key."""
        for part in self.dispositions:
            yield part.sort("key", "arrival_id")


def _settle_all(run: Run, books: Books, evidence: _Evidence, policy: Policy) -> _Decisions:
    """Settle study by study, and write the datasets of the decisions.

    ``publishable`` has the released contracts, and those of studies that only wait for their publication in HealthLake;
    a pipeline that publishes nothing does not write it.

    Raises
    ------
    UnbalancedError
        If the dispositions of a part are not one per arrival. Nothing of the part is written.
    """
    decisions = _Decisions(
        books.spool_by_key(DISPOSITIONS), Tally(books.arrivals.rows, books.bytes, unattributed=books.unattributed)
    )
    with ExitStack() as stack:
        writers = {
            name: stack.enter_context(run.workspace.writer(name, schema, rows))
            for name, schema, rows in (
                ("outcomes", OUTCOMES, PART_ROWS),
                ("gates", GATES, PART_ROWS),
                ("holds", HOLDS, PART_ROWS),
                ("contracts", CONTRACTS, None),
                *([("publishable", CONTRACTS, None)] if run.pipeline.healthlake is not None else []),
            )
        }
        unread = books.unread_by_study, books.unread_by_file
        partitions = zip_partitions(books.decided, books.outcomes, books.drafts, *unread, books.declared)
        for frames in chain.from_iterable(map(cut_studies, partitions)):
            part = settle_part(run, _account_part(run, frames, books.unknown_ids, evidence), policy)
            writers["outcomes"].add(part["outcomes"].select(OUTCOMES.names()).cast(OUTCOMES))
            writers["gates"].add(part["gates"])
            writers["holds"].add(part["holds"])
            if policy.settles:
                _add_contracts(writers, part["contracts"], part["gates"])
            decisions.dispositions.add(part["dispositions"])
            decisions.tally.add(part)
        if policy.balanced and policy.settles:
            _add_contracts(writers, *release_waiting(run, policy))
            for contracts, gates in release_repointed(run, find_proven(run)) if policy.late is not None else ():
                _add_contracts(writers, contracts, gates)
    return decisions


def _add_contracts(writers: Mapping[str, DatasetWriter], contracts: pl.DataFrame, gates: pl.DataFrame) -> None:
    release = pl.col("gate") == Gate.RELEASE
    ready = release | (pl.col("reason") == Reason.NOT_PUBLISHED)
    for writer, where in ((writers["contracts"], release), (writers.get("publishable"), ready)):
        if writer is not None:
            studies = gates.filter(where)["StudyInstanceUID"]
            writer.add(contracts.filter(pl.col("subject").is_in(studies.implode())))
            writer.end_part()  # contracts are few, and long


def _account_part(run: Run, studies: tuple[pl.DataFrame, ...], unknown_ids: pl.Series, evidence: _Evidence) -> Part:
    """Return a part, which has whole studies, with the findings about its outcomes."""
    decided, outcomes, drafts, *others = studies
    outcomes = _flag_outcomes(run, outcomes, evidence)
    frames = decided.select("arrival_id", "NumberOfFrames")
    outcomes = read_back(evidence.imaging, run.pipeline.datastore_id, outcomes, frames, evidence.to_read_back)
    arrivals = decided.filter(~pl.col("arrival_id").is_in(unknown_ids.implode())).unique("arrival_id")
    return Part(decided, outcomes, drafts, arrivals, *others)


def _flag_outcomes(run: Run, outcomes: pl.DataFrame, evidence: _Evidence) -> pl.DataFrame:
    """Add the column ``blocks``, and the reasons of what a person has to look at."""
    outcomes = _flag_overwritten(_flag_versions(run, outcomes, evidence), evidence)
    return gate.flag_blocking(outcomes, run.pipeline.audit, evidence.suspect)


def _check_brake(run: Run, books: Books, evidence: _Evidence, *, balanced: bool) -> Finding | None:
    """Return the finding that keeps the audit from settling, before it decides under locks."""

    def foresee() -> Iterator[pl.DataFrame]:
        for decided, outcomes, unread in zip_partitions(books.decided, books.outcomes, books.unread_by_study):
            yield foresee_holds(run, decided, _flag_outcomes(run, outcomes, evidence), unread)

    return check_held(run, books.arrivals.rows, lambda: count_held(run, foresee()), balanced=balanced)


def _flag_versions(run: Run, outcomes: pl.DataFrame, evidence: _Evidence) -> pl.DataFrame:
    """Flag image sets with a version above 1 whose series only one first job of this run has imported into."""
    above = (pl.col("image_set_version") > 1) & pl.col("outcome").is_in(gate.IMPORTED)
    studies = outcomes.filter(above)["StudyInstanceUID"].drop_nulls().unique()
    store, series = run.pipeline.datastore_id, outcomes.filter(above)["SeriesInstanceUID"].drop_nulls().unique()
    # The series is also known if this run has redriven all that another run had brought of it.
    before = run.ledger.known_series(store, series, except_run=run.key)["SeriesInstanceUID"]
    known = pl.concat([before, run.ledger.series_of_others(store, studies, run.key)])
    expected = (
        pl.col("SeriesInstanceUID").is_in(known.implode())
        | pl.col("SeriesInstanceUID").is_in(evidence.split.implode())
        | pl.col("batch_id").is_in(evidence.repeated)
    )
    return _flag_version(outcomes, above & ~expected)


def _flag_overwritten(outcomes: pl.DataFrame, evidence: _Evidence) -> pl.DataFrame:
    """Flag instances that another run has imported meanwhile."""
    return _flag_version(outcomes, IN_STORE & pl.col("SOPInstanceUID").is_in(evidence.brought_elsewhere.implode()))


def _flag_version(outcomes: pl.DataFrame, where: pl.Expr) -> pl.DataFrame:
    flag = pl.when(where).then(pl.lit(str(Reason.VERSION_ABOVE_ONE)))
    return outcomes.with_columns(reason=flag.otherwise("reason"))


def _write_reports(
    run: Run, buffered: Buffered, decisions: _Decisions, jobs: list[dict[str, Any]], problems: list[str]
) -> Audited:
    """Write the dispositions, as a dataset and as dispositions.csv, and then the report."""
    with (
        tempfile.TemporaryFile(prefix="airlock-") as table,  # a file without a name is gone when the task is killed
        run.workspace.writer("dispositions", DISPOSITIONS) as writer,
    ):
        table.write(to_csv(DISPOSITIONS.to_frame(), report.CSV_COLUMNS).encode())
        for part in decisions.in_order():
            writer.add(part)
            table.write(to_csv(part, report.CSV_COLUMNS, head=False).encode())
        dispositions_uri = run.workspace.write_file("audit/dispositions.csv", table, "text/csv")
    decisions.tally.reading = find_reading(run.workspace, buffered.shards)
    decisions.tally.redrive = _describe_redrive(run)
    content = report.build(run, decisions.tally, jobs, problems) | _describe_beside(run)
    report_uri = write_report(run, content)
    waiting = sum(decisions.tally.reasons[str(reason)] for reason in OPEN_REASONS)
    return Audited(content, report_uri, dispositions_uri, waiting)


def _describe_beside(run: Run) -> dict[str, Any]:
    """Return the fields of the report about objects that are not the run's: of other waves, and those not taken."""
    return (describe_wave(run) if find_buffered(run) else {}) | describe_untaken(run) | _describe_patients(run)


def _describe_patients(run: Run) -> dict[str, Any]:
    """Return how many studies have which kind of Patient, and what the look at released ones has counted."""
    if not is_matching(run):
        return {}
    look = read_look(run)
    again = {name: look.get(name, 0) for name in ("looked", "repointed", "alarms")}
    return {"patient_match": count_parts([read_matches(run)], "outcome") | again}


def _describe_redrive(run: Run) -> dict[str, Any] | None:
    """Return the request for the redrive, and the resolutions of its non-primary image sets; None without a redrive."""
    redrive = run.ledger.find_redrive(run.key)
    if redrive is None:
        return None
    shown = ("image_set_id", "resolution", "state", "promoted_id")
    resolved = [{name: getattr(one, name) for name in shown} for one in run.ledger.resolutions_of(run.key)]
    return redrive | {"resolutions": resolved}
