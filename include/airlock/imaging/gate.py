"""The gate: release or hold, per study, by the pipeline's policy; and from it the disposition of every arrival."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.copies import dispose_held_copy
from airlock.imaging.manifests import warning_type
from airlock.reasons import Reason
from airlock.records import DISPOSITIONS, GATES, HOLDS, Disposition, Gate, Outcome, Stage, Verdict, digest, study_key
from airlock.stages.gating import TO_DECIDE, gravest_reason, reason_where, stage_before_import

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

    from airlock.pipelines import Audit

IMPORTED = (Outcome.IMPORTED.value, Outcome.IMPORTED_WITH_WARNING.value)
_TO_LOOK_AT = (Reason.NON_PRIMARY, Reason.PRIMARY_UNKNOWN, Reason.VERSION_ABOVE_ONE)
# Reasons of a gate that no single file causes: every file of the study has the gate's reason.
_OF_THE_STUDY = (
    Reason.STUDY_HELD,
    Reason.STUDY_INCOMPLETE,
    Reason.STUDY_IN_FLIGHT,
    Reason.SIBLING_UNREAD,
    Reason.WAITING_FOR_FILE,
    Reason.FEWER_THAN_DECLARED,
    Reason.AWAITING_DECLARED,
    Reason.NOT_PUBLISHED,
    Reason.PATIENT_CONTRADICTED,
    Reason.RUN_UNBALANCED,
)
# An accepted file with one of these reasons could not be staged. Its duplicates were not imported either and get the
# same reason, with which the ledger lets a later run take them again.
_OUT_OF_REACH = (str(Reason.OBJECT_CHANGED), str(Reason.OBJECT_GONE), str(Reason.ACCESS_DENIED))
_TAKEN_LATER = "this is the reason of the equal copy that was to be imported; the next run takes this file"


def flag_blocking(outcomes: pl.DataFrame, settings: Audit, suspect_batches: list[str]) -> pl.DataFrame:
    """Add the column ``blocks``: true for an imported file that a person has to look at, which holds its study.

    A service warning does not block if all its types are harmless, and neither does a finding that is only noted. It is
    milder than counts that disagree: these may mean that the file is not in the data store, and an edge must know that.
    """
    harmful_warning = (pl.col("reason") == Reason.SERVICE_WARNING) & ~_only_harmless(settings)
    to_look_at = pl.col("reason").is_in([str(reason) for reason in _TO_LOOK_AT])
    suspect = pl.col("batch_id").is_in(suspect_batches) & pl.col("outcome").is_in(IMPORTED)
    imported_but = (harmful_warning | to_look_at).fill_null(value=False)
    return outcomes.with_columns(
        reason=pl.when(suspect & ~to_look_at.fill_null(value=False))
        .then(pl.lit(str(Reason.JOB_COUNTS_DISAGREE)))
        .otherwise("reason"),
        blocks=imported_but | suspect,
    )


def _only_harmless(settings: Audit) -> pl.Expr:
    harmless = [warning_type(name) for name in settings.harmless_warnings]
    return pl.col("warnings").list.set_difference(harmless).list.len() == 0


def decide_studies(
    verdicts: pl.DataFrame,
    outcomes: pl.DataFrame,
    elsewhere: Mapping[Reason, Collection[tuple[str, str]]],
    settings: Audit,
    *,
    balanced: bool,
) -> pl.DataFrame:
    """Decide on every study that has accepted arrivals; a hold has the reason of the gravest file that blocks it.

    Parameters
    ----------
    verdicts
        Rows of the verdicts dataset.
    outcomes
        Rows of the outcomes dataset with ``blocks``.
    elsewhere
        The causes beside its own files that hold a study, by reason: StudyInstanceUIDs, each with what holds it,
        such as a file, a run or a count.
    settings
        The policy.
    balanced
        Whether the run's books balance; if not, everything is held.

    Returns
    -------
    polars.DataFrame
        Rows of the gates dataset.
    """
    uid = pl.col("StudyInstanceUID")
    lost = ~pl.col("outcome").is_in((*IMPORTED, Outcome.NON_PRIMARY.value))
    stopped = (pl.col("verdict") == Verdict.QUARANTINE) & settings.hold_incomplete_studies
    blocking_files = pl.concat(
        rows.select(uid, "reason") for rows in (outcomes.filter(pl.col("blocks") | lost), verdicts.filter(stopped))
    )
    own = blocking_files.group_by(uid).agg(reason=gravest_reason(Reason.STUDY_INCOMPLETE))
    studies = outcomes.select(uid).unique().sort(uid).join(own, on=uid, how="left", maintain_order="left")
    others = [
        reason_where(uid.is_in(sorted({study for study, _ in files})), reason) for reason, files in elsewhere.items()
    ]
    reason = pl.coalesce(reason_where(pl.lit(not balanced), Reason.RUN_UNBALANCED), "reason", *others)
    decided = studies.with_columns(
        study_key=uid.map_elements(study_key, return_dtype=pl.String), reason=reason
    ).with_columns(gate=pl.when(pl.col("reason").is_null()).then(pl.lit(Gate.RELEASE)).otherwise(pl.lit(Gate.HOLD)))
    return decided.select(GATES.names()).cast(GATES)


def find_holds(
    gates: pl.DataFrame,
    verdicts: pl.DataFrame,
    outcomes: pl.DataFrame,
    elsewhere: Mapping[Reason, Collection[tuple[str, str]]],
    settings: Audit,
) -> pl.DataFrame:
    """Return every held study with the findings that hold it.

    A file that the service refused, or that was never imported, makes its study incomplete. A file that is not
    accounted for is a finding under its own reason, and so is each file that a person has to look at.

    Parameters
    ----------
    gates
        Rows of the gates dataset.
    verdicts, outcomes
        Rows of these datasets, the outcomes with ``blocks``.
    elsewhere
        As for `decide_studies`.
    settings
        The policy.

    Returns
    -------
    polars.DataFrame
        Rows of the holds dataset.
    """
    held = gates.filter(pl.col("gate") == Gate.HOLD)
    stopped = verdicts.filter((pl.col("verdict") == Verdict.QUARANTINE) & settings.hold_incomplete_studies)
    refused = outcomes.filter(pl.col("outcome").is_in([Outcome.REJECTED.value, Outcome.SERVER_ERROR.value]))
    to_be_seen = outcomes.filter(pl.col("blocks") | (pl.col("outcome") == Outcome.UNACCOUNTED))
    incomplete = pl.lit(str(Reason.STUDY_INCOMPLETE))
    found = pl.concat(
        [
            _make_findings(to_be_seen, pl.col("reason")),
            _make_findings(refused, incomplete),
            _make_findings(stopped.with_columns(warnings=pl.lit([], pl.List(pl.String))), incomplete),
            *(_make_findings_elsewhere(files, code) for code, files in elsewhere.items()),
            held.filter(pl.col("reason") == Reason.RUN_UNBALANCED).select(
                "StudyInstanceUID", finding="reason", code="reason"
            ),
        ]
    )
    per_study = found.group_by("StudyInstanceUID").agg(
        reasons=pl.col("code").unique().sort(),
        findings=pl.col("finding").sort().str.join("\n"),
    )
    rows = held.join(per_study, on="StudyInstanceUID", how="left").rename(
        {"StudyInstanceUID": "subject", "study_key": "subject_key"}
    )
    return (
        rows.with_columns(pl.col("findings").map_elements(lambda text: digest(text, length=64), pl.String))
        .select(HOLDS.names())
        .cast(HOLDS)
    )


def _make_findings(files: pl.DataFrame, code: pl.Expr) -> pl.DataFrame:
    """Return files as findings, each with its reason code."""
    warnings = pl.col("warnings").list.sort().list.join(",")
    return files.select(
        "StudyInstanceUID",
        finding=pl.concat_str("arrival_id", "reason", warnings, separator=" ", ignore_nulls=True),
        code=code,
    )


def _make_findings_elsewhere(files: Collection[tuple[str, str]], code: Reason) -> pl.DataFrame:
    """Return findings outside this run, each with the file or run that causes it."""
    named = pl.DataFrame(sorted(files), schema={"StudyInstanceUID": pl.String, "cause": pl.String}, orient="row")
    return named.select(
        "StudyInstanceUID", finding=pl.format("{} {}", pl.lit(str(code)), "cause"), code=pl.lit(str(code))
    )


def release_studies(gates: pl.DataFrame, subjects: pl.Series) -> pl.DataFrame:
    """Release these studies: a person has approved their holds, or the run has released them before."""
    chosen = pl.col("StudyInstanceUID").is_in(subjects.implode())
    return gates.with_columns(
        gate=pl.when(chosen).then(pl.lit(Gate.RELEASE.value)).otherwise("gate"),
        reason=pl.when(~chosen).then("reason"),
    )


def hold_unpublished(
    gates: pl.DataFrame, published: Collection[str], late: Mapping[str, str] | None = None
) -> pl.DataFrame:
    """Hold the studies that would be released but are not proven in HealthLake.

    Parameters
    ----------
    gates
        Rows of the gates dataset.
    published
        The keys of the proven studies.
    late
        StudyInstanceUIDs that this run's publication could not have, with the reason that kept them from it. They keep
        the reason, so that a later run publishes and releases them.
    """
    reason = pl.col("StudyInstanceUID").replace_strict(
        late or {}, default=str(Reason.NOT_PUBLISHED), return_dtype=pl.String
    )
    waits = (pl.col("gate") == Gate.RELEASE) & ~pl.col("study_key").is_in(sorted(published))
    return gates.with_columns(
        gate=pl.when(waits).then(pl.lit(Gate.HOLD.value)).otherwise("gate"),
        reason=pl.when(waits).then(reason).otherwise("reason"),
    )


def decide_dispositions(
    arrivals: pl.DataFrame, verdicts: pl.DataFrame, outcomes: pl.DataFrame, gates: pl.DataFrame
) -> pl.DataFrame:
    """Return the disposition of every arrival: exactly one row each, even where verdicts or outcomes are missing."""
    known = verdicts.select(
        "arrival_id",
        "verdict",
        "reason",
        "detail",
        "duplicate_of",
        "SOPInstanceUID",
        "SeriesInstanceUID",
        "StudyInstanceUID",
    )
    after = outcomes.select(
        "arrival_id",
        "outcome",
        "batch_id",
        "job_id",
        "image_set_id",
        "blocks",
        outcome_reason="reason",
        outcome_detail="detail",
    )
    gone = pl.col("reason").is_in(_OUT_OF_REACH)
    lost = outcomes.filter(gone).select(duplicate_of="arrival_id", copy_reason="reason")
    rows = (
        arrivals.select("arrival_id", "key", "size")
        .join(known, on="arrival_id", how="left", maintain_order="left")
        .join(after, on="arrival_id", how="left", maintain_order="left")
        .join(lost, on="duplicate_of", how="left", maintain_order="left")
        .join(
            gates.select("StudyInstanceUID", "gate", gate_reason=_reason_of_study()), on="StudyInstanceUID", how="left"
        )
    )
    dispositions = rows.with_columns(
        sop_instance_uid="SOPInstanceUID",
        series_instance_uid="SeriesInstanceUID",
        study_instance_uid="StudyInstanceUID",
        disposition=_disposition(),
        stage=_stage(),
        **_reason_and_detail(),
    )
    return dispositions.select(DISPOSITIONS.names()).cast(DISPOSITIONS).sort("key", "arrival_id")


def _reason_of_study() -> pl.Expr:
    """Return the reason of a file that is held only because its study is held, from the reason of the gate."""
    reason = pl.col("reason")
    return (
        pl.when(reason.is_in([str(code) for code in _OF_THE_STUDY]))
        .then(reason)
        .when(reason.is_in([str(code) for code in TO_DECIDE]))
        .then(pl.lit(str(Reason.STUDY_HELD)))
        .when(reason.is_not_null())
        .then(pl.lit(str(Reason.STUDY_INCOMPLETE)))
    )


def _copy_lost() -> pl.Expr:
    """Return whether a row is a duplicate of a copy that could not be staged, so that neither was imported."""
    return (pl.col("verdict") == Verdict.DUPLICATE) & pl.col("copy_reason").is_not_null()


def _disposition() -> pl.Expr:
    before_import = {
        Verdict.QUARANTINE.value: Disposition.QUARANTINED.value,
        Verdict.IGNORE.value: Disposition.IGNORED.value,
        Verdict.DUPLICATE.value: Disposition.DUPLICATE.value,
    }
    released = pl.col("outcome").is_in(IMPORTED) & (pl.col("gate") == Gate.RELEASE)
    in_store = pl.col("outcome").is_in((*IMPORTED, Outcome.NON_PRIMARY.value))
    return pl.coalesce(
        pl.when(_copy_lost()).then(pl.lit(Disposition.FAILED.value)),
        dispose_held_copy(),
        pl.col("verdict").replace_strict(before_import, default=None, return_dtype=pl.String),
        pl.when(released).then(pl.lit(Disposition.RELEASED.value)),
        pl.when(in_store).then(pl.lit(Disposition.HELD.value)),
        pl.lit(Disposition.FAILED.value),
    )


def _stage() -> pl.Expr:
    accepted = pl.col("verdict") == Verdict.ACCEPT
    not_staged = accepted & pl.col("outcome_reason").is_in(_OUT_OF_REACH)
    return (
        pl.when(not_staged | _copy_lost())
        .then(pl.lit(Stage.STAGE.value))
        .when(accepted | pl.col("verdict").is_null())
        .then(pl.lit(Stage.AUDIT.value))
        .otherwise(stage_before_import())
    )


def _reason_and_detail() -> dict[str, pl.Expr]:
    """Return the reason nearest to the decision: of the file's outcome, else the study's gate, else the verdict."""
    undecided = pl.col("verdict").is_null() | ((pl.col("verdict") == Verdict.ACCEPT) & pl.col("outcome").is_null())
    own = pl.col("outcome_reason").is_not_null()
    held_for_study = (
        ~pl.col("blocks").fill_null(value=False) & pl.col("outcome").is_in(IMPORTED) & (pl.col("gate") == Gate.HOLD)
    )
    reason = (
        pl.when(undecided)
        .then(pl.lit(str(Reason.UNDECIDED)))
        .when(_copy_lost())
        .then("copy_reason")
        .when(held_for_study)
        .then("gate_reason")
        .when(own)
        .then("outcome_reason")
        .otherwise("reason")
    )
    detail = (
        pl.when(held_for_study)
        .then(pl.lit(None, pl.String))
        .when(_copy_lost())
        .then(pl.lit(_TAKEN_LATER))
        .when(own)
        .then("outcome_detail")
        .otherwise("detail")
    )
    return {"reason": reason, "detail": detail}
