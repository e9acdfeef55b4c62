"""Attribute unread files: find the study of a quarantined file of which no StudyInstanceUID was read.

The first of these that answers counts: the arrivals under the same key in earlier runs; the delivery's manifest, or a
DICOMDIR, that names the file; the accepted files in its folder, or in the nearest folder above it that has any, if they
belong to few studies. An attributed file holds its study, also when its run is audited again. A file that is not
attributed holds nothing, and the report counts it.

Rows are on the disk in partitions, by file, by folder and by study, so that memory does not grow with the delivery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.books import ACCEPTED, ATTRIBUTED, DIRECTORIES, name_pattern
from airlock.imaging.named_files import MOST_DIRECTORIES, read_directories, read_manifest, read_manifests_beside
from airlock.ledger.folders import FOLDERS, MOST_OF_A_FOLDER
from airlock.ledger.owed import OUT_OF_REACH
from airlock.ledger.predecessors import PREDECESSORS
from airlock.reasons import Reason
from airlock.records import digest, schema
from airlock.stages.sites import site_of
from airlock.storage.s3uri import S3Uri
from airlock.storage.spool import zip_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.imaging.books import Books
    from airlock.pipelines import Audit
    from airlock.run import Run
    from airlock.storage.spool import Spool

TRANSIENT = OUT_OF_REACH  # the next runs try these again before a person is asked
BY_KEY = "it counts to the study of the earlier file under its key"
BY_LIST = "it counts to the study that the delivery's manifest or DICOMDIR names for it"
BY_FOLDER = "it counts to the study of the accepted files beside it"
BY_AUDIT = "it counts to the study that an earlier audit has found"

_ID, _STUDY, _FOLDER = "arrival_id", "StudyInstanceUID", "folder"
_KNOWN = pl.Schema({_ID: pl.String, _STUDY: pl.String, "own": pl.String, "tries": pl.Int64})
_LISTED = pl.Schema({_ID: pl.String, _STUDY: pl.String})
_ASKED = schema(
    dict.fromkeys((_ID, "key", "reason", "pattern"), pl.String),
    {"level": pl.Int64},  # of the folder, below the source
    {_FOLDER: pl.String},
)
_ANSWERS = schema(_ASKED, {"studies": pl.List(pl.String)}, {"alike": pl.Boolean})
_BESIDE = schema(
    dict.fromkeys((_ID, "reason", "pattern", _STUDY), pl.String),
    {"alike": pl.Boolean},  # whether one of the files that name the folder has such a name
)
_HAS_STUDY = pl.col(_STUDY).is_not_null()
_IS_OTHER = pl.col("reason") == Reason.NOT_DICOM


def attribute(run: Run, books: Books, *, remembers: bool = True) -> None:
    """Add to the books the studies of the unread files, by file and by study, and count the files without a study.

    Later runs know the folders of accepted files. Without *remembers* the ledger stays as it is.
    """
    source = S3Uri.parse(run.pipeline.source.uri)
    offered = _offer_folders(books, source)
    if remembers:
        run.ledger.add_folders(run.pipeline.name, offered)
    if not books.unread.rows:
        return
    known, asked = books.spool(pl.col(_ID), _KNOWN), books.spool(pl.col(_FOLDER), _ASKED)
    for rows in books.unread:
        before = _find_predecessors(run, rows)
        known.add(before)
        alone = rows.join(before.filter(_HAS_STUDY), on=_ID, how="anti").with_columns(pattern=name_pattern())
        asked.add(_list_folders(alone, pl.col("key"), source, lowest=1).select(_ASKED.names()))
    listed = books.spool(pl.col(_ID), _LISTED)
    for rows in _find_listed(run, books, asked):
        listed.add(rows)
    beside = books.spool(pl.col(_ID), _BESIDE)
    for rows in _keep_alike(books, _find_siblings(run, books, asked, offered)):
        beside.add(rows)
    for rows, before, by_list, found in zip_partitions(books.unread, known, listed, beside):
        attributed = _name_codes(rows, before, by_list, found, run.pipeline.audit)
        books.unread_by_file.add(attributed)
        books.unread_by_study.add(attributed)
        left = rows.join(attributed, on=_ID, how="anti").select(site_of(run.pipeline.source))
        books.unattributed.update(dict(left["site"].value_counts().iter_rows()))


def _find_predecessors(run: Run, rows: pl.DataFrame) -> pl.DataFrame:
    """Return what the ledger knows of these files' keys, as `_KNOWN`; a redriven arrival keeps its key."""
    bucket = run.prefix.bucket
    found = run.ledger.find_predecessors(run.pipeline.name, bucket, rows["key"], run.key, TRANSIENT)
    return rows.join(found.select(PREDECESSORS.names()), on="key", how="inner").select(_KNOWN.names())


def _find_listed(run: Run, books: Books, asked: Spool) -> Iterator[pl.DataFrame]:
    """Yield the studies that the delivery's manifest, or a DICOMDIR above, names for files, as `_LISTED`."""
    manifest = read_manifest(run)
    left = MOST_DIRECTORIES
    directories = books.spool(pl.col(_FOLDER), DIRECTORIES)
    for rows in books.directories:
        directories.add(rows.with_columns(_name_folder(run.prefix.bucket, pl.col(_FOLDER))))
    for questions, found in zip_partitions(asked, directories):
        for listed in (manifest, read_manifests_beside(run, questions["key"])):
            yield questions.join(listed, on="key", how="inner").select(_LISTED.names())
        near = found.join(questions, on=_FOLDER, how="semi").head(left)
        left -= near.height
        lower = questions.select(_ID, pl.col("key").str.to_lowercase())
        for named in read_directories(run, near):
            yield lower.join(named, on="key", how="inner").select(_LISTED.names()).unique(maintain_order=True)


def _offer_folders(books: Books, source: S3Uri) -> Spool:
    """Return the folders below which the run has accepted files, with their studies, in partitions by folder."""
    offered = books.spool(pl.col(_FOLDER), FOLDERS)
    for pairs in books.folders:
        above = _list_folders(pairs.rename({_FOLDER: "below"}), pl.col("below"), source, lowest=0)
        offered.add(
            above.select(FOLDERS.names())
            .unique([_FOLDER, _STUDY])
            .group_by(_FOLDER)
            .head(MOST_OF_A_FOLDER)
            .select(FOLDERS.names())
        )
    return offered


def _list_folders(rows: pl.DataFrame, key: pl.Expr, source: S3Uri, *, lowest: int) -> pl.DataFrame:
    """Return each row once for each folder above its key, with the folder's name and its ``level`` below the source.

    The source itself has the level 0. With *lowest* 1 it counts only for the objects that lie directly in it.
    """
    parts = pl.col("parts")
    split = rows.with_columns(parts=key.str.strip_prefix(source.key).str.split("/"))
    depth = parts.list.len().cast(pl.Int64) - 1
    levels = split.with_columns(level=pl.int_ranges(pl.min_horizontal(lowest, depth), depth + 1)).explode("level")
    end = pl.when(pl.col("level") > 0).then(pl.lit("/")).otherwise(pl.lit(""))
    below = parts.list.head(pl.col("level")).list.join("/") + end
    return levels.with_columns(_name_folder(source.bucket, pl.lit(source.key) + below)).drop("parts")


def _name_folder(bucket: str, folder: pl.Expr) -> pl.Expr:
    """Return the names of folders in the ledger, from their keys, which end in a slash or are empty."""

    def name_all(keys: pl.Series) -> pl.Series:
        names = {key: digest(bucket, key) for key in keys.unique()}
        return keys.replace_strict(names, return_dtype=pl.String)

    return folder.map_batches(name_all, return_dtype=pl.String).alias(_FOLDER)


def _find_siblings(run: Run, books: Books, asked: Spool, offered: Spool) -> Iterator[pl.DataFrame]:
    """Yield the studies of the accepted files nearest to each file, as `_BESIDE`, where they are few enough.

    Files of earlier runs count too.
    """
    most = run.pipeline.audit.unread_siblings_studies
    answers = books.spool(pl.col(_ID), _ANSWERS)
    for questions, offers in zip_partitions(asked, offered):
        earlier = run.ledger.find_folders(run.pipeline.name, questions[_FOLDER])
        every = pl.concat([offers, earlier]).group_by(_FOLDER)
        studies = every.agg(studies=pl.col(_STUDY).unique().sort().head(most + 1), patterns=pl.col("pattern").unique())
        answered = questions.join(studies, on=_FOLDER, how="inner")
        alike = pl.col("patterns").list.contains(pl.col("pattern"))
        answers.add(answered.with_columns(alike=alike).select(_ANSWERS.names()))
    for rows in answers:
        nearest = rows.sort("level").unique(_ID, keep="last", maintain_order=True)
        few = nearest.filter(pl.col("studies").list.len() <= most).explode("studies")
        yield few.rename({"studies": _STUDY}).select(_BESIDE.names())


def _keep_alike(books: Books, found: Iterator[pl.DataFrame]) -> Iterator[pl.DataFrame]:
    """Yield these files but those that are not DICOM and have no name like an accepted file of their study.

    The bytes of such a file say nothing for it: one that begins like a data set, or has the prefix DICM, has another
    reason than ``not_dicom``.
    """
    by_study = books.spool(pl.col(_STUDY), _BESIDE)
    for rows in found:
        by_study.add(rows)
    for number in range(by_study.partitions):
        rows = by_study.partition(number)
        others = rows.filter(_IS_OTHER & ~pl.col("alike"))
        yield rows.filter(~_IS_OTHER | pl.col("alike"))
        if not others.is_empty():
            accepted = books.decided.partition(number).filter(ACCEPTED)
            named = accepted.select(_STUDY, pattern=name_pattern()).unique()
            yield others.join(named, on=[_STUDY, "pattern"], how="semi")


def _name_codes(
    rows: pl.DataFrame, before: pl.DataFrame, listed: pl.DataFrame, found: pl.DataFrame, policy: Audit
) -> pl.DataFrame:
    """Return the attributions of these files, as `ATTRIBUTED`: to wait for S3, or to hold the study."""
    by_key = before.filter(_HAS_STUDY).select(_ID, _STUDY, by=pl.lit(BY_KEY))
    by_list = listed.unique(_ID, keep="first", maintain_order=True).select(_ID, _STUDY, by=pl.lit(BY_LIST))
    by_folder = found.join(by_list, on=_ID, how="anti").select(_ID, _STUDY, by=pl.lit(BY_FOLDER))
    # What this run has counted to a study stays there, whatever comes into the folder later.
    by_audit = before.filter(pl.col("own").is_not_null()).select(_ID, pl.col("own").alias(_STUDY), by=pl.lit(BY_AUDIT))
    answers = pl.concat([by_key, by_list, by_folder, by_audit])
    attributed = answers.unique([_ID, _STUDY], keep="first", maintain_order=True)
    tries = pl.col("tries").fill_null(0)  # before this one
    transient = pl.col("reason").is_in([str(reason) for reason in TRANSIENT])
    waits = transient & (tries < policy.transient_nights)
    code = pl.when(waits).then(pl.lit(str(Reason.WAITING_FOR_FILE))).otherwise(pl.lit(str(Reason.SIBLING_UNREAD)))
    known = rows.select(_ID, "reason").join(before.select(_ID, "tries"), on=_ID, how="left")
    return attributed.join(known, on=_ID, how="inner").with_columns(code=code).select(ATTRIBUTED.names())


def find_causes(attributed: pl.DataFrame, policy: Audit) -> dict[Reason, list[tuple[str, str]]]:
    """Return the studies that attributed files hold, each with the file, by reason; none if the policy holds none."""
    if not policy.hold_incomplete_studies:
        return {}
    return {
        code: list(attributed.filter(pl.col("code") == code).select(_STUDY, _ID).iter_rows())
        for code in (Reason.SIBLING_UNREAD, Reason.WAITING_FOR_FILE)
    }


def name_studies(dispositions: pl.DataFrame, attributed: pl.DataFrame) -> pl.DataFrame:
    """Return dispositions in which each attributed file names its study, and in the detail how that was found.

    The ledger so knows the file as one of the study: it holds the study in later runs too, until it is mended.
    """
    if attributed.is_empty():
        return dispositions
    one = attributed.sort(_STUDY).unique(_ID, keep="first", maintain_order=True).select(_ID, _STUDY, "by")
    rows = dispositions.join(one, on=_ID, how="left", maintain_order="left")
    detail = pl.concat_str("detail", "by", separator="; ", ignore_nulls=True)
    named = pl.col("by").is_not_null()
    return rows.with_columns(
        study_instance_uid=pl.when(named).then(_STUDY).otherwise("study_instance_uid"),
        detail=pl.when(named).then(detail).otherwise("detail"),
    ).select(dispositions.columns)
