"""The impact of the rules of an imaging pipeline on the studies that earlier runs and plans have read."""

from __future__ import annotations

from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.books import DECIDED, open_books
from airlock.imaging.unread import attribute
from airlock.reasons import Reason
from airlock.records import VERDICTS, Verdict
from airlock.stages.plan_impact import (
    Impact,
    Rule,
    count_distinct,
    count_rows,
    find_past_runs,
    measure_brake,
)
from airlock.storage.spool import Partitions, count_partitions

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import ImagingPipeline
    from airlock.stages.plan_impact import PastRun
    from airlock.storage.s3 import S3
    from airlock.storage.spool import Spool

_STUDY, _UID, _DECLARED = "StudyInstanceUID", "SOPInstanceUID", "NumberOfStudyRelatedInstances"
_IDENTITY = ("PatientID", "IssuerOfPatientID", _STUDY, "SeriesInstanceUID")
_FILES = ["arrival_id", "verdict", "etag", "size", _UID, _DECLARED, *_IDENTITY]
_SCHEMA = pl.Schema({name: VERDICTS[name] for name in _FILES})
_BROUGHT = pl.col("verdict").is_in([Verdict.ACCEPT.value, Verdict.DUPLICATE.value])


def measure_impact(pipeline: ImagingPipeline, s3: S3, ledger: Ledger) -> Impact:
    """Return how many studies each rule would hold, of those that earlier runs and plans have read."""
    past, without = find_past_runs(pipeline, s3, ledger)
    with Partitions(count_rows(past)) as partitions:
        by_study = partitions.spool(pl.col(_STUDY), _SCHEMA, _read_files(past))
        by_instance = partitions.spool(pl.col(_UID), _SCHEMA, (rows for rows in by_study))
        studies = sum(count_distinct(rows, _STUDY) for rows in by_study)
        rules = [
            *_measure_unread(pipeline, past, studies),
            _measure_declared(by_study, studies),
            _measure_identities(by_instance, studies),
            _measure_flights(pipeline, ledger, studies),
            *measure_brake(pipeline, ledger),
        ]
    return Impact(pipeline.name, pipeline.kind, len(past), without, rules)


def _read_files(past: list[PastRun[ImagingPipeline]]) -> Iterator[pl.DataFrame]:
    """Yield the files of which a study is known; a file that several runs or plans have read comes several times."""
    for one in past:
        for rows in one.workspace.parts("verdicts", VERDICTS, _FILES):
            yield rows.filter(pl.col(_STUDY).fill_null("") != "").select(_FILES)


def _measure_unread(pipeline: ImagingPipeline, past: list[PastRun[ImagingPipeline]], studies: int) -> Iterator[Rule]:
    """Yield how many studies unread files would hold, and how many of these files have no known study."""
    held: set[str] = set()
    unattributed = 0
    for one in past:
        with open_books(count_partitions(one.workspace.count_rows("verdicts"))) as books:
            for rows in one.workspace.parts("verdicts", VERDICTS, DECIDED):
                books.add_verdicts(rows)
            attribute(one.run, books, remembers=False)
            for rows in books.unread_by_study:
                held.update(rows[_STUDY])
            unattributed += books.unattributed.total()
    most = pipeline.audit.unread_siblings_studies
    note = f"{unattributed} unread files belong to no known study, and hold nothing"
    yield Rule(
        str(Reason.SIBLING_UNREAD), f"audit.unread_siblings_studies: {most}", "studies", len(held), studies, note
    )


def _measure_declared(by_study: Spool, studies: int) -> Rule:
    """Return how many studies have fewer instances than their headers declare."""
    fewer = equal = more = 0
    for rows in by_study:
        counted = rows.group_by(_STUDY).agg(
            declared=_read_number().max(), brought=pl.col(_UID).filter(_BROUGHT).n_unique()
        )
        sign = (pl.col("brought") - pl.col("declared").cast(pl.Int64)).sign()
        signs = dict(counted.filter(pl.col("declared").is_not_null()).group_by(sign.alias("sign")).len().iter_rows())
        fewer, equal, more = fewer + signs.get(-1, 0), equal + signs.get(0, 0), more + signs.get(1, 0)
    declare = fewer + equal + more
    note = f"{declare} studies declare a number: {equal} have as many files, {more} more"
    return Rule("fewer_than_declared", "audit.declared_count.header: hold", "studies", fewer, studies, note)


def _read_number() -> pl.Expr:
    """Return the greatest whole number among an attribute's values; null if none is one."""
    values = pl.col(_DECLARED).str.split("\\").list.eval(pl.element().str.strip_chars().cast(pl.Int64, strict=False))
    return values.list.max()


def _measure_identities(by_instance: Spool, studies: int) -> Rule:
    """Return how many studies have an instance of which another copy names another patient, study or series."""
    differs = pl.any_horizontal(
        pl.col(name).fill_null("").str.strip_chars().n_unique().over(_UID) > 1 for name in _IDENTITY
    )
    held: set[str] = set()
    for rows in by_instance:
        copies = rows.filter(pl.col(_UID).fill_null("") != "").unique([_UID, "etag", "size"])
        held.update(copies.filter(pl.col(_UID).is_duplicated() & differs)[_STUDY])
    setting = "none: a person decides whose image it is"
    return Rule(str(Reason.IDENTITY_CHANGED), setting, "studies", len(held), studies)


def _measure_flights(pipeline: ImagingPipeline, ledger: Ledger, studies: int) -> Rule:
    """Return of how many studies another run has files now that it has not settled."""
    flights = ledger.count_flights(pipeline.datastore_id)
    note = "now, until the other run has settled them"
    return Rule("in_flight", "none: a release is complete", "studies", flights, studies, note)
