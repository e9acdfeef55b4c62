"""Validate: decide on every arrival before import: file rules, duplicate rules, study rules, in this order.

A decision, once made, stands: later rules see only what is still accepted. Writes ``verdicts``, one row per arrival.
Rules that compare files see them by partitions, in which what they compare is whole: by instance, then by series, then
by study. So memory does not grow with the delivery, and a study's verdicts end in one part of ``verdicts``.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import polars as pl
from pydicom.datadict import dictionary_VR

from airlock.dicom.preconditions import file_rules
from airlock.imaging.normalize import has_job_in_datastore
from airlock.imaging.resolve import carried_verdicts
from airlock.ledger.instances import OWNERS
from airlock.reasons import Reason
from airlock.records import ARRIVALS, ATTRIBUTES, HEADERS, VERDICTS, Verdict
from airlock.stages.buffer import Buffered, find_buffered
from airlock.storage.spool import Spool, partitions_for

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from airlock.dicom.preconditions import FileRule
    from airlock.pipelines import Validate
    from airlock.run import Run

IGNORED_REASONS = (Reason.SIDECAR, Reason.DICOMDIR)

# HealthImaging's grouping elements: one value each within a study or a series, or the image set is not the primary one.
# IssuerOfPatientID is not among the service's, but says whose PatientID it is.
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
# The gravest conflicts: whose study it is. A lesser one that the same file has does not hide them.
PATIENT_CONFLICTS = (Reason.PATIENT_ID_CONFLICT, Reason.ISSUER_CONFLICT)
_LESSER_CONFLICTS = tuple(
    reason for elements in GROUPING_ELEMENTS.values() for reason in elements.values() if reason not in PATIENT_CONFLICTS
)

_FACTS = (*ARRIVALS, *ATTRIBUTES)
_IS_ACCEPTED = pl.col("verdict") == Verdict.ACCEPT
_DECISION = ("verdict", "reason", "detail", "duplicate_of")
# What the rules that compare files look at; the other facts go to the verdicts without them.
_COMPARED = (
    *("arrival_id", "key", "etag", "size", "SOPInstanceUID", "SeriesInstanceUID"),
    *(element for elements in GROUPING_ELEMENTS.values() for element in elements),
    *_DECISION,
)


_INTEGERS = frozenset(element for element in SERIES_ELEMENTS if dictionary_VR(element) == "IS")


class HeadersIncompleteError(RuntimeError):
    """Parse has not given every arrival exactly one header row."""


def validate(run: Run) -> dict[str, int]:
    """Decide on a run's delivery and return the number of arrivals by verdict.

    Once an import job was begun, the verdicts stand: they have been acted on, whatever policy or archive say by now.
    """
    if has_job_in_datastore(run):
        return _counts(run.workspace.parts("verdicts", VERDICTS, ["verdict"]))
    buffered = find_buffered(run) or Buffered()
    partitions = partitions_for(buffered.arrivals)
    with Spool(_by("StudyInstanceUID"), partitions) as facts, Spool(_by("StudyInstanceUID"), partitions) as decided:
        for part in _decide_all(run, buffered.shards, facts, partitions):
            decided.add(part)
        for part in carried_verdicts(run):  # in the data store already: it was let in, and no rule is asked again
            facts.add(part.select(_FACTS))
            decided.add(part.select(_COMPARED))
        return _counts(_write(run, facts, decided))


def _counts(parts: Iterable[pl.DataFrame]) -> dict[str, int]:
    counts: Counter[str] = Counter()
    for part in parts:
        counts.update(dict(part["verdict"].value_counts().iter_rows()))
    return dict(counts)


def _by(uid: str) -> pl.Expr:
    """Partition by a UID; files without one are spread, since they have nothing to do with each other."""
    return pl.when(pl.col(uid) != "").then(pl.col(uid)).otherwise(pl.col("arrival_id"))


def _regrouped(parts: Iterable[pl.DataFrame], uid: str, partitions: int) -> Iterator[pl.DataFrame]:
    with Spool(_by(uid), partitions) as aside:
        for part in parts:
            aside.add(part)
        yield from aside


def _decide_all(run: Run, shards: list[str], facts: Spool, partitions: int) -> Iterator[pl.DataFrame]:
    """Yield what the rules say, by partitions of studies; what they do not compare goes to ``facts``."""
    settings = run.pipeline.validation
    parts = _file_verdicts(run, shards, facts)
    parts = (
        _against_ledger_instances(run, apply_duplicate_rules(part))
        for part in _regrouped(parts, "SOPInstanceUID", partitions)
    )
    parts = (
        apply_grouping_rules(part, "SeriesInstanceUID", settings)
        for part in _regrouped(parts, "SeriesInstanceUID", partitions)
    )
    for part in _regrouped(parts, "StudyInstanceUID", partitions):
        yield _against_ledger_studies(run, apply_grouping_rules(part, "StudyInstanceUID", settings))


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
    """Give each arrival a first verdict, from what parse found and from the file rules.

    Parameters
    ----------
    rows
        Arrivals joined with their headers.
    rules
        In the order in which they are asked.
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


def apply_duplicate_rules(rows: pl.DataFrame) -> pl.DataFrame:
    """Within the delivery: of equal copies the first by key counts; copies that differ are all quarantined.

    Content is known to be equal by etag and size. Equal content under different etags (multipart, SSE-KMS) cannot be
    told from other content without reading pixels, and is treated as other content.
    """
    accepted = _accepted(rows)
    per_uid = (
        accepted.filter(pl.col("SOPInstanceUID").is_duplicated())
        .sort("key", "arrival_id")
        .group_by("SOPInstanceUID", maintain_order=True)
        .agg(
            first=pl.col("arrival_id").first(),
            copies=pl.len(),
            contents=pl.struct("etag", "size").n_unique(),
        )
    )
    rows = rows.join(per_uid, on="SOPInstanceUID", how="left", maintain_order="left")
    differs = pl.col("contents") > 1
    repeats = (pl.col("contents") == 1) & (pl.col("first") != pl.col("arrival_id"))
    detail = pl.format("{} copies in this delivery", pl.col("copies"))
    rows = _decide(rows, differs, Verdict.QUARANTINE, Reason.DUPLICATE_OTHER_CONTENT, detail)
    rows = _decide(
        rows, repeats, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, detail, duplicate_of=pl.col("first")
    )
    return rows.drop("first", "copies", "contents")


def _decide(
    rows: pl.DataFrame,
    where: pl.Expr,
    verdict: Verdict,
    reason: Reason,
    detail: pl.Expr,
    *,
    duplicate_of: pl.Expr | None = None,
    among: pl.Expr = _IS_ACCEPTED,
) -> pl.DataFrame:
    where = (where & among).fill_null(value=False)
    return rows.with_columns(
        verdict=pl.when(where).then(pl.lit(verdict)).otherwise("verdict"),
        reason=pl.when(where).then(pl.lit(str(reason))).otherwise("reason"),
        detail=pl.when(where).then(detail).otherwise("detail"),
        duplicate_of=pl.when(where).then(duplicate_of).otherwise("duplicate_of")
        if duplicate_of is not None
        else pl.col("duplicate_of"),
    )


def _against_owners(rows: pl.DataFrame, owners: pl.DataFrame) -> pl.DataFrame:
    """Decide on arrivals whose instance another arrival already owns in the data store."""
    owners = owners.select(
        "SOPInstanceUID", owner="arrival_id", owner_etag="etag", owner_size="size", owner_state="state"
    )
    rows = rows.join(owners, on="SOPInstanceUID", how="left", maintain_order="left")
    owned = pl.col("owner").is_not_null()  # by this very object perhaps, which another pipeline has brought
    same = (pl.col("owner_etag") == pl.col("etag")) & (pl.col("owner_size") == pl.col("size"))
    claimed = pl.col("owner_state") == "claimed"
    owner = pl.col("owner")
    # Not a duplicate yet: should that run fail, nothing is in the store, and nobody may be told that nothing is to do.
    waits = pl.lit("held by another run")
    rows = _decide(rows, owned & same & claimed, Verdict.QUARANTINE, Reason.INSTANCE_CLAIMED, waits, duplicate_of=owner)
    earlier = pl.lit("taken by an earlier delivery")
    rows = _decide(rows, owned & same, Verdict.DUPLICATE, Reason.DUPLICATE_SAME_CONTENT, earlier, duplicate_of=owner)
    other = pl.lit("an earlier delivery holds other content")
    rows = _decide(
        rows, owned & ~same, Verdict.QUARANTINE, Reason.DUPLICATE_OTHER_CONTENT, other, duplicate_of=pl.col("owner")
    )
    return rows.drop("owner", "owner_etag", "owner_size", "owner_state")


def _against_ledger_instances(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    uids = _accepted(rows)["SOPInstanceUID"]
    owners = run.ledger.known_instances(run.pipeline.healthimaging.datastore_id, uids, except_run=run.holder)
    return _against_owners(rows, owners)


def _write(run: Run, facts: Spool, decided: Spool) -> Iterator[pl.DataFrame]:
    """Own the accepted instances and write the verdicts, one part per partition of studies.

    What another run came to own meanwhile is decided like any duplicate. A plan owns nothing.
    """
    accepted = (_accepted(part) for part in decided)
    owners = OWNERS.to_frame() if run.plan_only else _claimed(run, accepted)
    with run.workspace.writer("verdicts", VERDICTS, part_rows=None) as verdicts:
        for known, part in zip(facts, decided, strict=True):  # both have their rows in the same partitions
            words = _against_owners(part, owners).select("arrival_id", *_DECISION)
            rows = known.join(words, on="arrival_id", how="inner", validate="1:1", maintain_order="left")
            verdicts.add(rows.select(VERDICTS.names()).cast(VERDICTS))
            verdicts.end_part()
            yield rows


def _claimed(run: Run, accepted: Iterable[pl.DataFrame]) -> pl.DataFrame:
    """Own the accepted instances, and return those that another run owns."""
    store = run.pipeline.healthimaging.datastore_id
    return run.ledger.claim_instances(store, run.pipeline.name, run.key, accepted)


def _accepted(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(_IS_ACCEPTED)


def apply_grouping_rules(rows: pl.DataFrame, group: str, settings: Validate) -> pl.DataFrame:
    """Within the delivery: hold the grouping elements of each series or study to one value, by the policy.

    Parameters
    ----------
    rows
        With every file of each of the groups.
    group
        ``SeriesInstanceUID`` or ``StudyInstanceUID``.
    settings
        The policy.
    """
    for element, reason in GROUPING_ELEMENTS[group].items():
        rows = _one_value(rows, group, element, reason, settings)
    return rows


def _one_value(rows: pl.DataFrame, group: str, element: str, reason: Reason, settings: Validate) -> pl.DataFrame:
    value = _comparable(element)
    counts = rows.filter(_compared_for(reason, settings)).group_by(group, value=value).agg(files=pl.len())
    counts = counts.filter(pl.col(group).is_duplicated())
    if counts.is_empty():
        return rows
    top = pl.col("files") == pl.col("files").max()
    groups = counts.group_by(group).agg(values=pl.len(), winners=top.sum(), usual=pl.col("value").filter(top).first())
    rows = rows.join(groups, on=group, how="left", maintain_order="left")
    differs = pl.col("values").is_not_null()
    if settings.grouping_conflict == "majority":
        differs &= (pl.col("winners") > 1) | (value != pl.col("usual"))
    detail = pl.format("{} values of {} in this delivery", pl.col("values"), pl.lit(element))
    return _conflict(rows, differs, reason, detail, settings).drop("values", "winners", "usual")


def _comparable(element: str) -> pl.Expr:
    """Return an attribute as it is compared: absent and empty are one value, padding and zeros before a number none."""
    text = pl.col(element).fill_null("").str.strip_chars()
    return pl.coalesce(text.cast(pl.Int64, strict=False).cast(pl.String), text) if element in _INTEGERS else text


def _only_warns(reason: Reason, settings: Validate) -> bool:
    return settings.grouping_conflict == "accept" or reason in settings.warn_only


def _compared_for(reason: Reason, settings: Validate) -> pl.Expr:
    """Find the files that a conflict may stop: the accepted ones, and if patients conflict what a lesser one stops."""
    if reason not in PATIENT_CONFLICTS or _only_warns(reason, settings):
        return _IS_ACCEPTED
    return _IS_ACCEPTED | _has_reason(_LESSER_CONFLICTS)


def _has_reason(reasons: Iterable[Reason]) -> pl.Expr:
    return pl.col("reason").is_in([str(reason) for reason in reasons]).fill_null(value=False)


def _conflict(rows: pl.DataFrame, where: pl.Expr, reason: Reason, detail: pl.Expr, settings: Validate) -> pl.DataFrame:
    among = _compared_for(reason, settings)
    if not _only_warns(reason, settings):
        return _decide(rows, where, Verdict.QUARANTINE, reason, detail, among=among)
    if reason in _LESSER_CONFLICTS:
        among &= ~_has_reason(PATIENT_CONFLICTS)
    return _decide(rows, where, Verdict.ACCEPT, reason, detail, among=among)


def _against_ledger_studies(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """Hold the accepted arrivals to the grouping elements that the data store has from other runs."""
    datastore = run.pipeline.healthimaging.datastore_id
    settings = run.pipeline.validation
    compared = rows.filter(_IS_ACCEPTED | _has_reason(_LESSER_CONFLICTS))
    studies = run.ledger.known_studies(datastore, compared["StudyInstanceUID"].unique(), except_run=run.holder)
    series = run.ledger.known_series(datastore, compared["SeriesInstanceUID"].unique(), except_run=run.holder)
    for group, known in (("SeriesInstanceUID", series), ("StudyInstanceUID", studies)):
        for element, reason in GROUPING_ELEMENTS[group].items() if known.height else ():
            stored = known.select(group, stored=_comparable(element))
            rows = rows.join(stored, on=group, how="left", maintain_order="left")
            differs = pl.col("stored").is_not_null() & (pl.col("stored") != _comparable(element))
            detail = pl.lit(f"{element} differs from what the data store holds")
            rows = _conflict(rows, differs, reason, detail, settings).drop("stored")
    return rows
