"""Audit: read every manifest, match every line to the batch's list, balance the books, decide release or hold.

Writes ``outcomes``, ``gates``, ``dispositions`` and ``contracts``, and always audit/report.json, audit/dispositions.csv
and audit/operation-outcomes.ndjson, whatever broke off before. Auditing again gives the same result.
"""

from __future__ import annotations

import json
import tempfile
from dataclasses import dataclass, field
from functools import partial
from itertools import chain
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical import gate, report
from airlock.clinical.accounts import JobReading, account_batches
from airlock.clinical.books import ORDER, Books, Policy, list_imbalances
from airlock.clinical.dangling import flag_dangling
from airlock.clinical.import_ import find_other_targets
from airlock.clinical.open_resources import find_doubts, find_missed, find_superseded, note_open
from airlock.clinical.parked import ParkedUnits, count_ended
from airlock.clinical.read_back import choose_sample, flag_mismatches, read_back
from airlock.clinical.records import BATCHES, GATES, OPERATION_OUTCOMES, STOPPED, VERDICTS
from airlock.clinical.settle import ChangedError, Decided, record_held, settle
from airlock.ledger.parked import PARKED
from airlock.pipelines import CcdaPipeline
from airlock.reasons import Reason
from airlock.records import HOLDS, Disposition, schema
from airlock.stages.auditing import Addition, Audited, explain_problems, is_open, leave_open, write_report
from airlock.stages.batches import find_batches
from airlock.stages.brake import check_held, read_held
from airlock.stages.buffer import find_buffered, find_shards, read_arrivals
from airlock.stages.reporting import count_values, describe_untaken
from airlock.stages.resources import BY_RESOURCE, BY_UNIT, DISPOSITIONS, FILES, IDENTITY, OUTCOMES, UNIT
from airlock.stages.review import (
    SITED_HOLDS,
    find_approvals,
    find_overridden,
    keep_scope,
    overrides_by_key,
    write_groups,
)
from airlock.stages.sites import site_of
from airlock.storage.spool import FrameFile, Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.clinical.accounts import Accounts
    from airlock.clinical.read_back import FhirReader
    from airlock.pipelines import ClinicalPipeline, Pipeline
    from airlock.run import Run
    from airlock.stages.brake import Finding
    from airlock.storage.spool import Spool

_READ_BACK = "read-back.json"
_RESOURCE = list(IDENTITY)
_UNIT = list(UNIT)
_CONTENT = schema(IDENTITY, {"content_digest": pl.String})
# A resource that was sent: its outcome, the disposition and reason of its unit (``word``), and its file.
_SENT = schema(OUTCOMES, {"uncertain": pl.Boolean}, dict.fromkeys(("disposition", "word", "bucket", "key"), pl.String))


def audit(
    run: Run[ClinicalPipeline],
    reader: FhirReader,
    approved: Iterable[pl.DataFrame] | None = None,
    add_more: Callable[[Partitions], Addition] | None = None,
) -> Audited:
    """Decide on every unit of a run, write the datasets and the report, and record the decisions in the ledger.

    Parameters
    ----------
    run
        The run.
    reader
        Reads the data store, for read-back.
    approved
        The resources that a person has approved, if the run has to be reviewed (kind ``ccda``), frame by frame: columns
        ``resource_type``, ``resource_id``, ``content_digest``; None before the approval.
    add_more
        Reads the written datasets, and returns what the transaction that settles has to add.
    """
    run.ledger.open_run(run.key, run.pipeline.name, run.run_id, run.window)  # buffer may have failed before it did
    keep_scope(run)
    with Partitions(_count_units(run)) as partitions:
        reading = JobReading(run.pipeline.healthlake, run.pipeline.audit.manifest_wait_seconds, reader)
        accounts = account_batches(run, partitions, reading)
        parked = ParkedUnits.find(run)
        taken = _fill_books(run, Books(partitions, parked.names), partitions, accounts, reader)
        found = taken.balance()
        missed = find_missed(run, taken, partitions)
        if not found.total():  # before the decisions, so that of two runs the later one sees what the other misses
            note_open(run, run.ledger, missed)
        _write_operation_outcomes(run, taken, accounts)
        other = find_other_targets(run, run.pipeline.datastore_id, str(run.pipeline.risk.validation_level))
        shown = None if approved is None else partitions.spool(BY_RESOURCE, _CONTENT, approved)
        while True:  # another round means that another run has changed what holds a patient
            with Partitions(partitions.rows) as again:
                decisions, problems = _decide(run, taken, again, shown, [*list_imbalances(found), *other])
                decisions.tally.ended = count_ended(run, parked.taken)
                audited = _write_decisions(run, taken, decisions, accounts.jobs, problems)
                stopped_by = _check_brake(run, decisions.tally, balanced=audited.balanced)
                if stopped_by is not None:
                    return leave_open(run, audited, stopped_by)
                try:
                    if audited.balanced:
                        more = add_more and add_more(again)
                        settle(run, decisions.describe(taken, missed, parked, _find_asked(run, decisions), more))
                    else:
                        record_held(run, decisions.gates)
                except ChangedError:
                    missed = find_missed(run, taken, partitions)
                    continue
            state = "audited" if audited.balanced and not audited.open_arrivals else "open"
            run.ledger.close_run(run.key, state, audited.report)
            return audited


def _decide(
    run: Run[ClinicalPipeline],
    taken: Books,
    partitions: Partitions,
    approved: Spool | None,
    problems: list[str],
) -> tuple[_Decisions, list[str]]:
    """Return the decisions, and a sentence per problem for which the books do not balance."""
    decisions = _decide_all(run, taken, partitions, balanced=True, reviewed=True)
    problems = explain_problems(run, [*problems, *list_imbalances(taken.balance_dispositions(decisions.units))])
    reviewed = _is_reviewed(run, partitions, decisions, approved)
    if problems or not reviewed:
        again = partitions.enter_context(Partitions(partitions.rows))
        decisions = _decide_all(run, taken, again, balanced=not problems, reviewed=reviewed)
    return decisions, problems


def _check_brake(run: Run[ClinicalPipeline], tally: report.Tally, *, balanced: bool) -> Finding | None:
    held = partial(read_held, tally.dispositions, tally.reasons)
    return check_held(run, tally.dispositions.total(), held, balanced=balanced)


def _count_units(run: Run[Pipeline]) -> int:
    """Return the approximate number of rows of the largest of the run's books."""
    buffered = find_buffered(run.within(""))
    return max(run.workspace.count_rows("verdicts"), 0 if buffered is None else buffered.arrivals)


def _fill_books(
    run: Run[ClinicalPipeline], taken: Books, partitions: Partitions, accounts: Accounts, reader: FhirReader
) -> Books:
    """Return books with the datasets of earlier stages, as far as they exist, and the ids that the ledger holds."""
    wrong = _read_back(run, reader, accounts)
    for rows in read_arrivals(run.within("")):  # the report names C-CDA documents, not the converted files
        taken.add_arrivals(rows)
    for shard in find_shards(run):
        for rows in run.workspace.find_parts(f"files/{shard}", FILES):
            taken.add_files(rows)
    for rows in run.ledger.held_ids(run.pipeline.name, run.key):
        taken.add_held(rows)
    judged = (flag_mismatches(gate.flag_uncertain(rows, accounts.suspect), wrong) for rows in accounts.outcomes)
    for rows in flag_dangling(run, partitions, reader, judged):
        taken.add_outcomes(rows)
    taken.add_verdicts(run.workspace.find_parts("verdicts", VERDICTS))
    for rows in run.workspace.find_parts("parked", PARKED):
        taken.add_parked(rows)
    return taken


def _read_back(run: Run[ClinicalPipeline], reader: FhirReader, accounts: Accounts) -> pl.DataFrame:
    """Compare a sample of the imported resources with the data store, unless an earlier audit proved the same jobs.

    The import files that the sample is compared with may be deleted once the jobs are proven.

    Returns
    -------
    polars.DataFrame
        The resources (resource_type, resource_id) that the data store does not hold as they were sent.
    """
    none, sample = pl.Schema(IDENTITY).to_frame(), run.pipeline.audit.read_back_sample
    if not sample:
        return none
    jobs = sorted({job for rows in accounts.outcomes for job in rows["job_id"].drop_nulls().unique()})
    if _proven_jobs(run) == jobs:
        return none
    chosen = OUTCOMES.to_frame()
    for rows in accounts.outcomes:
        # A resource that a later run has imported has other content in the data store.
        later = run.ledger.known_resources(run.pipeline.datastore_id, rows.select(_RESOURCE), except_run=run.key)
        own = rows.join(later, on=_RESOURCE, how="anti", maintain_order="left")
        chosen = choose_sample(pl.concat([chosen, own]), sample)
    batches = (
        rows for batch in find_batches(run) for rows in run.workspace.parts(f"batches/{batch.batch_id}", BATCHES)
    )
    wrong = read_back(reader, run.s3, chosen, batches)
    if not wrong.height and not any(rows.filter(is_open()).height for rows in accounts.outcomes):
        run.workspace.write_json(_READ_BACK, {"jobs": jobs})
    return wrong


def _proven_jobs(run: Run[Pipeline]) -> list[str] | None:
    try:
        return list(json.loads(run.s3.get(run.workspace.root.join(_READ_BACK)))["jobs"])
    except FileNotFoundError:
        return None


@dataclass
class _Decisions:
    """The decisions of an audit."""

    gates: Spool  # by subject
    holds: Spool
    asks: Spool  # `SITED_HOLDS`: the holds that a person is asked about
    sent: Spool  # by subject
    dispositions: Spool  # in the order of files and lines
    units: Spool  # the units that have a disposition
    summed: Spool  # the sums of dispositions, by file
    doubts: FrameFile  # of other runs, a frame per partition of ``sent``
    tally: report.Tally = field(default_factory=report.Tally)

    def in_order(self) -> Iterator[pl.DataFrame]:
        """Yield the dispositions part by part, by key and line."""
        for part in self.dispositions:
            yield part.sort("key", "arrival_id", "line")

    def describe(
        self, taken: Books, missed: Spool, parked: ParkedUnits, asked: pl.DataFrame | None, more: Addition | None
    ) -> Decided:
        """Return the decisions as they are to be settled."""
        files = _FileDispositions(taken, self)
        parked = parked.with_origins(self.dispositions)
        return Decided(self.sent, missed, self.gates, files, self.doubts, self.tally.overrides, parked, asked, more)


def _decide_all(
    run: Run[ClinicalPipeline], taken: Books, partitions: Partitions, *, balanced: bool, reviewed: bool
) -> _Decisions:
    """Return the decisions, made subject by subject; every unit, and every file without units, has a disposition."""
    doubts = partitions.enter_context(FrameFile())

    def ask(patients: pl.Series) -> pl.DataFrame:
        found = find_doubts(run, run.ledger, patients)
        doubts.add(found)
        return found

    policy = Policy(run.pipeline.datastore_id, run.pipeline.audit, balanced, reviewed, ask)
    subjects, file = taken.regroup_by_subject(policy, partitions), pl.col("arrival_id")
    decisions = _Decisions(
        gates=partitions.spool(pl.col("subject"), GATES, subjects.gates),
        holds=partitions.spool(pl.col("subject"), HOLDS),
        asks=partitions.spool(pl.col("subject"), SITED_HOLDS),
        sent=partitions.spool(gate.subject(), _SENT),
        dispositions=partitions.sorted_spool(ORDER, subjects.sample, DISPOSITIONS),
        units=partitions.spool(BY_UNIT, pl.Schema(UNIT)),
        summed=partitions.spool(file, gate.SUMMED),
        doubts=doubts,
    )
    decisions.tally.arrivals, decisions.tally.bytes = taken.arrivals.rows, taken.bytes
    for gates in subjects.gates:
        decisions.tally.add_gates(gates)
    answers = _Answers.find(run)
    holds_missing = run.pipeline.audit.hold_incomplete_patients
    superseded = partitions.spool(gate.subject(), STOPPED, find_superseded(run) if holds_missing else ())
    for decided, outcomes, mended in zip_partitions(subjects.decided, subjects.outcomes, superseded):
        _decide_part(
            decided, outcomes, policy, answers, decisions, superseded=mended, site=site_of(run.pipeline.source)
        )
    return decisions


def _decide_part(
    decided: pl.DataFrame,
    outcomes: pl.DataFrame,
    policy: Policy,
    answers: _Answers,
    decisions: _Decisions,
    *,
    superseded: pl.DataFrame,
    site: pl.Expr,
) -> None:
    """Decide on the subjects of one partition, and add the results; a superseded unit holds no patient."""
    verdicts = decided.filter(pl.col("verdict").is_not_null()).drop("file_reason")
    patients = policy.decide_patients(verdicts.join(superseded, on=_UNIT, how="anti"), outcomes)
    files = pl.concat([rows.select("arrival_id", "file_reason") for rows in (decided, outcomes)])
    gates = pl.concat([patients, gate.rebuild_file_gates(files)])
    holds = gate.find_holds(policy.datastore_id, outcomes, gates)
    overridden = find_overridden(holds, answers.select_in_time(outcomes))
    outcomes = gate.mark_overridden(outcomes, overridden["subject"])
    known = decided.filter(pl.col("key").is_not_null())  # the other rows have an id that is not an arrival of the run
    arrivals = known.select("arrival_id", "bucket", "key", size="file_size").unique("arrival_id")
    dispositions = gate.decide_dispositions(arrivals, verdicts, outcomes, gates)
    decisions.gates.add(patients)
    waiting = holds.join(overridden, on="subject", how="anti")
    decisions.holds.add(waiting)
    asked = waiting.join(answers.find_taken(outcomes), on="subject", how="anti")
    sited = asked.join(_find_sites(outcomes, arrivals, site), on="subject", how="left")
    decisions.asks.add(sited.with_columns(pl.col("site").fill_null("")))
    decisions.dispositions.add(dispositions)
    decisions.units.add(dispositions.select(_UNIT))
    decisions.summed.add(gate.sum_dispositions(dispositions))
    decisions.sent.add(_join_sent(outcomes, dispositions, arrivals))
    decisions.tally.add_units(verdicts, outcomes, dispositions)
    decisions.tally.add_gates(patients)
    decisions.tally.overrides |= overrides_by_key(overridden)


def _find_sites(outcomes: pl.DataFrame, arrivals: pl.DataFrame, site: pl.Expr) -> pl.DataFrame:
    """Return the site of each subject with resources that were stored with issues: the first one of their files."""
    found = outcomes.filter(pl.col("reason") == Reason.STORED_WITH_ISSUES)
    named = found.select("arrival_id", subject=gate.subject()).join(arrivals, on="arrival_id").with_columns(site)
    return named.group_by("subject").agg(pl.col("site").min())


def _find_asked(run: Run[ClinicalPipeline], decisions: _Decisions) -> pl.DataFrame | None:
    """Return what people are asked about the holds of a run; None if this is not for the audit to ask."""
    asks = run.pipeline.asks_people and not isinstance(run.pipeline, CcdaPipeline)
    return write_groups(run, decisions.asks) if asks else None


def _join_sent(outcomes: pl.DataFrame, dispositions: pl.DataFrame, arrivals: pl.DataFrame) -> pl.DataFrame:
    """Return the resources that were sent (`_SENT`), with the disposition of the unit and the address of the file."""
    decided = dispositions.select(*_UNIT, "disposition", word="reason")
    sent = outcomes.join(decided, on=_UNIT, how="left", nulls_equal=True, maintain_order="left")
    addresses = arrivals.select("arrival_id", "bucket", "key")
    return sent.join(addresses, on="arrival_id", how="left", maintain_order="left").select(_SENT.names())


@dataclass(frozen=True)
class _Answers:
    """People's decisions on a run's holds, and the files that a redrive has taken over."""

    overrides: pl.DataFrame
    redriven: pl.DataFrame

    @classmethod
    def find(cls, run: Run[ClinicalPipeline]) -> _Answers:
        """Return the decisions and the redriven files of a run from the ledger."""
        return cls(
            find_approvals(run),
            run.ledger.find_redriven_arrivals(run.pipeline.name, run.key),
        )

    def find_taken(self, outcomes: pl.DataFrame) -> pl.DataFrame:
        """Return the subjects, column ``subject``, of which a redrive has taken files over: its own audit asks."""
        return outcomes.join(self.redriven, on="arrival_id", how="semi").select(subject=gate.subject()).unique()

    def select_in_time(self, outcomes: pl.DataFrame) -> pl.DataFrame:
        """Return the decisions that no redrive of the subject's files came before: later ones are for its own audit."""
        taken = outcomes.join(self.redriven, on="arrival_id")
        subjects = taken.group_by(subject=gate.subject()).agg(pl.col("asked_at").min())
        in_time = pl.col("asked_at").is_null() | (pl.col("overridden_at") <= pl.col("asked_at"))
        overrides = self.overrides.join(subjects, on="subject", how="left", maintain_order="left")
        return overrides.filter(in_time).drop("asked_at")


def _is_reviewed(
    run: Run[ClinicalPipeline], partitions: Partitions, decisions: _Decisions, approved: Spool | None
) -> bool:
    """Return whether a person has approved all resources that would be released, or no approval is needed."""
    if not isinstance(run.pipeline, CcdaPipeline):
        return True
    released = (rows.filter(pl.col("disposition") == Disposition.RELEASED) for rows in decisions.sent)
    if approved is None:
        return False
    found = partitions.spool(BY_RESOURCE, _CONTENT, released)
    return not any(
        rows.join(seen, on=rows.columns, how="anti").height for rows, seen in zip_partitions(found, approved)
    )


class _FileDispositions:
    """The disposition of each file, computed anew from the sums in each iteration, so that no file stays in memory."""

    def __init__(self, taken: Books, decisions: _Decisions) -> None:
        self._taken = taken
        self._decisions = decisions

    def __iter__(self) -> Iterator[pl.DataFrame]:
        """Yield ``records.DISPOSITIONS`` with ``is_open``, true if a unit of the file has no decision yet."""
        for arrivals, summed in zip_partitions(self._taken.arrivals, self._decisions.summed):
            open_files = summed.filter(is_open())["arrival_id"].unique()
            files = gate.decide_file_dispositions(arrivals, gate.leave_parked_out(summed, self._taken.apart))
            yield files.with_columns(is_open=pl.col("arrival_id").is_in(open_files.implode()))


def _write_decisions(
    run: Run[ClinicalPipeline], taken: Books, decisions: _Decisions, jobs: list[dict[str, Any]], problems: list[str]
) -> Audited:
    """Write the datasets, and then the report."""
    for name, kinds, parts in (
        ("outcomes", OUTCOMES, decisions.sent),
        ("gates", GATES, decisions.gates),
        ("holds", HOLDS, decisions.holds),
    ):
        with run.workspace.writer(name, kinds) as writer:
            for rows in parts:
                writer.add(rows.select(kinds.names()).cast(kinds))
    waiting = 0
    for files in _FileDispositions(taken, decisions):
        decisions.tally.files.update(count_values(files["disposition"]))
        waiting += int(files["is_open"].sum())
    dispositions_uri = _write_dispositions(run, decisions)
    content = report.build(run, decisions.tally, jobs, problems) | describe_untaken(run)
    report_uri = write_report(run, content)
    return Audited(content, report_uri, dispositions_uri, waiting)


def _write_dispositions(run: Run[ClinicalPipeline], decisions: _Decisions) -> str:
    """Write the dispositions as a dataset and as dispositions.csv; return the address of dispositions.csv."""
    with (
        tempfile.TemporaryFile(prefix="airlock-") as table,  # a file without a name is gone when the task is killed
        run.workspace.writer("dispositions", DISPOSITIONS) as writer,
    ):
        table.write(report.dispositions_csv(DISPOSITIONS.to_frame()).encode())
        for part in decisions.in_order():
            writer.add(part)
            table.write(report.dispositions_csv(part, head=False).encode())
        return run.within("").workspace.write_file("audit/dispositions.csv", table, "text/csv")


def _write_operation_outcomes(run: Run[ClinicalPipeline], taken: Books, accounts: Accounts) -> None:
    """Write the OperationOutcomes of validate and of the import jobs, in the order of files and lines."""
    dataset = "operation_outcomes"
    found = chain(run.workspace.find_parts(dataset, OPERATION_OUTCOMES), accounts.operation_outcomes)
    with (
        Partitions(run.workspace.count_rows(dataset) + accounts.operation_outcomes.rows) as partitions,
        tempfile.TemporaryFile(prefix="airlock-") as lines,
    ):
        for part in taken.add_keys(found, partitions):
            lines.write(report.operation_outcomes(part).encode())
        name = "audit/operation-outcomes.ndjson"
        run.within("").workspace.write_file(name, lines, "application/x-ndjson")
