"""Validate: decide on every arrival before import: file rules, duplicate rules, study rules, in this order.

Later rules see only what is still accepted; of two conflicts of one file, that of the patient counts. Writes
``verdicts``, one row per arrival. Rules that compare files see them by partitions, in which what they compare is whole:
by instance, then by series, then by study. So memory does not grow with the delivery, and a study's verdicts end in one
part of ``verdicts``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl
from pydicom.datadict import dictionary_VR

from airlock.dicom.preconditions import file_rules
from airlock.imaging.copies import decide_among_copies, decide_by_claims, decide_by_owners
from airlock.imaging.copy_proofs import CopyProofs
from airlock.imaging.declarations import Declarations
from airlock.imaging.normalize import has_job_in_datastore
from airlock.imaging.resolve import read_carried_verdicts
from airlock.imaging.verdicts import DECISION, IS_ACCEPTED, decide, filter_accepted
from airlock.ledger.arrivals import scope
from airlock.ledger.instances import OWNERS
from airlock.ledger.instances import SCOPE as INSTANCES
from airlock.reasons import Reason
from airlock.records import ARRIVALS, ATTRIBUTES, HEADERS, VERDICTS, Verdict, count_parts
from airlock.stages.buffer import Buffered, find_buffered
from airlock.stages.split_studies import find_sharing, list_split
from airlock.storage.spool import Spool, count_partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.dicom.preconditions import FileRule
    from airlock.pipelines import Validate
    from airlock.run import Run

IGNORED_REASONS = (Reason.SIDECAR, Reason.DICOMDIR)

# HealthImaging's grouping elements: one value each within a study or a series, or the image set is not the primary one.
# IssuerOfPatientID is not among the service's, but says who issued the PatientID.
STUDY_ELEMENTS = {
    "PatientID": Reason.PATIENT_ID_CONFLICT,
    "IssuerOfPatientID": Reason.ISSUER_CONFLICT,
    "StudyDate": Reason.STUDY_DATE_CONFLICT,
    "AccessionNumber": Reason.ACCESSION_NUMBER_CONFLICT,
    "StudyID": Reason.STUDY_ID_CONFLICT,
}
SERIES_ELEMENTS = {
    "StudyInstanceUID": Reason.SERIES_IN_TWO_STUDIES,
    "SeriesNumber": Reason.SERIES_NUMBER_CONFLICT,
}


GROUPING_ELEMENTS = {"SeriesInstanceUID": SERIES_ELEMENTS, "StudyInstanceUID": STUDY_ELEMENTS}
# The gravest conflicts are about the patient of a study. A lesser conflict of the same file does not hide them.
PATIENT_CONFLICTS = (Reason.PATIENT_ID_CONFLICT, Reason.ISSUER_CONFLICT)
_LESSER_CONFLICTS = tuple(
    reason for elements in GROUPING_ELEMENTS.values() for reason in elements.values() if reason not in PATIENT_CONFLICTS
)

_FACTS = (*ARRIVALS, *ATTRIBUTES)
_UID_COLUMNS = {
    "SOPInstanceUID": "sop_instance_uid",
    "SeriesInstanceUID": "series_instance_uid",
    "StudyInstanceUID": "study_instance_uid",
}
# The columns that are compared between files; the other columns go to the verdicts as they are.
_COMPARED = (
    *("arrival_id", "bucket", "key", "etag", "size", "SOPInstanceUID", "SeriesInstanceUID"),
    *(element for elements in GROUPING_ELEMENTS.values() for element in elements),
    *DECISION,
)


_INTEGERS = frozenset(element for element in SERIES_ELEMENTS if dictionary_VR(element) == "IS")


class HeadersIncompleteError(RuntimeError):
    """Parse has not given every arrival exactly one header row."""


def validate(run: Run) -> dict[str, int]:
    """Decide on a run's delivery and return the number of arrivals by verdict.

    Once an import job was begun, the verdicts stand even if policy or archive change: the job has acted on them.
    """
    if has_job_in_datastore(run):
        return count_parts(run.workspace.parts("verdicts", VERDICTS, ["verdict"]), "verdict")
    buffered = find_buffered(run) or Buffered()
    partitions = count_partitions(buffered.arrivals)
    with (
        Spool(_partition_key("StudyInstanceUID"), partitions) as facts,
        Spool(_partition_key("StudyInstanceUID"), partitions) as decided,
        Declarations(run, partitions) as declared,
    ):
        for part in _decide_all(run, buffered.shards, facts, partitions):
            decided.add(part)
        for part in read_carried_verdicts(run):  # they are in the data store already, so no rule is applied again
            facts.add(part.select(_FACTS))
            decided.add(part.select(_COMPARED))
        counts = count_parts(_write(run, facts, decided, declared), "verdict")
        declared.write()
        return counts


def _partition_key(uid: str) -> pl.Expr:
    """Return the key of a partition: the UID, or the arrival's id for files without one, which spreads them."""
    return pl.when(pl.col(uid) != "").then(pl.col(uid)).otherwise(pl.col("arrival_id"))


def _regroup(parts: Iterable[pl.DataFrame], uid: str, partitions: int) -> Iterator[pl.DataFrame]:
    with Spool(_partition_key(uid), partitions) as aside:
        for part in parts:
            aside.add(part)
        yield from aside


def _decide_all(run: Run, shards: list[str], facts: Spool, partitions: int) -> Iterator[pl.DataFrame]:
    """Yield the verdicts of all rules by partitions of studies; columns that are not compared go to ``facts``."""
    settings, proofs = run.pipeline.validation, CopyProofs(run.s3, run.pipeline.validation)
    parts = _file_verdicts(run, shards, facts)
    parts = (
        decide_among_copies(_compare_with_ledger_instances(run, part, proofs), proofs, settings)
        for part in _regroup(parts, "SOPInstanceUID", partitions)
    )
    parts = (
        apply_grouping_rules(part, "SeriesInstanceUID", settings)
        for part in _regroup(parts, "SeriesInstanceUID", partitions)
    )
    for part in _regroup(parts, "StudyInstanceUID", partitions):
        yield _compare_with_ledger_studies(run, apply_grouping_rules(part, "StudyInstanceUID", settings))


def _file_verdicts(run: Run, shards: list[str], facts: Spool) -> Iterator[pl.DataFrame]:
    rules = list(file_rules(run.pipeline.limits))
    for shard in _read_shards(run, shards):
        rows = apply_file_rules(shard, rules, run.pipeline.validation)
        facts.add(rows.select(_FACTS))
        yield rows.select(_COMPARED)


def _read_shards(run: Run, shards: list[str]) -> Iterator[pl.DataFrame]:
    """Yield the arrivals of each shard with their headers.

    Raises
    ------
    HeadersIncompleteError
        After the last, with the counts of all.
    """
    counts = [0, 0, 0]
    for shard in shards:
        arrivals = run.workspace.read(f"arrivals/{shard}", ARRIVALS)
        headers = run.workspace.read(f"headers/{shard}", HEADERS)
        rows = arrivals.join(headers, on="arrival_id", how="inner", validate="1:1", maintain_order="left")
        counts = [count + frame.height for count, frame in zip(counts, (arrivals, headers, rows), strict=True)]
        yield rows
    if len(set(counts)) > 1:
        raise HeadersIncompleteError("{} arrivals, {} header rows, {} of them matched: clear parse".format(*counts))


def apply_file_rules(rows: pl.DataFrame, rules: list[FileRule], settings: Validate) -> pl.DataFrame:
    """Return each arrival with a first verdict, from the findings of parse and the file rules.

    Parameters
    ----------
    rows
        Arrivals joined with their headers.
    rules
        In the order in which they apply.
    settings
        Which reasons only warn.
    """
    unread = pl.col("reason").is_not_null()
    soft = [rule for rule in rules if rule.reason in settings.warn_only]
    hard = [rule for rule in rules if rule.reason not in settings.warn_only]
    warning = pl.col("warning")
    warned = pl.struct(reason=warning, detail=pl.col("detail"))
    text_stops = (warning == Reason.UNDECODABLE_TEXT) & (Reason.UNDECODABLE_TEXT not in settings.warn_only)
    read = pl.struct("reason", "detail")
    nothing = pl.struct(reason=pl.lit(None, pl.String), detail=pl.lit(None, pl.String))
    found = rows.with_columns(
        stopped=pl.coalesce(pl.when(unread).then(read), *map(_finding, hard), pl.when(text_stops).then(warned)),
        noted=pl.coalesce(pl.when(warning.is_not_null()).then(warned), *map(_finding, soft), nothing),
    )
    is_stopped = pl.col("stopped").is_not_null()
    is_ignored = unread & pl.col("reason").is_in([str(reason) for reason in IGNORED_REASONS])
    return found.with_columns(
        verdict=pl.when(is_ignored)
        .then(pl.lit(Verdict.IGNORE))
        .when(is_stopped)
        .then(pl.lit(Verdict.QUARANTINE))
        .otherwise(pl.lit(Verdict.ACCEPT)),
        reason=pl.coalesce(pl.col("stopped").struct["reason"], pl.col("noted").struct["reason"]),
        detail=pl.coalesce(pl.col("stopped").struct["detail"], pl.col("noted").struct["detail"]),
        duplicate_of=pl.lit(None, pl.String),
    ).drop("stopped", "noted", "warning")


def _finding(rule: FileRule) -> pl.Expr:
    finding = pl.struct(reason=pl.lit(str(rule.reason)), detail=pl.lit(rule.detail))
    return pl.when(rule.finds.fill_null(value=False)).then(finding)


def _compare_with_ledger_instances(run: Run, rows: pl.DataFrame, proofs: CopyProofs) -> pl.DataFrame:
    datastore = run.pipeline.healthimaging.datastore_id
    uids = filter_accepted(rows)["SOPInstanceUID"].unique()
    owners = run.ledger.known_instances(datastore, uids, except_run=run.holder)
    if owners.is_empty():
        return rows
    studies = run.ledger.known_studies(datastore, owners["StudyInstanceUID"].unique())
    return decide_by_owners(rows, owners, studies, proofs, run.pipeline.validation)


def _write(run: Run, facts: Spool, decided: Spool, declared: Declarations) -> Iterator[pl.DataFrame]:
    """Claim the accepted instances and write the verdicts, one part per partition of studies.

    A plan claims nothing.
    """
    owners = OWNERS.to_frame() if run.plan_only else _claim_instances(run, decided)
    with run.workspace.writer("verdicts", VERDICTS, part_rows=None) as verdicts:
        for known, part in zip(facts, decided, strict=True):  # both have the same partitions
            rows = _join_decisions(known, decide_by_claims(part, owners))
            verdicts.add(rows.select(VERDICTS.names()).cast(VERDICTS))
            verdicts.end_part()
            declared.add_headers(rows)
            yield rows


def _join_decisions(facts: pl.DataFrame, decided: pl.DataFrame) -> pl.DataFrame:
    decisions = decided.select("arrival_id", *DECISION)
    return facts.join(decisions, on="arrival_id", how="inner", validate="1:1", maintain_order="left")


def _claim_instances(run: Run, decided: Spool) -> pl.DataFrame:
    """Claim the accepted instances and record all verdicts at once; return the instances that another run owns."""
    columns = ["arrival_id", "verdict", *_UID_COLUMNS]
    store, pipeline = run.pipeline.healthimaging.datastore_id, run.pipeline.name
    decisions = (part.select(columns).rename(_UID_COLUMNS) for part in decided)
    sharing = find_sharing(run) if run.pipeline.waves.hold_split else {}
    with run.ledger.at_once(scope(pipeline), INSTANCES) as ledger:
        verdicts = ledger.stage_verdicts(decisions)
        owners = ledger.claim_instances(store, pipeline, run.key, verdicts)
        if sharing:
            ledger.await_waves(store, pipeline, run.key, sharing, list_split(run, decided, sharing))
        ledger.record_verdicts(store, pipeline, run.key, verdicts, taken=owners["SOPInstanceUID"])
    return owners


def apply_grouping_rules(rows: pl.DataFrame, group: str, settings: Validate) -> pl.DataFrame:
    """Require one value of each grouping element within a series or study of the delivery, by the policy.

    Parameters
    ----------
    rows
        Arrivals with headers; whole groups.
    group
        ``SeriesInstanceUID`` or ``StudyInstanceUID``.
    settings
        The policy.
    """
    for element, reason in GROUPING_ELEMENTS[group].items():
        rows = _require_one_value(rows, group, element, reason, settings)
    return rows


def _require_one_value(
    rows: pl.DataFrame, group: str, element: str, reason: Reason, settings: Validate
) -> pl.DataFrame:
    value = _comparable(element)
    counts = rows.filter(_compared_for(reason)).group_by(group, value=value).agg(files=pl.len())
    counts = counts.filter(pl.col(group).is_duplicated())
    if counts.is_empty():
        return rows
    top = pl.col("files") == pl.col("files").max()
    groups = counts.group_by(group).agg(values=pl.len(), winners=top.sum(), usual=pl.col("value").filter(top).first())
    rows = rows.join(groups, on=group, how="left", maintain_order="left")
    differs = pl.col("values").is_not_null()
    if settings.grouping_conflict == "majority" and reason not in PATIENT_CONFLICTS:
        differs &= (pl.col("winners") > 1) | (value != pl.col("usual"))
    detail = pl.format("{} values of {} in this delivery", pl.col("values"), pl.lit(element))
    return _apply_conflict(rows, differs, reason, detail, settings).drop("values", "winners", "usual")


def _comparable(element: str) -> pl.Expr:
    """Return an attribute for comparison: absent equals empty, without padding or a number's leading zeros."""
    text = pl.col(element).fill_null("").str.strip_chars()
    return pl.coalesce(text.cast(pl.Int64, strict=False).cast(pl.String), text) if element in _INTEGERS else text


def _only_warns(reason: Reason, settings: Validate) -> bool:
    """Return whether a conflict is only noted; whose study it is, is never put to a vote."""
    if reason in PATIENT_CONFLICTS:
        return False
    return settings.grouping_conflict == "accept" or reason in settings.warn_only


def _compared_for(reason: Reason) -> pl.Expr:
    """Return the files that a conflict may stop: accepted ones, and for a patient conflict those with a lesser one."""
    if reason not in PATIENT_CONFLICTS:
        return IS_ACCEPTED
    return IS_ACCEPTED | _has_reason(_LESSER_CONFLICTS)


def _has_reason(reasons: Iterable[Reason]) -> pl.Expr:
    return pl.col("reason").is_in([str(reason) for reason in reasons]).fill_null(value=False)


def _apply_conflict(
    rows: pl.DataFrame, where: pl.Expr, reason: Reason, detail: pl.Expr, settings: Validate
) -> pl.DataFrame:
    among = _compared_for(reason)
    if not _only_warns(reason, settings):
        return decide(rows, where, Verdict.QUARANTINE, reason, detail, among=among)
    return decide(rows, where, Verdict.ACCEPT, reason, detail, among=among)


def _compare_with_ledger_studies(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """Compare the accepted arrivals with the grouping elements that the data store has from other runs."""
    datastore = run.pipeline.healthimaging.datastore_id
    settings = run.pipeline.validation
    compared = rows.filter(IS_ACCEPTED | _has_reason(_LESSER_CONFLICTS))
    studies = run.ledger.known_studies(datastore, compared["StudyInstanceUID"].unique(), except_run=run.holder)
    series = run.ledger.known_series(datastore, compared["SeriesInstanceUID"].unique(), except_run=run.holder)
    for group, known in (("SeriesInstanceUID", series), ("StudyInstanceUID", studies)):
        for element, reason in GROUPING_ELEMENTS[group].items() if known.height else ():
            stored = known.select(group, stored=_comparable(element))
            rows = rows.join(stored, on=group, how="left", maintain_order="left")
            differs = pl.col("stored").is_not_null() & (pl.col("stored") != _comparable(element))
            detail = pl.lit(f"{element} differs from what the data store holds")
            rows = _apply_conflict(rows, differs, reason, detail, settings).drop("stored")
    return rows
