"""The gate: release or hold, per patient and per file, by the pipeline's policy; and the disposition of every unit.

A resource is released if it is in the data store without a finding, and neither its patient nor its file is held.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.clinical.outcomes import IMPORTED
from airlock.clinical.records import GATES, file_subject
from airlock.clinical.verdicts import is_stopped
from airlock.ledger.owed import COME_AGAIN
from airlock.reasons import Reason
from airlock.records import DISPOSITIONS as FILE_DISPOSITIONS
from airlock.records import HOLDS, Disposition, Gate, Outcome, Stage, Verdict, digest, schema, subject_key
from airlock.stages.auditing import is_open
from airlock.stages.gating import gravest_reason, reason_where, stage_before_import
from airlock.stages.resources import DISPOSITIONS, OUTCOMES

if TYPE_CHECKING:
    from airlock.pipelines import ClinicalAudit

UNIT = ["arrival_id", "line"]
_RESOURCE = ["resource_type", "resource_id"]
JUDGED = schema(OUTCOMES, dict.fromkeys(("uncertain", "overridden"), pl.Boolean))  # of `flag_uncertain`
LOST = schema(dict.fromkeys(("resource_type", "resource_id", "copy_reason"), pl.String))
SUMMED = schema(
    dict.fromkeys(("arrival_id", "disposition", "stage", "reason", "detail"), pl.String),
    dict.fromkeys(("line", "units"), pl.Int64),
)
DOUBTS = schema(  # of other runs
    dict.fromkeys(("subject", "reason", "resource_type", "resource_id"), pl.String),
    {"stays": pl.Boolean},  # also where this run has brought the resource: the content is older
)
# The columns of verdicts and of outcomes that decide on a file; equal rows count as one.
FILE_COLUMNS = (
    ("arrival_id", "verdict", "reason"),
    ("arrival_id", "resource_type", "outcome", "reason", "uncertain"),
)
_FILE = pl.lit(file_subject(""))
NONE = pl.Series([], dtype=pl.String)
# The gravest disposition of its units is the disposition of a file.
GRAVEST_FIRST = (
    Disposition.FAILED,
    Disposition.HELD,
    Disposition.QUARANTINED,
    Disposition.PARKED,
    Disposition.RELEASED,
    Disposition.DUPLICATE,
    Disposition.IGNORED,
)
_STOPPED = (Disposition.FAILED.value, Disposition.HELD.value, Disposition.QUARANTINED.value, Disposition.PARKED.value)


def flag_uncertain(outcomes: pl.DataFrame, suspect_batches: list[str]) -> pl.DataFrame:
    """Add the column ``uncertain``: true where the content of the data store is unknown or the counts disagree.

    Also add the column ``overridden``, false until `mark_overridden`.
    """
    unknown = pl.col("outcome").is_in([Outcome.UNACCOUNTED.value, Outcome.SERVER_ERROR.value])
    suspect = pl.col("batch_id").is_in(suspect_batches)
    disagree = suspect & pl.col("outcome").is_in(IMPORTED)
    return outcomes.with_columns(
        reason=pl.when(disagree).then(pl.lit(str(Reason.JOB_COUNTS_DISAGREE))).otherwise("reason"),
        uncertain=unknown | suspect,
        overridden=pl.lit(value=False),
    )


def subject() -> pl.Expr:
    """Return the gate's subject: the patient, or the file if there is none."""
    return pl.coalesce("patient", _FILE + pl.col("arrival_id"))


def find_holds(datastore_id: str, outcomes: pl.DataFrame, gates: pl.DataFrame) -> pl.DataFrame:
    """Return the holds that a person can override: the subjects with resources that were stored with issues.

    Parameters
    ----------
    datastore_id
        The data store.
    outcomes, gates
        Rows of these datasets. A subject that its gate holds is left out: a person's decision cannot release it.

    Returns
    -------
    polars.DataFrame
        Rows of the holds dataset.
    """
    stopped = gates.filter(pl.col("gate") == Gate.HOLD)["subject"].implode()
    file = _FILE + pl.col("arrival_id")
    waits = (pl.col("reason") == Reason.STORED_WITH_ISSUES) & ~file.is_in(stopped)
    finding = pl.format("{}/{} {}", "resource_type", "resource_id", "content_digest")
    issues = (
        outcomes.filter(waits.fill_null(value=False))
        .with_columns(subject=subject())
        .filter(~pl.col("subject").is_in(stopped))
        .group_by("subject")
        .agg(reason=pl.col("reason").first(), reasons=pl.col("reason").unique(), findings=finding.sort().str.join("\n"))
        .sort("subject")
    )
    keys = pl.Series([subject_key(datastore_id, subject) for subject in issues["subject"]], dtype=pl.String)
    found = pl.Series([digest(text, length=64) for text in issues["findings"]], dtype=pl.String)
    return issues.with_columns(subject_key=keys, findings=found).select(HOLDS.names()).cast(HOLDS)


def mark_overridden(outcomes: pl.DataFrame, subjects: pl.Series) -> pl.DataFrame:
    """Mark as ``overridden`` the resources of these subjects that were stored with issues."""
    marked = (pl.col("reason") == Reason.STORED_WITH_ISSUES) & subject().is_in(subjects.implode())
    return outcomes.with_columns(overridden=marked.fill_null(value=False))


def decide_patients(
    datastore_id: str,
    verdicts: pl.DataFrame,
    outcomes: pl.DataFrame,
    settings: ClinicalAudit,
    *,
    balanced: bool,
    reviewed: bool = True,
    doubts: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Decide on every patient with accepted resources; a resource that was not imported is never released.

    A hold has the reason of the gravest resource that causes it.

    Parameters
    ----------
    datastore_id
        The data store.
    verdicts
        Rows of the verdicts dataset.
    outcomes
        Rows of the outcomes dataset with ``uncertain``.
    settings
        The policy.
    balanced
        Whether the run's books balance; if not, everything is held.
    reviewed
        Whether a person has approved the run, or none has to; if not, everything is held.
    doubts
        The resources for which other runs hold these patients (`DOUBTS`).

    Returns
    -------
    polars.DataFrame
        Rows of the gates dataset.
    """
    counts = pl.col("resource_type").is_in(settings.hold_types).fill_null(value=False)
    incomplete = counts if settings.hold_incomplete_patients else pl.lit(value=False)
    whose, always = pl.col("patient"), pl.lit(value=True)
    held = _find_held(verdicts, outcomes, whose, incomplete=incomplete, doubtful=always, doubts=doubts)
    return _build_gates(datastore_id, held, balanced=balanced, reviewed=reviewed)


def decide_files(
    datastore_id: str,
    verdicts: pl.DataFrame,
    outcomes: pl.DataFrame,
    settings: ClinicalAudit,
    *,
    balanced: bool,
    reviewed: bool = True,
    apart: pl.Series = NONE,
) -> pl.DataFrame:
    """Decide on every file with accepted resources, as `decide_patients` does.

    Equal rows of the columns `FILE_COLUMNS` may be given once.

    Files with the ids *apart* are objects of parked resources of many files: none holds another.
    """
    whole = pl.lit(settings.hold_incomplete_files) & ~pl.col("arrival_id").is_in(apart.implode())
    file = _FILE + pl.col("arrival_id")
    held = _find_held(verdicts, outcomes, file, incomplete=whole, doubtful=whole)
    return _build_gates(datastore_id, held, balanced=balanced, reviewed=reviewed)


def find_held_files(gates: pl.DataFrame) -> pl.DataFrame:
    """Return the files that these gates hold: ``arrival_id`` and ``file_reason``."""
    held = gates.filter(pl.col("gate") == Gate.HOLD)
    return held.select(arrival_id=pl.col("subject").str.strip_prefix(file_subject("")), file_reason="reason")


def rebuild_file_gates(rows: pl.DataFrame) -> pl.DataFrame:
    """Return the gates of the held files from rows with ``file_reason``; their ``subject_key`` is null."""
    held = rows.filter(pl.col("file_reason").is_not_null()).select("arrival_id", "file_reason").unique()
    none = pl.lit(None, pl.String)
    known = {"subject": _FILE + pl.col("arrival_id"), "subject_key": none, "gate": pl.lit(Gate.HOLD.value)}
    return held.select(**known, reason="file_reason").cast(GATES)


def _build_gates(datastore_id: str, held: pl.DataFrame, *, balanced: bool, reviewed: bool) -> pl.DataFrame:
    reason = pl.coalesce(
        reason_where(pl.lit(not balanced), Reason.RUN_UNBALANCED),
        "reason",
        reason_where(pl.lit(not reviewed), Reason.AWAITING_REVIEW),
    )
    rows = held.sort("subject").with_columns(reason=reason)
    keys = pl.Series([subject_key(datastore_id, subject) for subject in rows["subject"]], dtype=pl.String)
    gate = pl.when(pl.col("reason").is_null()).then(pl.lit(Gate.RELEASE.value)).otherwise(pl.lit(Gate.HOLD.value))
    return rows.with_columns(subject_key=keys, gate=gate).select(GATES.names()).cast(GATES)


def _find_held(
    verdicts: pl.DataFrame,
    outcomes: pl.DataFrame,
    subject: pl.Expr,
    *,
    incomplete: pl.Expr,
    doubtful: pl.Expr,
    doubts: pl.DataFrame | None = None,
) -> pl.DataFrame:
    """Return each subject with the reason of the gravest resource that holds it; null where none does.

    Parameters
    ----------
    verdicts, outcomes
        Rows of these datasets.
    subject
        The subject of a row.
    incomplete, doubtful
        Whether a resource that was stopped, parked or refused holds its subject, and whether an uncertain one does. A
        subject without an imported resource is always held.
    doubts
        The resources of other runs that hold their subjects, unless this run has brought them and they do not stay.
    """
    sent = outcomes.with_columns(subject=subject).filter(pl.col("subject").is_not_null())
    # If the service rejected the Patient, the resources of the subject refer to a Patient that does not exist.
    in_doubt = (pl.col("uncertain") | _is_refused_patient()) & doubtful
    refused = ((pl.col("outcome") == Outcome.REJECTED) | is_dangling()) & incomplete
    nothing = ~pl.col("outcome").is_in(IMPORTED).any().over("subject")
    stopped = verdicts.filter(is_stopped() & incomplete).with_columns(subject=subject)
    others = DOUBTS.to_frame() if doubts is None else _select_standing(doubts, outcomes)
    holding = pl.concat(
        [rows.select("subject", "reason") for rows in (sent.filter(in_doubt | refused | nothing), stopped, others)]
    )
    reasons = holding.group_by("subject").agg(reason=gravest_reason(Reason.UNDECIDED))
    return sent.select("subject").unique().join(reasons, on="subject", how="left")


def _select_standing(doubts: pl.DataFrame, outcomes: pl.DataFrame) -> pl.DataFrame:
    unbrought = doubts.filter(~pl.col("stays")).join(_select_brought(outcomes), on=_RESOURCE, how="anti")
    return pl.concat([doubts.filter("stays"), unbrought])


def _select_brought(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the resources that are in the data store without a doubt."""
    return outcomes.filter(pl.col("outcome").is_in(IMPORTED) & ~pl.col("uncertain")).select(_RESOURCE)


def is_dangling() -> pl.Expr:
    """Return whether an imported resource refers to one that the service refused."""
    return (pl.col("reason") == Reason.UNRESOLVED_REFERENCE).fill_null(value=False)


def _is_noted() -> pl.Expr:
    """Return whether an outcome has a reason that is a note only."""
    return (pl.col("outcome_reason") == Reason.DANGLING_REFERENCE).fill_null(value=False)


def _is_refused_patient() -> pl.Expr:
    return (pl.col("resource_type") == "Patient") & (pl.col("outcome") == Outcome.REJECTED)


def decide_dispositions(
    arrivals: pl.DataFrame, verdicts: pl.DataFrame, outcomes: pl.DataFrame, gates: pl.DataFrame
) -> pl.DataFrame:
    """Return the disposition of every unit, and of every file without units, even if verdicts or outcomes are missing.

    Parameters
    ----------
    arrivals
        The delivery's files, rows of the arrivals dataset.
    verdicts, outcomes, gates
        Rows of these datasets, the verdicts with ``copy_reason`` (`add_copy_reasons`).

    Returns
    -------
    polars.DataFrame
        Rows of the dispositions dataset, one per unit, in the order of keys and lines.
    """
    files = arrivals.select("arrival_id", "key", file_size="size")
    units = files.join(verdicts, on="arrival_id", how="left", maintain_order="left")
    names = [*UNIT, "outcome", "batch_id", "job_id", "overridden"]
    imported = outcomes.select(*names, outcome_reason="reason", outcome_detail="detail")
    rows = units.join(imported, on=UNIT, how="left", nulls_equal=True, maintain_order="left")
    dispositions = _add_gate_reasons(rows, gates).with_columns(
        size=pl.coalesce("size", pl.when(pl.col("line").is_null()).then("file_size")),
        disposition=_disposition(),
        stage=_stage(),
        **_reason_and_detail(),
    )
    return dispositions.select(DISPOSITIONS.names()).cast(DISPOSITIONS).sort("key", "arrival_id", "line")


def _add_gate_reasons(rows: pl.DataFrame, gates: pl.DataFrame) -> pl.DataFrame:
    """Add ``held_by``: the reason why the unit's patient, or else its file, is held."""
    held = gates.filter(pl.col("gate") == Gate.HOLD)
    of_patient = held.select(patient="subject", patient_reason=_reason_of_another(Reason.PATIENT_HELD))
    of_file = held.select(file="subject", file_reason=_reason_of_another(Reason.FILE_HELD))
    return (
        rows.with_columns(file=_FILE + pl.col("arrival_id"))
        .join(of_patient, on="patient", how="left", maintain_order="left")
        .join(of_file, on="file", how="left", maintain_order="left")
        .with_columns(held_by=pl.coalesce("patient_reason", "file_reason"))
    )


def _reason_of_another(reason: Reason) -> pl.Expr:
    """Return the reason of a resource that is held for another one: the gate's if it holds the run, else this one."""
    of_the_run = pl.col("reason").is_in([str(Reason.RUN_UNBALANCED), str(Reason.AWAITING_REVIEW)])
    return pl.when(of_the_run).then("reason").otherwise(pl.lit(str(reason)))


def find_lost(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Return the resources that were not imported, with the reason (`LOST`)."""
    missed = outcomes.filter(~pl.col("outcome").is_in(IMPORTED))
    return missed.select("resource_type", "resource_id", copy_reason="reason").cast(LOST)


def add_copy_reasons(verdicts: pl.DataFrame, missed: pl.DataFrame) -> pl.DataFrame:
    """Add ``copy_reason`` to the duplicates of a resource that was not imported (`find_lost`)."""
    fates = missed.unique(["resource_type", "resource_id"])
    joined = verdicts.join(fates, on=["resource_type", "resource_id"], how="left", maintain_order="left")
    return joined.with_columns(copy_reason=pl.when(is_duplicate()).then("copy_reason"))


def is_duplicate() -> pl.Expr:
    """Return whether a unit is a duplicate, by its ``verdict``."""
    return (pl.col("verdict") == Verdict.DUPLICATE).fill_null(value=False)


def _disposition() -> pl.Expr:
    before_import = {
        Verdict.QUARANTINE.value: Disposition.QUARANTINED.value,
        Verdict.IGNORE.value: Disposition.IGNORED.value,
        Verdict.DUPLICATE.value: Disposition.DUPLICATE.value,
        Verdict.PARK.value: Disposition.PARKED.value,
    }
    in_store = pl.col("outcome").is_in(IMPORTED)
    free = (pl.col("outcome_reason").is_null() | _is_noted() | pl.col("overridden")) & pl.col("held_by").is_null()
    return pl.coalesce(
        pl.when(pl.col("copy_reason").is_not_null() | is_open()).then(pl.lit(Disposition.FAILED.value)),
        pl.col("verdict").replace_strict(before_import, default=None, return_dtype=pl.String),
        pl.when(in_store & free).then(pl.lit(Disposition.RELEASED.value)),
        pl.when(in_store).then(pl.lit(Disposition.HELD.value)),
        pl.lit(Disposition.FAILED.value),
    )


def _stage() -> pl.Expr:
    accepted = pl.col("verdict") == Verdict.ACCEPT
    return (
        pl.when(accepted | pl.col("copy_reason").is_not_null() | pl.col("verdict").is_null() | is_open())
        .then(pl.lit(Stage.AUDIT.value))
        .otherwise(stage_before_import(Reason.FILE_TOO_LARGE))
    )


def _reason_and_detail() -> dict[str, pl.Expr]:
    """Return the reason nearest to the decision: of the resource's outcome, else the gate, else the verdict."""
    accepted = pl.col("verdict") == Verdict.ACCEPT
    undecided = pl.col("verdict").is_null() | (accepted & pl.col("outcome").is_null())
    own = pl.col("outcome_reason").is_not_null() & ~(_is_noted() & pl.col("held_by").is_not_null())
    held = pl.col("outcome").is_in(IMPORTED) & pl.col("held_by").is_not_null()
    unbalanced = held & (pl.col("held_by") == Reason.RUN_UNBALANCED)
    reason = (
        pl.when(undecided)
        .then(pl.lit(str(Reason.UNDECIDED)))
        .when(unbalanced)
        .then("held_by")
        .when(own)
        .then("outcome_reason")
        .when(held)
        .then("held_by")
        .otherwise(pl.coalesce("copy_reason", "reason"))
    )
    detail = pl.when(own).then("outcome_detail").when(held).then(pl.lit(None, pl.String)).otherwise("detail")
    return {"reason": reason, "detail": detail}


def sum_dispositions(dispositions: pl.DataFrame) -> pl.DataFrame:
    """Return one row (`SUMMED`) for a file's units with the same disposition, stage and reason."""
    first = dispositions.sort("line").group_by("arrival_id", "disposition", "stage", "reason", maintain_order=True)
    return first.agg(pl.len().alias("units"), pl.col("line", "detail").first()).select(SUMMED.names()).cast(SUMMED)


def leave_parked_out(summed: pl.DataFrame, apart: pl.Series) -> pl.DataFrame:
    """Return sums in which what waits again in an object of parked resources counts least.

    The file that brought it first says that it waits, and what became of it; nobody would say so of the object.
    """
    waits = (pl.col("disposition") == Disposition.PARKED) & pl.col("arrival_id").is_in(apart.implode())
    ignored = pl.lit(Disposition.IGNORED.value)
    return summed.with_columns(disposition=pl.when(waits).then(ignored).otherwise("disposition"))


def decide_file_dispositions(arrivals: pl.DataFrame, summed: pl.DataFrame) -> pl.DataFrame:
    """Return the disposition of every file for the ledger: the gravest of its units.

    Parameters
    ----------
    arrivals
        Rows of the arrivals dataset.
    summed
        The sums from `sum_dispositions`, of one or more parts.

    Returns
    -------
    polars.DataFrame
        Rows of ``records.DISPOSITIONS``.
    """
    gravity = {disposition.value: number for number, disposition in enumerate(GRAVEST_FIRST)}
    rank = pl.col("disposition").replace_strict(gravity, return_dtype=pl.Int64)
    gravest = pl.col("rank") == pl.col("rank").min()
    comes_again = pl.col("reason").is_in([str(reason) for reason in COME_AGAIN])
    per_file = (
        summed.with_columns(rank=rank)
        .sort("line")
        .group_by("arrival_id")
        .agg(
            disposition=pl.col("disposition").filter(gravest).first(),
            stage=pl.col("stage").filter(gravest).first(),
            own=pl.col("reason").filter(gravest).first(),
            reasons=pl.col("reason").n_unique(),
            units=pl.col("units").sum(),
            own_detail=pl.col("detail").first(),
            again=pl.col("reason").filter(comes_again).first(),
        )
        .with_columns(reason=_file_reason(), detail=pl.when(pl.col("units") == 1).then("own_detail"))
    )
    files = arrivals.select("arrival_id", "key", "size").join(per_file, on="arrival_id", how="left")
    missing = [name for name in FILE_DISPOSITIONS if name not in files.columns]
    rows = files.with_columns(pl.lit(None, pl.String).alias(name) for name in missing)
    return rows.select(FILE_DISPOSITIONS.names()).cast(FILE_DISPOSITIONS).sort("key", "arrival_id")


def _file_reason() -> pl.Expr:
    """Return the reason that the units share; if a unit waits for another run, the next takes the whole file again."""
    several = pl.col("disposition").is_in(_STOPPED) & (pl.col("reasons") > 1)
    return (
        pl.when(pl.col("again").is_not_null())
        .then("again")
        .when(several)
        .then(pl.lit(str(Reason.RESOURCES_SET_ASIDE)))
        .otherwise("own")
    )
