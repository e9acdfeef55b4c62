"""Completeness: how many instances of a study are known and how many its source declares; what follows if they differ.

Every instance counts once, in whatever run and under whatever key it came. Files that were quarantined or rejected are
accounted for: they hold their study by themselves, and do not count as unsent.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.imaging.copies import is_held_copy
from airlock.imaging.declarations import DECLARED
from airlock.reasons import Reason
from airlock.records import TIMESTAMP, Outcome, Verdict, schema

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from airlock.pipelines import DeclaredCount

COUNTS = schema(
    {
        "StudyInstanceUID": pl.String,
        "declared": pl.Int64,  # null if nothing declares a number, as the next
        "declared_by": pl.String,  # manifest or header
        "newest": TIMESTAMP,  # last_modified of the newest file of this run, where a number is declared
        "stored": pl.Int64,  # instances in the data store, or to be imported by a plan
        "waiting": pl.Int64,  # instances on their way or waiting for a person
        "quarantined": pl.Int64,  # instances that were stopped or not imported
    }
)
EARLIER = schema({"StudyInstanceUID": pl.String, "earlier": pl.Int64, "earlier_by": pl.String})
FOREIGN = "foreign_image_sets"  # the field of a contract, which is left out where there are none
_STUDY, _SOP, _ID = "StudyInstanceUID", "SOPInstanceUID", "arrival_id"
_FACTS = ("declared", "declared_by", "waiting", "quarantined", "unattributed")  # of a contract, in order
_NUMBERS = ("stored", "waiting", "quarantined")
_KNOWN = pl.sum_horizontal(*_NUMBERS)
_IN_STORE = (Outcome.IMPORTED.value, Outcome.IMPORTED_WITH_WARNING.value, Outcome.NON_PRIMARY.value)
_COMES_AGAIN = (str(Reason.INSTANCE_CLAIMED),)


def read_earlier(contracts: pl.DataFrame) -> pl.DataFrame:
    """Return the numbers that the latest contracts of studies have, as `EARLIER`."""
    text = pl.col("contract")
    return contracts.select(
        pl.col("subject").alias(_STUDY),
        earlier=text.str.json_path_match("$.completeness.declared").cast(pl.Int64),
        earlier_by=text.str.json_path_match("$.completeness.declared_by"),
    ).filter(pl.col("earlier").is_not_null())


def count_contracts(contracts: pl.DataFrame, held: pl.DataFrame) -> pl.DataFrame:
    """Return the counts of studies that wait for no file, as `COUNTS`, from their latest contracts.

    Parameters
    ----------
    contracts
        The latest contracts.
    held
        ``subject``, and ``decided_at``: when the study was held, from which on it waits.
    """
    stored = pl.col("contract").str.json_path_match("$.NumberOfStudyRelatedInstances").cast(pl.Int64)
    rows = contracts.select("subject", stored=stored).join(held, on="subject", how="left", maintain_order="left")
    rows = rows.rename({"subject": _STUDY, "decided_at": "newest"})
    rows = rows.join(read_earlier(contracts), on=_STUDY, how="left", maintain_order="left")
    rows = rows.rename({"earlier": "declared", "earlier_by": "declared_by"})
    return rows.with_columns(waiting=0, quarantined=0).select(COUNTS.names()).cast(COUNTS)


def merge_declared(studies: pl.Series, declared: pl.DataFrame, earlier: pl.DataFrame) -> pl.DataFrame:
    """Return the number that counts for each study, as the first columns of `COUNTS`.

    A manifest counts more than headers, and a later manifest more than an earlier one. Of headers the greatest counts.

    Parameters
    ----------
    studies
        StudyInstanceUIDs, each once.
    declared
        `declarations.DECLARED`: this run's numbers.
    earlier
        `EARLIER`: the numbers that earlier runs have written into contracts.
    """
    rows = pl.DataFrame({_STUDY: studies}).join(declared.select(DECLARED.names()), on=_STUDY, how="left")
    rows = rows.join(earlier, on=_STUDY, how="left", maintain_order="left")
    before = {by: pl.when(pl.col("earlier_by") == by).then("earlier") for by in ("manifest", "header")}
    manifest = pl.coalesce("manifest", before["manifest"])
    header = pl.max_horizontal("header", before["header"])
    by = pl.when(manifest.is_not_null()).then(pl.lit("manifest")).when(header.is_not_null()).then(pl.lit("header"))
    return rows.select(_STUDY, declared=pl.coalesce(manifest, header), declared_by=by, newest="newest")


def count_instances(
    declared: pl.DataFrame,
    verdicts: pl.DataFrame,
    outcomes: pl.DataFrame,
    elsewhere: Mapping[str, pl.DataFrame],
) -> pl.DataFrame:
    """Count the instances of studies, as `COUNTS`; ``stored`` has only those of this run.

    Parameters
    ----------
    declared
        The result of `merge_declared`, one row per study to count.
    verdicts
        Rows of the verdicts dataset without second copies of what is in the store (`copies.leave_out_stored`); copies
        that wait for a person may be among them.
    outcomes
        Rows of the outcomes dataset.
    elsewhere
        The files of other runs as ``waiting`` and ``quarantined``: `study_counts.STUDY_COUNTS`.
    """
    waits = pl.col("reason").is_in(_COMES_AGAIN) | (is_held_copy() & pl.col("duplicate_of").is_null())
    stopped = verdicts.filter(pl.col("verdict") == Verdict.QUARANTINE)
    stored = pl.col("outcome").is_in(_IN_STORE)
    counts = [
        _count(outcomes.filter(stored), "stored"),
        _count(stopped.filter(waits), "waiting"),
        _count(stopped.filter(~waits & ~is_held_copy()), "quarantined"),
        _count(outcomes.filter(~stored), "quarantined"),
        *(_pad(rows.rename({"instances": name})) for name, rows in elsewhere.items()),
    ]
    every = pl.concat(counts, how="diagonal").group_by(_STUDY).agg(pl.col(name).sum() for name in _NUMBERS)
    rows = declared.join(every, on=_STUDY, how="left", maintain_order="left")
    return rows.with_columns(pl.col(*_NUMBERS).fill_null(0)).select(COUNTS.names()).cast(COUNTS)


def _count(rows: pl.DataFrame, name: str) -> pl.DataFrame:
    """Return the number of instances by study; a file without a SOPInstanceUID counts as one."""
    one = pl.coalesce(pl.when(pl.col(_SOP) != "").then(_SOP), _ID)
    return _pad(rows.group_by(_STUDY).agg(one.n_unique().cast(pl.Int64).alias(name)))


def _pad(rows: pl.DataFrame) -> pl.DataFrame:
    return rows.with_columns(pl.lit(0, pl.Int64).alias(name) for name in _NUMBERS if name not in rows.columns)


def find_short(counts: pl.DataFrame) -> pl.Series:
    """Return the studies of which fewer instances are counted than are declared."""
    return counts.filter(pl.col("declared") > _KNOWN)[_STUDY]


def add_stored(counts: pl.DataFrame, others: pl.DataFrame) -> pl.DataFrame:
    """Return the counts with the instances that other runs have stored: columns StudyInstanceUID and ``instances``."""
    rows = counts.join(others, on=_STUDY, how="left", maintain_order="left")
    more = pl.col("instances").fill_null(0).cast(pl.Int64)
    return rows.with_columns(stored=pl.col("stored") + more).select(COUNTS.names())


def compare_counts(counts: pl.DataFrame) -> pl.DataFrame:
    """Return the studies that declare a number, with ``known`` and ``is``: fewer, equal or more."""
    found = counts.filter(pl.col("declared").is_not_null()).with_columns(known=_KNOWN)
    less, same = pl.col("known") < pl.col("declared"), pl.col("known") == pl.col("declared")
    word = pl.when(less).then(pl.lit("fewer")).when(same).then(pl.lit("equal")).otherwise(pl.lit("more"))
    return found.with_columns(word.alias("is"))


def find_holds(counts: pl.DataFrame, policy: DeclaredCount, now: datetime) -> dict[Reason, list[tuple[str, str]]]:
    """Return the studies that are to be held for the instances that they lack, each with "n of m", by reason."""
    fewer = compare_counts(counts).filter(pl.col("is") == "fewer")
    holds = [by for by in ("manifest", "header") if getattr(policy, by) == "hold"]
    held = fewer.filter(pl.col("declared_by").is_in(holds)).with_columns(
        text=pl.format("{} of {}", "known", "declared"),
        waits=(pl.col("newest") + timedelta(hours=policy.wait_hours) > now).fill_null(value=False),
    )
    over = pl.col("waits").not_() & (policy.then != "release_partial")
    named = {Reason.AWAITING_DECLARED: held.filter("waits"), Reason.FEWER_THAN_DECLARED: held.filter(over)}
    return {reason: rows.select(_STUDY, "text").rows() for reason, rows in named.items() if rows.height}


def explain(dispositions: pl.DataFrame, counts: pl.DataFrame) -> pl.DataFrame:
    """Return the dispositions with "n of m" as the detail of what is held for the instances that its study lacks."""
    text = pl.format("{} of {}", _KNOWN, "declared")
    numbers = counts.select(pl.col(_STUDY).alias("study_instance_uid"), text=text)
    rows = dispositions.join(numbers, on="study_instance_uid", how="left", maintain_order="left")
    lacks = pl.col("reason").is_in([str(Reason.FEWER_THAN_DECLARED), str(Reason.AWAITING_DECLARED)])
    return rows.with_columns(detail=pl.when(lacks).then("text").otherwise("detail")).drop("text")


def count_unattributed(verdicts: pl.DataFrame, site: pl.Expr, unattributed: Mapping[str, int]) -> dict[str, int]:
    """Return how many files may belong to each study, by StudyInstanceUID: those of its sites that nobody can read.

    Parameters
    ----------
    verdicts
        Rows of whole studies.
    site
        The site of a row.
    unattributed
        The number of unread files without a study, by site.
    """
    if not unattributed:
        return {}
    sites = verdicts.filter(pl.col(_STUDY) != "").select(_STUDY, site.alias("site")).unique()
    files = pl.col("site").replace_strict(dict(unattributed), default=0, return_dtype=pl.Int64)
    return dict(sites.group_by(_STUDY).agg(files.sum()).iter_rows())


def describe(
    counts: pl.DataFrame, unattributed: Mapping[str, int], foreign: Mapping[str, int] | None = None
) -> dict[str, dict[str, Any]]:
    """Return what a contract says about each study besides its own instances, by StudyInstanceUID.

    Parameters
    ----------
    counts
        `COUNTS`.
    unattributed
        The result of `count_unattributed`.
    foreign
        The number of image sets that others have stored, by StudyInstanceUID.
    """
    names = _FACTS[:-1]
    found: dict[str, dict[str, Any]] = {}
    for row in counts.select(_STUDY, *names).iter_rows(named=True):
        uid = row.pop(_STUDY)
        found[uid] = row | {"unattributed": unattributed.get(uid, 0), FOREIGN: (foreign or {}).get(uid, 0)}
    return found


def judge(released: int, facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the field ``completeness`` of a contract.

    Parameters
    ----------
    released
        The instances that the contract names.
    facts
        As `describe` returns them, and ``unattributed``.
    """
    known = released + facts["waiting"] + facts["quarantined"]
    declared, by = facts["declared"], facts["declared_by"]
    foreign = facts.get(FOREIGN, 0)
    if foreign or known > released or (declared is not None and released < declared):
        state = "partial"
    else:
        state = "complete" if by == "manifest" else "unknown"
    said = {name: facts[name] for name in _FACTS}  # in one order: a contract's digest is that of its text
    return {"state": state, "released": released, "known": known, **said} | ({FOREIGN: foreign} if foreign else {})
