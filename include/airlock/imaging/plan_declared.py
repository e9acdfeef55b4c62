"""A plan's comparison of declared with known instances, by site: it tells whether a site's numbers can be trusted."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import polars as pl

from airlock.imaging.completeness import compare_counts
from airlock.imaging.completeness_counts import StudyFiles, count_studies, find_imported, merge_earlier
from airlock.imaging.copies import find_quarantined_uids, leave_out_stored
from airlock.imaging.declarations import DATASET, DECLARED
from airlock.records import VERDICTS, Outcome, Verdict
from airlock.stages.plan import DeclaredCounts
from airlock.stages.sites import CountedSites

if TYPE_CHECKING:
    from collections.abc import Iterator

    from airlock.run import Run

TRUSTED = 0.95  # of the studies have as many instances as declared
_COLUMNS = ["arrival_id", "key", "verdict", "reason", "duplicate_of", "SOPInstanceUID", "StudyInstanceUID"]
_STUDY = "StudyInstanceUID"


def compare_declared(run: Run) -> tuple[DeclaredCounts, ...]:
    """Return how many studies of each site have as many instances as each source of numbers declares."""
    studies: Counter[str] = Counter()
    found: Counter[tuple[str, str, str]] = Counter()
    counted = CountedSites(run.pipeline.source)
    for part in run.workspace.parts("verdicts", VERDICTS, _COLUMNS):
        files = part.filter(pl.col(_STUDY) != "")
        sites = counted.add_to(files.sort("key").unique(_STUDY, keep="first")).select(_STUDY, "site")
        studies.update(dict(sites["site"].value_counts().iter_rows()))
        compared = compare_counts(_count(run, files)).join(sites, on=_STUDY, how="left")
        for *names, number in compared.group_by("site", "declared_by", "is").len().iter_rows():
            found[tuple(names)] += number
    return tuple(_sum_by_site(studies, found))


def _count(run: Run, files: pl.DataFrame) -> pl.DataFrame:
    """Return the counts of the studies that declare a number, with what the run would import."""
    store, studies = run.pipeline.datastore_id, files[_STUDY].unique().sort()
    numbers = merge_earlier(studies, _read_declared(run, studies), run.ledger.contracts(store, studies))
    numbers = numbers.filter(pl.col("declared").is_not_null())
    files = files.filter(pl.col(_STUDY).is_in(numbers[_STUDY].implode()))
    lacking = leave_out_stored(files, find_imported(run.ledger, store, find_quarantined_uids(files)))
    accepted = files.filter(pl.col("verdict") == Verdict.ACCEPT)
    outcomes = accepted.with_columns(outcome=pl.lit(Outcome.IMPORTED.value))
    missing = run.ledger.unresolved_files(store, run.pipeline.name, numbers[_STUDY], except_run="")
    waiting = run.ledger.unresolved_files(store, run.pipeline.name, numbers[_STUDY], except_run="", missing=False)
    in_flight = run.ledger.studies_in_flight(store, numbers[_STUDY], "")
    found = StudyFiles(lacking, outcomes, sorted(set(missing) - set(waiting)), in_flight)
    return count_studies(run.ledger, store, None, numbers, found)


def _read_declared(run: Run, studies: pl.Series) -> pl.DataFrame:
    named = pl.col(_STUDY).is_in(studies.implode())
    return pl.concat(part.filter(named) for part in run.workspace.find_parts(DATASET, DECLARED))


def _sum_by_site(studies: Counter[str], found: Counter[tuple[str, str, str]]) -> Iterator[DeclaredCounts]:
    for site, by in sorted({(site, by) for site, by, _ in found}):
        numbers = {word: found[site, by, word] for word in ("equal", "fewer", "more")}
        yield DeclaredCounts(site=site, declared_by=by, studies=studies[site], declare=sum(numbers.values()), **numbers)


def ask_why(run: Run, declared: tuple[DeclaredCounts, ...]) -> tuple[str, ...]:
    """Return the questions of a plan: why headers are trusted that often differ from what is known."""
    policy = run.pipeline.audit.declared_count
    if policy.header != "hold" or policy.why:
        return ()
    doubtful = (one for one in declared if one.declared_by == "header" and one.equal < TRUSTED * one.declare)
    return tuple(
        f"audit.declared_count.header is hold, but only {one.equal:,} of {one.declare:,} studies{_name_site(one)} "
        f"have as many instances as their headers declare: write the reason to trust them in audit.declared_count.why, "
        f"or set header to warn."
        for one in doubtful
    )


def _name_site(one: DeclaredCounts) -> str:
    return f" of site {one.site!r}" if one.site else ""
