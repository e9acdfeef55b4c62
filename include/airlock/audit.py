"""Audit: read every manifest, match every line to the batch's list, balance the books, decide release or hold.

Writes ``outcomes``, ``gates``, ``dispositions`` and ``contracts``, and always audit/report.json and
audit/dispositions.csv, whatever broke off before. Auditing again gives the same result.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock import gate, report
from airlock.buffer import find_index, read_arrivals
from airlock.contracts import FhirReferences, StudyContract, complete
from airlock.fhir.publishing import publishing
from airlock.fhir.study import references
from airlock.manifests import is_final, keep, proves_more, read_kept, read_output
from airlock.normalize import find_batches, read_batches
from airlock.outcomes import account, discrepancies
from airlock.read_back import read_back
from airlock.reasons import Reason
from airlock.records import (
    BATCHES,
    CONTRACTS,
    DISPOSITIONS,
    GATES,
    JOBS,
    OUTCOMES,
    STUDIES,
    VERDICTS,
    Gate,
    Outcome,
)
from airlock.s3uri import S3Uri

if TYPE_CHECKING:
    from collections.abc import Collection

    from airlock.ledger import Job
    from airlock.manifests import JobOutput
    from airlock.normalize import Batch
    from airlock.run import Run

# The run itself has not come to an end with these: their arrivals stay claimed by it, until the failed task is cleared.
OPEN_REASONS = (Reason.UNDECIDED, Reason.JOB_NOT_STARTED, Reason.JOB_UNFINISHED)
# What the ledger's gates are of is a study here.
_SUBJECT = {"StudyInstanceUID": "subject", "study_key": "subject_key"}


@dataclass(frozen=True)
class Audited:
    """How an audit ended."""

    report: dict[str, Any]
    report_uri: str
    dispositions_uri: str
    open_arrivals: int  # arrivals on which the run has not decided yet

    @property
    def balanced(self) -> bool:
        """Whether every arrival is in exactly one place at each step."""
        return bool(self.report["balanced"])


def audit(run: Run, imaging: Any, published: Collection[str] = ()) -> Audited:
    """Audit a run.

    Parameters
    ----------
    run
        The run.
    imaging
        A boto3 ``medical-imaging`` client, for read-back.
    published
        Study keys of what is proven to be in HealthLake, where the pipeline publishes studies: only these are released.
    """
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)  # where buffer never came to do it
    arrivals = read_arrivals(run)
    verdicts = run.workspace.find("verdicts", VERDICTS)
    outcomes, jobs, suspect = _account_all(run)
    outcomes = _flag_overwritten(run, verdicts, _flag_versions(run, outcomes, jobs))
    outcomes = gate.blocking(outcomes, run.pipeline.audit, suspect)
    outcomes = _read_back(run, imaging, outcomes)
    books = {
        "arrivals": arrivals,
        "verdicts": verdicts,
        "outcomes": outcomes,
        "held": run.ledger.held_by(run.pipeline.name, run.key),
    }
    books["gates"] = _decide(run, verdicts, outcomes, published, balanced=True)
    books["dispositions"] = gate.last_words(arrivals, verdicts, outcomes, books["gates"])
    problems = report.imbalances(books)
    if find_index(run) is None:
        problems = ["buffer has not frozen a delivery: cure what stopped it or receive, and clear that task", *problems]
    if problems:
        books["gates"] = _decide(run, verdicts, outcomes, published, balanced=False)
        books["dispositions"] = gate.last_words(arrivals, verdicts, outcomes, books["gates"])
    audited = _write(run, books, jobs, problems)
    _record(run, books, audited)
    return audited


def _account_all(run: Run) -> tuple[pl.DataFrame, list[dict[str, Any]], list[str]]:
    """Return the outcomes of all batches, an entry per job for the report, and the batches whose counts disagree."""
    frames: list[pl.DataFrame] = []
    jobs: list[dict[str, Any]] = []
    suspect: list[str] = []
    # One wait for all: the jobs have ended by now, and a hundred without output must not cost a hundred waits.
    until = time.monotonic() + run.pipeline.audit.manifest_wait_seconds
    for batch in find_batches(run):
        files = run.workspace.read(f"batches/{batch.batch_id}", BATCHES)
        rows = run.workspace.find(f"jobs/{batch.batch_id}", JOBS).to_dicts()
        if not rows:
            known = run.ledger.job(batch.batch_id)
            frames.append(account(files, None, None, _absent(known)))
            if known is not None:
                jobs.append(
                    _entry(batch, {"job_id": known.job_id, "generation": known.generation, "status": known.status}, [])
                )
            continue
        job = rows[0]
        output = _output(run, job, max(0.0, until - time.monotonic()))
        found = discrepancies(files, output)
        frames.append(account(files, job, output))
        jobs.append(_entry(batch, job, found))
        if found:
            suspect.append(batch.batch_id)
    outcomes = pl.concat(frames) if frames else OUTCOMES.to_frame()
    return outcomes, jobs, suspect


def _output(run: Run, job: dict[str, Any], wait_seconds: float) -> JobOutput:
    """Read a job's output, or what an earlier audit saw of it, whichever proves more.

    So a later audit, when the bucket's lifecycle has taken the output away, does not unsay what was released on it.
    """
    kept = read_kept(run.workspace, job["batch_id"], job["job_id"])
    if kept is not None and is_final(kept):
        return kept
    output = read_output(run.s3, S3Uri.parse(job["output_uri"]), wait_seconds)
    if kept is not None and proves_more(kept, output):
        return kept
    keep(run.workspace, job["batch_id"], job["job_id"], output)
    return output


def _absent(known: Job | None) -> Reason:
    return Reason.JOB_NOT_STARTED if known is None or known.job_id is None else Reason.JOB_UNFINISHED


def _entry(batch: Batch, job: dict[str, Any], found: list[str]) -> dict[str, Any]:
    return {
        "batch_id": batch.batch_id,
        "files": batch.files,
        "bytes": batch.bytes,
        "job_id": job["job_id"],
        "generation": job["generation"],
        "status": job["status"],
        "discrepancies": found,
    }


def _flag_versions(run: Run, outcomes: pl.DataFrame, jobs: list[dict[str, Any]]) -> pl.DataFrame:
    """Flag image sets with a version above 1 where nothing but one first job of this run had a part in the series."""
    series = outcomes["SeriesInstanceUID"].drop_nulls().unique()
    known = run.ledger.known_series(run.pipeline.healthimaging.datastore_id, series, except_run=run.key)
    batches = outcomes.group_by("SeriesInstanceUID").agg(batches=pl.col("batch_id").n_unique())
    repeated = [job["batch_id"] for job in jobs if job["generation"]]
    expected = (
        pl.col("SeriesInstanceUID").is_in(known["SeriesInstanceUID"].implode())
        | (pl.col("batches") > 1)
        | pl.col("batch_id").is_in(repeated)
    )
    flagged = (pl.col("image_set_version") > 1) & ~expected & pl.col("outcome").is_in(gate.IMPORTED)
    return (
        outcomes.join(batches, on="SeriesInstanceUID", how="left", maintain_order="left")
        .with_columns(reason=pl.when(flagged).then(pl.lit(str(Reason.VERSION_ABOVE_ONE))).otherwise("reason"))
        .drop("batches")
    )


def _flag_overwritten(run: Run, verdicts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    """Tell the ledger what is in the store, and flag instances that another run has brought there meanwhile.

    Before the gate, since a study is complete as soon as this run has brought the file that an earlier one could not.
    What the service did not import gives up its claim on the instance, so that a later delivery may bring it.
    """
    datastore = run.pipeline.healthimaging.datastore_id
    in_store = pl.col("outcome").is_in((*gate.IMPORTED, Outcome.NON_PRIMARY.value))
    state = pl.when(pl.col("outcome") == Outcome.NON_PRIMARY).then(pl.lit("non_primary")).otherwise(pl.lit("imported"))
    primary = outcomes.filter(pl.col("outcome").is_in(gate.IMPORTED)).select("arrival_id")
    elements = primary.join(verdicts, on="arrival_id", how="left", maintain_order="left")
    twice = run.ledger.record_imported(
        datastore,
        run.key,
        outcomes.filter(in_store).with_columns(state=state),
        elements.unique("StudyInstanceUID", keep="first", maintain_order=True),
        elements.unique("SeriesInstanceUID", keep="first", maintain_order=True),
    )
    lost = outcomes.filter(~in_store & ~_is_open())
    run.ledger.drop_instances(datastore, run.key, lost["SOPInstanceUID"])
    overwritten = in_store & pl.col("SOPInstanceUID").is_in(twice["SOPInstanceUID"].implode())
    return outcomes.with_columns(
        reason=pl.when(overwritten).then(pl.lit(str(Reason.VERSION_ABOVE_ONE))).otherwise("reason")
    )


def _is_open() -> pl.Expr:
    return pl.col("reason").is_in([str(reason) for reason in OPEN_REASONS]).fill_null(value=False)


def _read_back(run: Run, imaging: Any, outcomes: pl.DataFrame) -> pl.DataFrame:
    fraction = run.pipeline.audit.read_back_fraction
    if not fraction:
        return outcomes
    frames = read_batches(run).select("arrival_id", "NumberOfFrames")
    return read_back(imaging, run.pipeline.healthimaging.datastore_id, outcomes, frames, fraction)


def _decide(
    run: Run, verdicts: pl.DataFrame, outcomes: pl.DataFrame, published: Collection[str], *, balanced: bool
) -> pl.DataFrame:
    unresolved = run.ledger.unresolved_studies(
        run.pipeline.healthimaging.datastore_id,
        run.pipeline.name,
        outcomes["StudyInstanceUID"].unique(),
        except_run=run.key,
        missing=run.pipeline.audit.hold_incomplete_studies,
    )
    gates = gate.decide(verdicts, outcomes, set(unresolved), run.pipeline.audit, balanced=balanced)
    return gates if run.pipeline.healthlake is None else gate.hold_unpublished(gates, published)


def _write(run: Run, books: dict[str, pl.DataFrame], jobs: list[dict[str, Any]], problems: list[str]) -> Audited:
    outcomes = books["outcomes"].select(OUTCOMES.names()).cast(OUTCOMES)
    run.workspace.write("outcomes", OUTCOMES, outcomes)
    run.workspace.write("gates", GATES, books["gates"])
    run.workspace.write("dispositions", DISPOSITIONS, books["dispositions"])
    content = report.build(run, books, jobs, problems)
    dispositions_uri = run.workspace.write_text(
        "audit/dispositions.csv", report.to_csv(books["dispositions"]), "text/csv"
    )
    report_uri = run.workspace.write_json("audit/report.json", content)
    waiting = books["dispositions"].filter(_is_open()).height
    return Audited(content, report_uri, dispositions_uri, waiting)


def _record(run: Run, books: dict[str, pl.DataFrame], audited: Audited) -> None:
    """Tell the ledger: what was decided, the contracts, and last the arrivals' final words."""
    datastore = run.pipeline.healthimaging.datastore_id
    run.ledger.record_gates(datastore, run.key, books["gates"].rename(_SUBJECT))
    _write_contracts(run, books)
    if audited.balanced:
        run.ledger.settle(run.pipeline.name, run.key, books["dispositions"].filter(~_is_open()))
    state = "audited" if audited.balanced and not audited.open_arrivals else "open"
    run.ledger.close_run(run.key, state, audited.report)


def _write_contracts(run: Run, books: dict[str, pl.DataFrame]) -> None:
    """Complete the contract of every study with imported instances; released ones become ``contracts``.

    ``publishable`` has those too that only wait for their publication in HealthLake.
    """
    completed = _complete_contracts(run, books["outcomes"].filter(pl.col("outcome").is_in(gate.IMPORTED)))
    release = pl.col("gate") == Gate.RELEASE
    ready = release | (pl.col("reason") == Reason.NOT_PUBLISHED)
    for dataset, where in (("contracts", release), ("publishable", ready)):
        studies = books["gates"].filter(where)["StudyInstanceUID"]
        run.workspace.write(dataset, CONTRACTS, completed.filter(pl.col("subject").is_in(studies.implode())))


def _complete_contracts(run: Run, imported: pl.DataFrame) -> pl.DataFrame:
    image_sets = dict(imported.select("SOPInstanceUID", "image_set_id").iter_rows())
    drafts = run.workspace.find("studies", STUDIES)
    drafts = drafts.filter(pl.col("StudyInstanceUID").is_in(imported["StudyInstanceUID"].implode()))

    def revise(known: pl.DataFrame) -> pl.DataFrame:
        earlier = {row["subject"]: row for row in known.iter_rows(named=True)}
        rows = [
            _revise(run, StudyContract.model_validate_json(text), image_sets, earlier.get(uid))
            for uid, text in drafts.select("StudyInstanceUID", "contract").iter_rows()
        ]
        return pl.DataFrame(rows, schema=CONTRACTS)

    datastore, studies = run.pipeline.healthimaging.datastore_id, drafts["StudyInstanceUID"]
    return run.ledger.revise_contracts(datastore, run.key, studies, revise)


def _revise(
    run: Run, planned: StudyContract, image_sets: dict[str, str | None], before: dict[str, Any] | None
) -> dict[str, Any]:
    """Complete one contract; its revision is the one before where the content is, else the next."""
    contract = complete(planned, image_sets, StudyContract.model_validate_json(before["contract"]) if before else None)
    if run.pipeline.healthlake is not None:
        where = FhirReferences(**references(contract, publishing(run.pipeline, run.pipeline.healthlake)))
        contract = contract.model_copy(update={"fhir": where})
    content = contract.content_digest
    revision = 1 if before is None else before["revision"] + (before["content_digest"] != content)
    return {
        "subject": contract.StudyInstanceUID,
        "subject_key": contract.study_key,
        "revision": revision,
        "content_digest": content,
        "contract": contract.model_copy(update={"revision": revision}).to_json(),
    }
