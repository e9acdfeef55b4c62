"""Validate: decide on every arrival before import: file rules, duplicate rules, study rules, in this order.

A decision, once made, stands: later rules see only what is still accepted. Writes ``verdicts``, one row per arrival.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.buffer import find_index, read_arrivals
from airlock.dicom.preconditions import file_rules
from airlock.normalize import is_begun
from airlock.reasons import Reason
from airlock.records import HEADERS, VERDICTS, Verdict

if TYPE_CHECKING:
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


class HeadersIncompleteError(RuntimeError):
    """Parse has not given every arrival exactly one header row."""


def validate(run: Run) -> dict[str, int]:
    """Decide on a run's delivery and return the number of arrivals by verdict.

    Once an import job was begun, the verdicts stand: they have been acted on, whatever policy or archive say by now.
    """
    if is_begun(run):
        return _counts(run.workspace.read("verdicts", VERDICTS))
    rows = apply_file_rules(_read_rows(run), list(file_rules(run.pipeline.limits)), run.pipeline.validation)
    rows = apply_duplicate_rules(rows)
    rows = _against_ledger_instances(run, rows)
    rows = apply_study_rules(rows, run.pipeline.validation)
    rows = _against_ledger_studies(run, rows)
    rows = _claim(run, rows)
    verdicts = rows.select(VERDICTS.names()).cast(VERDICTS)
    run.workspace.write("verdicts", VERDICTS, verdicts)
    return _counts(verdicts)


def _counts(verdicts: pl.DataFrame) -> dict[str, int]:
    return dict(verdicts["verdict"].value_counts().iter_rows())


def _read_rows(run: Run) -> pl.DataFrame:
    arrivals = read_arrivals(run)
    index = find_index(run)
    shards = index["shards"] if index else []
    headers = run.workspace.read_all([f"headers/{shard}" for shard in shards], HEADERS)
    rows = arrivals.join(headers, on="arrival_id", how="inner", validate="1:1", maintain_order="left")
    if not rows.height == arrivals.height == headers.height:
        raise HeadersIncompleteError(
            f"{arrivals.height} arrivals, {headers.height} header rows, {rows.height} of them matched: clear parse"
        )
    return rows


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
    text = pl.when(pl.col("warning").is_not_null()).then(pl.struct(reason=pl.col("warning"), detail=pl.col("detail")))
    read = pl.struct("reason", "detail")
    nothing = pl.struct(reason=pl.lit(None, pl.String), detail=pl.lit(None, pl.String))
    stops = pl.coalesce(pl.when(unread).then(read), *map(_finding, hard))
    text_stops = text if Reason.UNDECODABLE_TEXT not in settings.warn_only else None
    found = rows.with_columns(
        stopped=stops if text_stops is None else pl.coalesce(stops, text_stops),
        noted=pl.coalesce(text, *map(_finding, soft), nothing),
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
    accepted = pl.col("verdict") == Verdict.ACCEPT
    per_uid = (
        rows.filter(accepted)
        .sort("key", "arrival_id")
        .group_by("SOPInstanceUID", maintain_order=True)
        .agg(
            first=pl.col("arrival_id").first(),
            copies=pl.len(),
            contents=pl.struct("etag", "size").n_unique(),
        )
        .filter(pl.col("copies") > 1)
    )
    rows = rows.join(per_uid, on="SOPInstanceUID", how="left", maintain_order="left")
    differs = accepted & (pl.col("contents") > 1)
    repeats = accepted & (pl.col("contents") == 1) & (pl.col("first") != pl.col("arrival_id"))
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
) -> pl.DataFrame:
    where = (where & (pl.col("verdict") == Verdict.ACCEPT)).fill_null(value=False)
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
    owners = run.ledger.known_instances(run.pipeline.healthimaging.datastore_id, uids, except_run=run.key)
    return _against_owners(rows, owners)


def _claim(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """Own the accepted instances; what another run came to own meanwhile is decided like any duplicate."""
    owners = run.ledger.claim_instances(
        run.pipeline.healthimaging.datastore_id, run.pipeline.name, run.key, _accepted(rows)
    )
    return _against_owners(rows, owners)


def _accepted(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.filter(pl.col("verdict") == Verdict.ACCEPT)


def apply_study_rules(rows: pl.DataFrame, settings: Validate) -> pl.DataFrame:
    """Within the delivery: hold the grouping elements of each study and series to one value, by the policy."""
    for group, elements in (("SeriesInstanceUID", SERIES_ELEMENTS), ("StudyInstanceUID", STUDY_ELEMENTS)):
        for element, reason in elements.items():
            rows = _one_value(rows, group, element, reason, settings)
    return rows


def _one_value(rows: pl.DataFrame, group: str, element: str, reason: Reason, settings: Validate) -> pl.DataFrame:
    value = _comparable(element)
    counts = _accepted(rows).group_by(group, value=value).agg(files=pl.len())
    groups = counts.group_by(group).agg(
        values=pl.len(),
        top=pl.col("files").max(),
        usual=pl.col("value").sort_by("files", descending=True).first(),
    )
    ties = counts.join(groups, on=group).filter(pl.col("files") == pl.col("top")).group_by(group).agg(winners=pl.len())
    rows = rows.join(groups.join(ties, on=group), on=group, how="left", maintain_order="left")
    differs = pl.col("values") > 1
    if settings.grouping_conflict == "majority":
        differs &= (pl.col("winners") > 1) | (value != pl.col("usual"))
    detail = pl.format("{} values of {} in this delivery", pl.col("values"), pl.lit(element))
    return _conflict(rows, differs, reason, detail, settings).drop("values", "top", "usual", "winners")


def _comparable(element: str) -> pl.Expr:
    """Compare an attribute as the service does: absent and empty are one value, padding does not count."""
    return pl.col(element).fill_null("").str.strip_chars()


def _conflict(rows: pl.DataFrame, where: pl.Expr, reason: Reason, detail: pl.Expr, settings: Validate) -> pl.DataFrame:
    only_warns = settings.grouping_conflict == "accept" or reason in settings.warn_only
    verdict = Verdict.ACCEPT if only_warns else Verdict.QUARANTINE
    return _decide(rows, where, verdict, reason, detail)


def _against_ledger_studies(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """Hold the accepted arrivals to the grouping elements that the data store has from other runs."""
    datastore = run.pipeline.healthimaging.datastore_id
    settings = run.pipeline.validation
    accepted = _accepted(rows)
    studies = run.ledger.known_studies(datastore, accepted["StudyInstanceUID"].unique(), except_run=run.key)
    series = run.ledger.known_series(datastore, accepted["SeriesInstanceUID"].unique(), except_run=run.key)
    for group, elements, known in (
        ("SeriesInstanceUID", SERIES_ELEMENTS, series),
        ("StudyInstanceUID", STUDY_ELEMENTS, studies),
    ):
        for element, reason in elements.items():
            stored = known.select(group, stored=_comparable(element))
            rows = rows.join(stored, on=group, how="left", maintain_order="left")
            differs = pl.col("stored").is_not_null() & (pl.col("stored") != _comparable(element))
            detail = pl.lit(f"{element} differs from what the data store holds")
            rows = _conflict(rows, differs, reason, detail, settings).drop("stored")
    return rows
