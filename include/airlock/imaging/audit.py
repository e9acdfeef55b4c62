"""Audit: read every manifest, match every line to the batch's list, balance the books, decide release or hold.

Writes ``outcomes``, ``gates``, ``dispositions`` and ``contracts``, and always audit/report.json and
audit/dispositions.csv, whatever broke off before. Auditing again gives the same result.
"""

from __future__ import annotations

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging import gate, manifests, report
from airlock.imaging.books import ARRIVAL, DECIDED, open_books
from airlock.imaging.contracts import FhirReferences, StudyContract, complete, with_revision
from airlock.imaging.fhir.publishing import read_publishing
from airlock.imaging.fhir.study import name_resources
from airlock.imaging.import_ import find_replaced
from airlock.imaging.input_files import name_files
from airlock.imaging.outcomes import account, find_discrepancies, list_notes
from airlock.imaging.read_back import ask_primary, choose_image_sets, read_back
from airlock.imaging.reading import find_reading
from airlock.imaging.report import Tally
from airlock.imaging.resolve import CARRIED
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
    digest,
)
from airlock.stages.auditing import (
    OPEN_REASONS,
    Audited,
    build_job_entry,
    explain_missing_delivery,
    is_open,
    missing_job_reason,
)
from airlock.stages.batches import find_batches
from airlock.stages.buffer import Buffered, find_buffered
from airlock.stages.jobs import find_ended_job
from airlock.stages.outputs import account_for_each, read_best_output
from airlock.stages.reporting import describe_imbalances, to_csv
from airlock.stages.review import find_overridden
from airlock.storage.spool import count_partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping

    from airlock.imaging.books import Books
    from airlock.imaging.read_back import ImageSetReader
    from airlock.run import Run
    from airlock.stages.batches import Batch
    from airlock.storage.spool import SortedSpool, Spool

# The ledger's word for a study is subject.
_SUBJECT = {"StudyInstanceUID": "subject", "study_key": "subject_key"}
_IN_STORE = pl.col("outcome").is_in((*gate.IMPORTED, Outcome.NON_PRIMARY.value))


class UnbalancedError(RuntimeError):
    """An arrival has no disposition, or more than one."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("; ".join(problems))
        self.problems = problems


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
    found = find_buffered(run)
    buffered = found or Buffered()
    with open_books(count_partitions(buffered.arrivals)) as books:
        jobs = _account_all(run, books, imaging)
        _fill_books(run, books, buffered.all_shards)
        problems = describe_imbalances(books.balance())
        if found is None:
            problems = [explain_missing_delivery(run), *problems]
        evidence = _gather_evidence(run, books, jobs, _record_imports(run, books), imaging=imaging, published=published)
        try:
            decisions = _decide_all(run, books, evidence, balanced=not problems)
        except UnbalancedError as error:
            problems = error.problems
            decisions = _decide_all(run, books, evidence, balanced=False)
        with ThreadPoolExecutor(1) as pool:  # the ledger and this machine work at the same time
            recorded = pool.submit(_record_decisions, run, books, decisions)
            audited = _write_reports(run, buffered, decisions, jobs, problems)
            recorded.result()
        _settle(run, decisions, audited)
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
    for rows in run.ledger.held_ids(run.pipeline.name, run.key):
        books.held_ids.add(rows)


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
    job = find_ended_job(run, batch.batch_id)
    if job is not None:
        output = read_best_output(run, job, max(0.0, until - time.monotonic()), manifests)
        output = ask_primary(imaging, run.pipeline.datastore_id, name_files(files, job, output))
        entry = build_job_entry(batch, job, find_discrepancies(files, output)) | list_notes(output)
        return account(files, job, output, replaced=find_replaced(run, batch.batch_id, job.job_id)), [entry]
    known = run.ledger.job(batch.batch_id)
    entries = [] if known is None else [build_job_entry(batch, known, [])]
    return account(files, None, None, missing_job_reason(known)), entries


def _record_imports(run: Run, books: Books) -> pl.Series:
    """Record the imported instances in the ledger; return those that another run has imported meanwhile.

    This comes before the gate: a study is complete as soon as this run has imported the file that an earlier run could
    not. The claim on an instance that the service did not import is dropped, so that a later delivery may import it.
    """
    datastore = run.pipeline.healthimaging.datastore_id
    state = pl.when(pl.col("outcome") == Outcome.NON_PRIMARY).then(pl.lit("non_primary")).otherwise(pl.lit("imported"))
    in_store = (outcomes.filter(_IN_STORE).with_columns(state=state) for outcomes in books.outcomes)
    studies, series = _select_elements(books, STUDY_ELEMENTS), _select_elements(books, SERIES_ELEMENTS)
    overwritten = run.ledger.record_imported(datastore, run.key, in_store, studies, series)
    for outcomes in books.outcomes:
        run.ledger.drop_instances(datastore, run.key, outcomes.filter(~_IN_STORE & ~is_open())["SOPInstanceUID"])
    return overwritten["SOPInstanceUID"]


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
    """The facts that decide on a study, besides its own books."""

    imaging: ImageSetReader
    published: Collection[str]  # study keys
    suspect: list[str]  # batches whose counts disagree
    repeated: list[str]  # batches whose job was not the first
    split: pl.Series  # series that more than one batch brings
    brought_elsewhere: pl.Series  # instances that another run has imported as well
    to_read_back: list[str]  # image sets
    unknown_ids: pl.Series  # of verdicts without an arrival
    overrides: pl.DataFrame  # people's decisions on this run's holds


def _gather_evidence(
    run: Run, books: Books, jobs: list[dict[str, Any]], brought_elsewhere: pl.Series, **given: Any
) -> _Evidence:
    fraction = run.pipeline.audit.read_back_fraction
    image_sets = {name for part in books.outcomes for name in part["image_set_id"].drop_nulls()} if fraction else set()
    return _Evidence(
        **given,
        suspect=[job["batch_id"] for job in jobs if job["discrepancies"]],
        repeated=[job["batch_id"] for job in jobs if job["generation"]],
        split=books.split_series(),
        brought_elsewhere=brought_elsewhere,
        to_read_back=choose_image_sets(image_sets, fraction),
        unknown_ids=books.unknown_ids,
        overrides=_find_overrides(run),
    )


def _find_overrides(run: Run) -> pl.DataFrame:
    """Return people's decisions on the run's holds, except on subjects that a redrive has taken over.

    The audit of the redrive decides on those: a late answer must not release a study that the redrive imports again.
    """
    overrides = run.ledger.overrides_of(run.pipeline.datastore_id, run.key)
    return overrides.filter(
        ~pl.col("subject").is_in(run.ledger.find_redriven_studies(run.pipeline.name, run.key).implode())
    )


@dataclass(frozen=True)
class _Decisions:
    """The decisions of an audit."""

    gates: Spool  # by study
    dispositions: SortedSpool  # by key
    ids: Spool  # of the dispositions, by arrival
    tally: Tally

    def in_order(self) -> Iterator[pl.DataFrame]:
        """Yield the dispositions part by part, by key."""
        for part in self.dispositions:
            yield part.sort("key", "arrival_id")


def _decide_all(run: Run, books: Books, evidence: _Evidence, *, balanced: bool) -> _Decisions:
    """Decide study by study, and write the datasets ``outcomes``, ``gates`` and ``holds``.

    Raises
    ------
    UnbalancedError
        If the dispositions turn out not to be one per arrival. Nothing is written.
    """
    decisions = _Decisions(
        gates=books.spool(pl.col("StudyInstanceUID"), GATES),
        dispositions=books.spool_by_key(DISPOSITIONS),
        ids=books.spool(pl.col("arrival_id"), pl.Schema({"arrival_id": pl.String})),
        tally=Tally(books.arrivals.rows, books.bytes),
    )
    with (
        run.workspace.writer("outcomes", OUTCOMES) as outcomes,
        run.workspace.writer("gates", GATES) as gates,
        run.workspace.writer("holds", HOLDS) as holds,
    ):
        for decided, facts in zip_partitions(books.decided, books.outcomes):
            part = _decide_part(run, decided, facts, evidence, balanced=balanced)
            outcomes.add(part["outcomes"].select(OUTCOMES.names()).cast(OUTCOMES))
            gates.add(part["gates"])
            holds.add(part["holds"])
            decisions.gates.add(part["gates"])
            decisions.dispositions.add(part["dispositions"])
            decisions.ids.add(part["dispositions"].select("arrival_id"))
            decisions.tally.add(part)
        problems = describe_imbalances(books.balance_dispositions(decisions.ids)) if balanced else []
        if problems:
            raise UnbalancedError(problems)
    return decisions


def _decide_part(
    run: Run, decided: pl.DataFrame, outcomes: pl.DataFrame, evidence: _Evidence, *, balanced: bool
) -> dict[str, pl.DataFrame]:
    """Decide on a part, which has whole studies; return its verdicts, outcomes, gates and dispositions."""
    outcomes = _flag_overwritten(_flag_versions(run, outcomes, evidence), evidence)
    outcomes = gate.flag_blocking(outcomes, run.pipeline.audit, evidence.suspect)
    frames = decided.select("arrival_id", "NumberOfFrames")
    datastore = run.pipeline.healthimaging.datastore_id
    outcomes = read_back(evidence.imaging, datastore, outcomes, frames, evidence.to_read_back)
    decision = _decide_gates(run, decided, outcomes, evidence, balanced=balanced)
    arrivals = decided.filter(~pl.col("arrival_id").is_in(evidence.unknown_ids.implode())).unique("arrival_id")
    dispositions = gate.decide_dispositions(arrivals, decided, outcomes, decision["gates"])
    return decision | {"verdicts": decided, "outcomes": outcomes, "dispositions": dispositions}


def _flag_versions(run: Run, outcomes: pl.DataFrame, evidence: _Evidence) -> pl.DataFrame:
    """Flag image sets with a version above 1 whose series only one first job of this run has imported into."""
    above = (pl.col("image_set_version") > 1) & pl.col("outcome").is_in(gate.IMPORTED)
    series = outcomes.filter(above)["SeriesInstanceUID"].drop_nulls().unique()
    known = run.ledger.known_series(run.pipeline.healthimaging.datastore_id, series, except_run=run.key)
    expected = (
        pl.col("SeriesInstanceUID").is_in(known["SeriesInstanceUID"].implode())
        | pl.col("SeriesInstanceUID").is_in(evidence.split.implode())
        | pl.col("batch_id").is_in(evidence.repeated)
    )
    return _flag_version(outcomes, above & ~expected)


def _flag_overwritten(outcomes: pl.DataFrame, evidence: _Evidence) -> pl.DataFrame:
    """Flag instances that another run has imported meanwhile."""
    return _flag_version(outcomes, _IN_STORE & pl.col("SOPInstanceUID").is_in(evidence.brought_elsewhere.implode()))


def _flag_version(outcomes: pl.DataFrame, where: pl.Expr) -> pl.DataFrame:
    flag = pl.when(where).then(pl.lit(str(Reason.VERSION_ABOVE_ONE)))
    return outcomes.with_columns(reason=flag.otherwise("reason"))


def _decide_gates(
    run: Run, decided: pl.DataFrame, outcomes: pl.DataFrame, evidence: _Evidence, *, balanced: bool
) -> dict[str, pl.DataFrame]:
    """Return the studies' gates, the holds with their findings, and the holds that a person has overridden."""
    elsewhere = _find_files_elsewhere(run, outcomes["StudyInstanceUID"].unique())
    policy = run.pipeline.audit
    gates = gate.decide_studies(decided, outcomes, elsewhere, policy, balanced=balanced)
    holds = gate.find_holds(gates, decided, outcomes, elsewhere, policy)
    overridden = find_overridden(holds, evidence.overrides)
    gates = gate.release_overridden(gates, overridden["subject"])
    if run.pipeline.healthlake is not None:
        gates = gate.hold_unpublished(gates, evidence.published)
    return {"gates": gates, "holds": holds.join(overridden, on="subject", how="anti"), "overrides": overridden}


def _find_files_elsewhere(run: Run, studies: pl.Series) -> dict[Reason, list[tuple[str, str]]]:
    """Return other runs' files, by study, that wait for a person, or that were not imported if the policy asks."""

    def find_unresolved(*, missing: bool) -> list[tuple[str, str]]:
        store, name = run.pipeline.datastore_id, run.pipeline.name
        return run.ledger.unresolved_files(store, name, studies, except_run=run.key, missing=missing)

    found = find_unresolved(missing=run.pipeline.audit.hold_incomplete_studies)
    waiting = find_unresolved(missing=False) if found else []
    return {Reason.STUDY_HELD: waiting, Reason.STUDY_INCOMPLETE: sorted(set(found) - set(waiting))}


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
    content = report.build(run, decisions.tally, jobs, problems)
    report_uri = run.workspace.write_json("audit/report.json", content)
    waiting = sum(decisions.tally.reasons[str(reason)] for reason in OPEN_REASONS)
    return Audited(content, report_uri, dispositions_uri, waiting)


def _describe_redrive(run: Run) -> dict[str, Any] | None:
    """Return the request for the redrive, and the resolutions of its non-primary image sets; None without a redrive."""
    redrive = run.ledger.find_redrive(run.key)
    if redrive is None:
        return None
    shown = ("image_set_id", "resolution", "state", "promoted_id")
    resolved = [{name: getattr(one, name) for name in shown} for one in run.ledger.resolutions_of(run.key)]
    return redrive | {"resolutions": resolved}


def _record_decisions(run: Run, books: Books, decisions: _Decisions) -> None:
    """Record the gates and the contracts in the ledger."""
    datastore = run.pipeline.healthimaging.datastore_id
    for gates in decisions.gates:
        run.ledger.record_gates(datastore, run.key, gates.rename(_SUBJECT))
    _write_contracts(run, books, decisions)


def _settle(run: Run, decisions: _Decisions, audited: Audited) -> None:
    """Settle the arrivals in the ledger. This comes last, so that an audit that broke off earlier is done again."""
    if audited.balanced:
        run.ledger.settle(run.pipeline.name, run.key, (part.filter(~is_open()) for part in decisions.in_order()))
    state = "audited" if audited.balanced and not audited.open_arrivals else "open"
    run.ledger.close_run(run.key, state, audited.report)


def _write_contracts(run: Run, books: Books, decisions: _Decisions) -> None:
    """Complete the contract of every study with imported instances; released ones become ``contracts``.

    ``publishable`` also has the studies that only wait for their publication in HealthLake.
    """
    release = pl.col("gate") == Gate.RELEASE
    ready = release | (pl.col("reason") == Reason.NOT_PUBLISHED)
    with (
        run.workspace.writer("contracts", CONTRACTS, None) as contracts,
        run.workspace.writer("publishable", CONTRACTS, None) as publishable,
    ):
        for outcomes, drafts, decided in zip_partitions(books.outcomes, books.drafts, decisions.gates):
            imported = outcomes.filter(pl.col("outcome").is_in(gate.IMPORTED))
            completed = _complete_contracts(run, imported, drafts, decisions.tally.overrides)
            for writer, where in ((contracts, release), (publishable, ready)):
                studies = decided.filter(where)["StudyInstanceUID"]
                writer.add(completed.filter(pl.col("subject").is_in(studies.implode())))
                writer.end_part()  # contracts are few, and long


def _complete_contracts(
    run: Run, imported: pl.DataFrame, drafts: pl.DataFrame, overrides: Mapping[str, dict[str, Any]]
) -> pl.DataFrame:
    image_sets = dict(imported.select("SOPInstanceUID", "image_set_id").iter_rows())
    drafts = drafts.filter(pl.col("StudyInstanceUID").is_in(imported["StudyInstanceUID"].unique().implode()))

    def revise(known: pl.DataFrame) -> pl.DataFrame:
        earlier = {row["subject"]: row for row in known.iter_rows(named=True)}
        rows = []
        for uid, key, text in drafts.select("StudyInstanceUID", "study_key", "contract").iter_rows():
            before = earlier.get(uid)
            completed = _complete_contract(run, text, image_sets, before, overrides.get(key))
            rows.append((uid, key, *_revise_contract(completed, before)))
        return pl.DataFrame(rows, schema=CONTRACTS, orient="row")

    datastore, studies = run.pipeline.healthimaging.datastore_id, drafts["StudyInstanceUID"]
    return run.ledger.revise_contracts(datastore, run.key, studies, revise)


def _complete_contract(
    run: Run,
    planned: str,
    image_sets: dict[str, str | None],
    before: dict[str, Any] | None,
    override: dict[str, Any] | None,
) -> str:
    """Return the contract of the imported instances, with the study's FHIR references; its revision is 0."""
    text = complete(planned, image_sets, before["contract"] if before else None, override)
    if run.pipeline.healthlake is None:
        return text
    contract = StudyContract.model_validate_json(text)
    where = FhirReferences(**name_resources(contract, read_publishing(run.pipeline, run.pipeline.healthlake)))
    return contract.model_copy(update={"fhir": where}).to_json()


def _revise_contract(text: str, before: dict[str, Any] | None) -> tuple[int, str, str]:
    """Return revision, content digest and JSON of a contract; the revision rises only if the content has changed."""
    content = digest(text, length=64)
    revision = 1 if before is None else before["revision"] + (before["content_digest"] != content)
    return revision, content, with_revision(text, revision)
