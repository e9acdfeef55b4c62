"""Audit: read every manifest, match every line to the batch's list, balance the books, decide release or hold.

Writes ``outcomes``, ``gates``, ``dispositions`` and ``contracts``, and always audit/report.json, audit/dispositions.csv
and audit/operation-outcomes.ndjson, whatever broke off before. Auditing again gives the same result.
"""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical import gate, manifests, report
from airlock.clinical.contracts import ClinicalContract, complete, draft, with_subjects
from airlock.clinical.import_ import find_other_targets
from airlock.clinical.outcomes import account, discrepancies, operation_outcomes
from airlock.clinical.read_back import differing, marked, read_back
from airlock.clinical.records import BATCHES, GATES, OPERATION_OUTCOMES, VERDICTS
from airlock.clinical.result_lines import as_read, identify, names_nothing
from airlock.pipelines import CcdaPipeline
from airlock.reasons import Reason
from airlock.records import CONTRACTS, HOLDS, Disposition, Outcome
from airlock.stages.auditing import Audited, is_open, job_entry, missing_job_reason
from airlock.stages.batches import find_batches
from airlock.stages.buffer import find_buffered, find_shards, read_arrivals
from airlock.stages.contracts import ContractOverride
from airlock.stages.jobs import find_ended_job
from airlock.stages.outputs import read_best_output
from airlock.stages.resources import DISPOSITIONS, FILES, OUTCOMES, sent_contents
from airlock.stages.review import find_overridden, overrides_by_key

if TYPE_CHECKING:
    from airlock.clinical.manifests import JobOutput
    from airlock.clinical.read_back import FhirReader
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from airlock.stages.jobs import EndedJob

_READ_BACK = "read-back.json"
_RESOURCE = ["resource_type", "resource_id"]
_UNIT = ["arrival_id", "line"]


@dataclass(frozen=True)
class Accounts:
    """What the jobs of a run did with the resources they were sent."""

    outcomes: pl.DataFrame
    jobs: list[dict[str, Any]]  # an entry per job for the report
    suspect: list[str]  # the batches whose counts disagree
    operation_outcomes: pl.DataFrame


def account_batches(run: Run[Any], reader: FhirReader | None = None) -> Accounts:
    """Account for every resource of every batch of a run, whatever kind of pipeline it is of.

    Parameters
    ----------
    run
        The run.
    reader
        Reads the data store, where the result lines of a job name nothing; without it such a job proves nothing.
    """
    frames, said = [OUTCOMES.to_frame()], [OPERATION_OUTCOMES.to_frame()]
    jobs: list[dict[str, Any]] = []
    suspect: list[str] = []
    # One wait for all: the jobs have ended by now, and a hundred without output must not cost a hundred waits.
    until = time.monotonic() + run.pipeline.audit.manifest_wait_seconds
    for batch in find_batches(run):
        sent = run.workspace.read(f"batches/{batch.batch_id}", BATCHES)
        job = find_ended_job(run, batch.batch_id)
        if job is None:
            known = run.ledger.job(batch.batch_id)
            frames.append(account(sent, None, None, missing_job_reason(known)))
            jobs += [] if known is None else [job_entry(batch, known, [], resources=sent.height)]
            continue
        output = read_best_output(run, job, max(0.0, until - time.monotonic()), manifests)
        output = identify(sent, job, output)
        progress = manifests.read_progress(run.workspace, batch.batch_id)
        if reader is not None and names_nothing(sent, job, output, progress):
            output = _read_each(run, reader, sent, job, output)
        found = discrepancies(sent, job, output, progress)
        frames.append(account(sent, job, output))
        said.append(operation_outcomes(sent, job, output))
        jobs.append(job_entry(batch, job, found, resources=sent.height))
        if found:
            suspect.append(batch.batch_id)
    return Accounts(pl.concat(frames), jobs, suspect, pl.concat(said))


def _read_each(run: Run[Any], reader: FhirReader, sent: pl.DataFrame, job: EndedJob, output: JobOutput) -> JobOutput:
    """Read every resource of a batch by its id; keep the proof if all are as they were sent."""
    if sent.height > run.pipeline.healthlake.most_reads_by_id:
        return output
    found = as_read(sent, job, output, differing(reader, run.s3, sent))
    if not found.unread:
        manifests.keep_output(run.workspace, job.batch_id, job.job_id, found)
    return found


def audit(run: Run[ClinicalPipeline], reader: FhirReader, approved: pl.DataFrame | None = None) -> Audited:
    """Audit a run.

    Parameters
    ----------
    run
        The run.
    reader
        Reads the data store, for read-back.
    approved
        What a person has approved of a run that has to be reviewed (kind ``ccda``): columns ``resource_type``,
        ``resource_id``, ``content_digest``; None before that.
    """
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)  # where buffer never came to do it
    accounts = account_batches(run, reader)
    outcomes = gate.doubt(accounts.outcomes, accounts.suspect)
    outcomes = _read_back(run, reader, outcomes)
    books = _books(run) | {"outcomes": outcomes}
    _close(run, books, balanced=True, reviewed=True)
    problems = report.imbalances(books)
    problems += find_other_targets(run, run.pipeline.datastore_id, str(run.pipeline.risk.validation_level))
    if not _is_frozen(run):
        problems = ["buffer has not frozen a delivery: cure what stopped it or receive, and clear that task", *problems]
    reviewed = _is_reviewed(run, books, approved)
    if problems or not reviewed:
        _close(run, books, balanced=not problems, reviewed=reviewed)
    audited = _write(run, books, accounts, problems)
    _record(run, books, audited)
    return audited


def _is_reviewed(run: Run[ClinicalPipeline], books: dict[str, pl.DataFrame], approved: pl.DataFrame | None) -> bool:
    """Say whether a person has approved all that would be released, or none has to."""
    if not isinstance(run.pipeline, CcdaPipeline):
        return True
    released = books["dispositions"].filter(pl.col("disposition") == Disposition.RELEASED)
    found = sent_contents(released, books["outcomes"])
    return approved is not None and found.join(approved, on=found.columns, how="anti").is_empty()


def _is_frozen(run: Run[Any]) -> bool:
    return find_buffered(run.within("")) is not None


def _books(run: Run[Any]) -> dict[str, pl.DataFrame]:
    """Read what the stages before have written, as far as they came."""
    files = [run.workspace.find(f"files/{shard}", FILES) for shard in find_shards(run)]
    return {
        "arrivals": read_arrivals(run.within("")),  # documents are reported by their own keys, not those of conversions
        "files": pl.concat([FILES.to_frame(), *files]),
        "verdicts": run.workspace.find("verdicts", VERDICTS),
        "held": run.ledger.held_by(run.pipeline.name, run.key),
    }


def _read_back(run: Run[Any], reader: FhirReader, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Read a sample back, until it has proven these jobs once: staging may be cleaned up after that."""
    sample, jobs = run.pipeline.audit.read_back_sample, outcomes["job_id"].drop_nulls().unique().sort().to_list()
    if not sample or _proven_jobs(run) == jobs:
        return outcomes
    # What a later run has brought anew is not this run's to compare.
    later = run.ledger.known_resources(run.pipeline.datastore_id, outcomes.select(_RESOURCE), except_run=run.key)
    own = outcomes.join(later, on=_RESOURCE, how="anti", maintain_order="left")
    batches = run.workspace.read_all([f"batches/{batch.batch_id}" for batch in find_batches(run)], BATCHES)
    wrong = read_back(reader, run.s3, own, batches, sample).filter(pl.col("reason") == Reason.READ_BACK_MISMATCH)
    if not wrong.height and not outcomes.filter(is_open()).height:
        run.workspace.write_json(_READ_BACK, {"jobs": jobs})
    return marked(outcomes, wrong.select(_RESOURCE))


def _proven_jobs(run: Run[Any]) -> list[str] | None:
    try:
        return list(json.loads(run.s3.get(run.workspace.root.join(_READ_BACK)))["jobs"])
    except FileNotFoundError:
        return None


def _close(run: Run[ClinicalPipeline], books: dict[str, pl.DataFrame], *, balanced: bool, reviewed: bool) -> None:
    """Decide, and give every unit and every file its last word."""
    arrivals, verdicts, outcomes = books["arrivals"], books["verdicts"], books["outcomes"]
    books["gates"] = gate.decide(
        run.pipeline.datastore_id, verdicts, outcomes, run.pipeline.audit, balanced=balanced, reviewed=reviewed
    )
    books |= _overridden(run, outcomes, books["gates"])
    books["dispositions"] = gate.last_words(arrivals, verdicts, books["outcomes"], books["gates"])
    books["file_words"] = gate.file_words(arrivals, books["dispositions"])


def _overridden(run: Run[ClinicalPipeline], outcomes: pl.DataFrame, gates: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return the ``outcomes`` with what people have released, their ``overrides``, and the ``holds`` that are left."""
    holds = gate.holds(run.pipeline.datastore_id, outcomes, gates)
    overridden = find_overridden(holds, _words(run, outcomes))
    return {
        "outcomes": gate.override(outcomes, overridden["subject"]),
        "overrides": overridden,
        "holds": holds.join(overridden, on="subject", how="anti"),
    }


def _words(run: Run[ClinicalPipeline], outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return what people have decided before a redrive took one of the subject's files over; then its audit decides."""
    words = run.ledger.overrides_of(run.pipeline.datastore_id, run.key)
    taken = outcomes.join(run.ledger.find_redriven_arrivals(run.pipeline.name, run.key), on="arrival_id")
    subjects = taken.group_by(subject=gate.subject()).agg(pl.col("asked_at").min())
    in_time = pl.col("asked_at").is_null() | (pl.col("overridden_at") <= pl.col("asked_at"))
    return words.join(subjects, on="subject", how="left", maintain_order="left").filter(in_time).drop("asked_at")


def _write(
    run: Run[ClinicalPipeline], books: dict[str, pl.DataFrame], accounts: Accounts, problems: list[str]
) -> Audited:
    workspace = run.workspace
    workspace.write("outcomes", OUTCOMES, books["outcomes"].select(OUTCOMES.names()))
    workspace.write("gates", GATES, books["gates"])
    workspace.write("holds", HOLDS, books["holds"])
    workspace.write("dispositions", DISPOSITIONS, books["dispositions"])
    found = pl.concat([workspace.find("operation_outcomes", OPERATION_OUTCOMES), accounts.operation_outcomes])
    workspace = run.within("").workspace
    workspace.write_text(
        "audit/operation-outcomes.ndjson", report.operation_outcomes(found, books["arrivals"]), "application/x-ndjson"
    )
    dispositions_uri = workspace.write_text(
        "audit/dispositions.csv", report.dispositions_csv(books["dispositions"]), "text/csv"
    )
    content = report.build(run, books, accounts.jobs, problems)
    report_uri = workspace.write_json("audit/report.json", content)
    return Audited(content, report_uri, dispositions_uri, _open_files(books).len())


def _open_files(books: dict[str, pl.DataFrame]) -> pl.Series:
    """Return the files with a unit on which the run has not decided yet."""
    return books["dispositions"].filter(is_open())["arrival_id"].unique()


def _record(run: Run[ClinicalPipeline], books: dict[str, pl.DataFrame], audited: Audited) -> None:
    """Tell the ledger: what is in the store, what was decided, the contracts, and last the files' final words."""
    datastore = run.pipeline.datastore_id
    words = books["dispositions"].select(*_UNIT, "disposition", word="reason")
    sent = books["outcomes"].join(words, on=_UNIT, how="left", nulls_equal=True)
    known = (pl.col("disposition") == Disposition.RELEASED) | (pl.col("word") == Reason.STORED_WITH_ISSUES)
    refused = pl.col("outcome") == Outcome.REJECTED
    waits = is_open() | (pl.col("word") == Reason.AWAITING_REVIEW)
    known, waits = known.fill_null(value=False), waits.fill_null(value=False)
    run.ledger.record_imported_resources(datastore, run.key, sent.filter(known))
    run.ledger.drop_resource_claims(datastore, run.key, sent.filter(refused).select(_RESOURCE))
    # What is in doubt, and what is held for its sake, is not known: brought again, it is imported and decided on anew.
    run.ledger.forget_resources(datastore, run.key, sent.filter(~known & ~refused & ~waits).select(_RESOURCE))
    run.ledger.record_gates(datastore, run.key, books["gates"])
    _write_contracts(run, books)
    if audited.balanced:
        settled = ~pl.col("arrival_id").is_in(_open_files(books).implode())
        run.ledger.settle(run.pipeline.name, run.key, books["file_words"].filter(settled))
    state = "audited" if audited.balanced and not audited.open_arrivals else "open"
    run.ledger.close_run(run.key, state, audited.report)


def _write_contracts(run: Run[ClinicalPipeline], books: dict[str, pl.DataFrame]) -> None:
    """Complete the contract of every patient and file with released resources."""
    pipeline = run.pipeline
    released = with_subjects(_released(run, books))
    level = pipeline.risk.validation_level
    words = {key: ContractOverride(**word) for key, word in overrides_by_key(books["overrides"]).items()}

    def revise(known: pl.DataFrame) -> pl.DataFrame:
        before = dict(known.select("subject", "contract").iter_rows())
        planned = draft(released, pipeline.name, pipeline.datastore_id, level)
        rows = [
            _row(
                subject, contract.model_copy(update={"override": words.get(contract.subject_key)}), before.get(subject)
            )
            for subject, contract in planned
        ]
        return pl.DataFrame(rows, schema=CONTRACTS, orient="row")

    completed = run.ledger.revise_contracts(pipeline.datastore_id, run.key, released["subject"].unique(), revise)
    run.workspace.write("contracts", CONTRACTS, completed)


def _released(run: Run[ClinicalPipeline], books: dict[str, pl.DataFrame]) -> pl.DataFrame:
    """Return what was released, but for what a later run has brought anew: that run's contract has it."""
    released = books["dispositions"].filter(pl.col("disposition") == Disposition.RELEASED)
    later = run.ledger.known_resources(run.pipeline.datastore_id, released.select(_RESOURCE), except_run=run.key)
    digests = books["outcomes"].select("arrival_id", "line", "content_digest")
    return (
        released.join(later, on=_RESOURCE, how="anti")
        .join(digests, on=["arrival_id", "line"], how="left", nulls_equal=True)
        .join(books["arrivals"].select("arrival_id", "bucket"), on="arrival_id", how="left")
    )


def _row(subject: str, planned: ClinicalContract, before: str | None) -> tuple[Any, ...]:
    earlier = None if before is None else ClinicalContract.model_validate_json(before)
    contract = complete(planned, earlier)
    return subject, contract.subject_key, contract.revision, contract.content_digest, contract.to_json()
