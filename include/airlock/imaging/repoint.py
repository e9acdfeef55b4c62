"""Look again: released studies of which the data store or a person says something new get the Patient that is theirs.

A run asks the data store once for the Patients and orders that have changed since the last look, not once for each
study without a Patient. What a study gets is written to the dataset ``repointed``, published like any other contract,
and released when it is proven. A look is a comparison in the ledger. It ends when everything that it found is released;
until then the next run looks from the same time on. A run repoints `MOST_REPOINTED` studies at most.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from airlock.imaging.contracts import StudyContract
from airlock.imaging.crosswalk import MERGES
from airlock.imaging.fhir.identifiers import DICOM_UID, list_identities
from airlock.imaging.matching import (
    ask_each,
    escape_token,
    find_healthlake,
    list_accessions,
    parse_heads,
    read_heads,
    read_subject,
    record_matches,
    with_match,
)
from airlock.imaging.patient_match import list_keys
from airlock.imaging.settle import COVERED
from airlock.ledger import arrivals
from airlock.ledger.columns import ComparisonKind
from airlock.ledger.studies import lock_scopes
from airlock.pipelines import Publication
from airlock.records import CONTRACTS, GATES, Gate, digest
from airlock.stages.releases import write_payloads

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime

    from airlock.imaging.matching import Matched, Matcher
    from airlock.ledger.comparisons import Comparison
    from airlock.run import Run

REPOINTED = "repointed"
MOST_REPOINTED = 50_000  # studies of a run, about: the first look may be at the whole archive
LOOK = "look.json"
CROSSWALK = "crosswalk"
_LAG = timedelta(hours=1)  # a search finds a resource some time after it was written
_RESOURCES_AT_A_TIME = 100

T = TypeVar("T")


@dataclass(frozen=True)
class Look:
    """A look that has begun, and the last one that has ended."""

    number: int  # of its comparison
    last: Comparison | None  # None: everything is looked at
    merges: pl.DataFrame | None  # the crosswalk of the last look, `MERGES`; None if it has none

    @property
    def since(self) -> datetime | None:
        """The time since which a change is new; None: all is."""
        return None if self.last is None else self.last.began_at - _LAG


def begin_look(matcher: Matcher) -> Look:
    """Begin a look; what changes from now on, while studies are matched, is found by the next one."""
    run, lake = matcher.run, find_healthlake(matcher.run).datastore_id
    scope = _describe_scope(matcher)
    about: dict[str, Any] = {"pipeline": run.pipeline.name, "datastore_id": lake}
    last = run.ledger.last_comparison(ComparisonKind.PATIENTS, **about, has_ended=True, scope=scope)
    begun = run.ledger.begin_comparison(ComparisonKind.PATIENTS, scope, **about, is_dry=False, asked_by=run.key)
    if matcher.crosswalk is None:
        return Look(begun.number, last, None)
    run.within(Publication.resources_folder).workspace.write(CROSSWALK, MERGES, matcher.crosswalk.merges)
    merges = None if last is None else _find_merges(run, last)
    return Look(begun.number, None if merges is None else last, merges)


def _find_merges(run: Run, last: Comparison) -> pl.DataFrame | None:
    """Return the crosswalk of an earlier look; None if its run's workspace is gone."""
    workspace = run.workspace_of(last.asked_by, Publication.resources_folder)
    return workspace.read(CROSSWALK, MERGES) if workspace.is_committed(CROSSWALK) else None


def look_again(matcher: Matcher, look: Look) -> None:
    """Decide again whose the released studies are of which there is something new."""
    run = matcher.run
    done = {uid for rows in run.workspace.parts("publishable", CONTRACTS, ["subject"]) for uid in rows["subject"]}
    counts = {"looked": 0, "repointed": 0, "instances": 0, "is_whole": 1}
    with run.within(Publication.resources_folder).workspace.writer(REPOINTED, CONTRACTS, None) as writer:
        for patients, studies in _find_news(matcher, look):
            if counts["repointed"] >= MOST_REPOINTED:
                counts["is_whole"] = 0
                break
            contracts = _find_released(run, patients, studies, done)
            rows = _match_again(matcher, contracts)
            done.update(rows["subject"])
            writer.add(rows)
            writer.end_part()
            counts["looked"] += contracts.height
            counts["repointed"] += rows.height
            counts["instances"] += _count_instances(rows)
    content = {"comparison": look.number} | counts | {"alarms": _count_alarms(run, look)}
    run.within(Publication.resources_folder).workspace.write_json(LOOK, content)


def _count_instances(contracts: pl.DataFrame) -> int:
    number = pl.col("contract").str.json_path_match("$.NumberOfStudyRelatedInstances").cast(pl.Int64)
    return int(contracts.select(number.sum()).item())


def _count_alarms(run: Run, look: Look) -> int:
    """Return how many released studies were found contradicted since the last look has ended.

    If the run of a look fails before it has told anybody, the look does not end, and the next one counts them again.
    """
    lake = find_healthlake(run).datastore_id
    since = None if look.last is None else look.last.ended_at
    new = run.ledger.newly_contradicted(lake, run.pipeline.name, since)
    return run.ledger.released_revisions(None, run.pipeline.datastore_id, new).height


def _describe_scope(matcher: Matcher) -> dict[str, str]:
    """Return what a look rests on; if it changes, everything is looked at again."""
    settings = matcher.run.pipeline.publish
    return {"rules": digest(settings.model_dump_json(include={"patient_match", "issuer_systems"}))}


def _find_news(matcher: Matcher, look: Look) -> Iterator[tuple[set[str], set[str]]]:
    """Yield Patients, as ``Patient/<id>``, and studies, by UID, of which there is something new."""
    run, lake = matcher.run, find_healthlake(matcher.run).datastore_id
    asked = run.ledger.identity_questions(lake, run.pipeline.name)
    answers = run.ledger.identity_answers_since(lake, look.since)
    persons = {name for row in answers.iter_rows(named=True) for name in _list_persons(row)}
    persons |= _find_remerged(matcher, look)
    for names in _cut(sorted(persons), _RESOURCES_AT_A_TIME):
        yield set(names), set()
    for uids in _cut(sorted({*asked["subject"], *_find_late(run, look)}), _RESOURCES_AT_A_TIME):
        yield set(), set(uids)
    for patients in _find_changed(matcher, "Patient", look.since):
        news = [one for one in patients if not matcher.is_own(one) or _is_of_nobody(matcher, one)]
        yield {name for one in news for name in _name_identities(matcher, one)}, set()
        if look.since is not None and news:  # the first look is at all orders
            yield from _follow_orders(matcher, [order for one in news for order in _find_orders_of(matcher, one)])
    for orders in _find_changed(matcher, "ServiceRequest", look.since):
        yield from _follow_orders(matcher, orders)


def _find_remerged(matcher: Matcher, look: Look) -> set[str]:
    """Return the Patients that Airlock makes of numbers whose merges have changed since the last look."""
    if matcher.crosswalk is None or look.merges is None:
        return set()
    changed = set(matcher.crosswalk.list_changed(look.merges))
    identities = list_identities(changed | matcher.crosswalk.lead_to(changed), matcher.settings)
    return {f"Patient/{name}" for name in identities}


def _find_late(run: Run, look: Look) -> set[str]:
    """Return the studies that runs have released since the last look, and had matched before it."""
    if look.last is None or look.since is None:
        return set()
    found = set[str]()
    for key in run.ledger.find_runs_since(run.pipeline.name, look.since):
        if key not in {run.key, look.last.asked_by}:
            decided = run.ledger.gates_of(run.pipeline.datastore_id, key)
            found.update(decided.filter(pl.col("released"), pl.col("decided_at") >= look.since)["subject"])
    return found


def _is_of_nobody(matcher: Matcher, own: dict[str, Any]) -> bool:
    """Return whether a Patient of Airlock's own has a number that now is a placeholder: it may be several people."""
    return any(matcher.settings.is_placeholder(number) for _, number in list_keys(own))


def _find_orders_of(matcher: Matcher, patient: dict[str, Any]) -> list[dict[str, Any]]:
    asked = {"patient": f"Patient/{patient['id']}", "_count": str(_RESOURCES_AT_A_TIME)}
    return list(matcher.store.search("ServiceRequest", asked))


def _follow_orders(matcher: Matcher, orders: list[dict[str, Any]]) -> Iterator[tuple[set[str], set[str]]]:
    """Yield the Patients of orders, and the studies with their numbers.

    An order that has lost its number may be the one of a study of its Patient.
    """
    numbers = sorted({number for one in orders for number in _list_numbers(matcher, one)})
    found = ask_each(lambda number: list(_find_studies(matcher, number)), numbers)
    subjects = {name for one in orders if (name := read_subject(one)) is not None}
    yield subjects, {uid for uids in found.values() for uid in uids}


def _cut(items: Iterable[T], size: int) -> Iterator[list[T]]:
    """Yield lists of so many items each, the last one shorter."""
    iterator = iter(items)
    while chunk := list(islice(iterator, size)):
        yield chunk


def _list_persons(answer: dict[str, Any]) -> set[str]:
    """Return the Patients that the studies of an answered identity may have."""
    was = json.loads(answer["details"] or "{}").get("was", [])
    return {name for name in (answer["subject"], answer["answer"], *was) if name.startswith("Patient/")}


def _find_changed(matcher: Matcher, resource_type: str, since: datetime | None) -> Iterator[list[dict[str, Any]]]:
    """Yield the resources that were written since then, some at a time."""
    asked = {"_count": str(_RESOURCES_AT_A_TIME)}
    if since is not None:
        asked["_lastUpdated"] = f"ge{since.strftime('%Y-%m-%dT%H:%M:%SZ')}"
    yield from _cut(matcher.store.search(resource_type, asked), _RESOURCES_AT_A_TIME)


def _name_identities(matcher: Matcher, patient: dict[str, Any]) -> set[str]:
    """Return a Patient, and the Patients that Airlock makes of the numbers that lead to it."""
    keys = list_keys(patient)  # also those that it has no longer
    keys |= matcher.crosswalk.lead_to(keys) if matcher.crosswalk else set()
    return {f"Patient/{name}" for name in (patient["id"], *list_identities(keys, matcher.settings))}


def _list_numbers(matcher: Matcher, order: dict[str, Any]) -> set[str]:
    systems: set[str | None] = {*matcher.rules.order_systems.values()} or {None}
    numbers = {number for system in systems for number in list_accessions(order, system)}
    return {number for number in numbers if not matcher.settings.is_placeholder(number)}


def _find_studies(matcher: Matcher, accession: str) -> Iterator[str]:
    """Yield the UIDs of published studies with an AccessionNumber."""
    for study in matcher.store.search("ImagingStudy", {"identifier": escape_token(accession), "_count": "100"}):
        for one in study.get("identifier", ()):
            if one.get("system") == DICOM_UID:
                yield str(one.get("value", "")).removeprefix("urn:oid:")


def _find_released(run: Run, patients: set[str], studies: set[str], done: set[str]) -> pl.DataFrame:
    """Return the latest contracts of these Patients and studies that were released, with ``is_released``.

    A study that has a later revision waits for something else. It is looked at too, since it may be contradicted, and
    gets its Patient with that revision.
    """
    store, lake = run.pipeline.datastore_id, find_healthlake(run).datastore_id
    persons = run.ledger.persons_ever_of(lake, pl.Series(sorted(patients), dtype=pl.String))
    known = pl.concat(
        [
            run.ledger.contracts_of_patients(store, pl.Series(sorted(patients | persons), dtype=pl.String)),
            run.ledger.contracts(store, pl.Series(sorted(studies), dtype=pl.String)),
        ]
    ).unique("subject", maintain_order=True)
    own = pl.col("contract").str.json_path_match("$.pipeline") == run.pipeline.name
    published = pl.col("contract").str.json_path_match("$.fhir.datastore_id") == lake
    known = known.filter(own & published)
    known = known.filter(pl.Series([uid not in done for uid in known["subject"]], dtype=pl.Boolean))
    released = run.ledger.released_revisions(None, store, known["subject_key"])
    joined = known.join(released.rename({"revision": "released"}), on="subject_key", maintain_order="left")
    return joined.with_columns(is_released=pl.col("revision") == pl.col("released")).drop("released")


def _match_again(matcher: Matcher, contracts: pl.DataFrame) -> pl.DataFrame:
    """Decide on studies anew, and return the released contracts that get another Patient."""
    texts = dict(contracts.filter("is_released").select("subject", "contract").iter_rows())
    rows: list[tuple[Any, ...]] = []
    for chunk in parse_heads(matcher.run, read_heads(contracts, matcher.settings)):
        decided = matcher.match(chunk)
        record_matches(matcher.run, decided)
        for one in decided:
            text = texts.get(one.head.contract.StudyInstanceUID)
            rows += [] if text is None else _repoint(matcher, one, text)
    return pl.DataFrame(rows, schema=CONTRACTS, orient="row")


def _repoint(matcher: Matcher, decided: Matched, text: str) -> list[tuple[Any, ...]]:
    """Return the next revision of a contract; nothing if it stays as it is, as one that is contradicted does."""
    field = decided.field
    if field is None:
        return []
    before = StudyContract.model_validate_json(text)
    after = with_match(before, field.model_dump_json(), matcher.settings)
    if after.content_digest == before.content_digest:
        return []
    after = after.model_copy(update={"revision": before.revision + 1})
    return [(after.StudyInstanceUID, after.study_key, after.revision, after.content_digest, after.to_json())]


def read_look(run: Run) -> dict[str, int]:
    """Return what a run's look has counted: looked, repointed, alarms and more; empty before it has looked."""
    workspace = run.within(Publication.resources_folder).workspace
    try:
        found: dict[str, int] = json.loads(run.s3.get(workspace.root.join(LOOK)))
    except FileNotFoundError:
        return {}
    return found


def read_repointed(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the contracts of released studies that get another Patient, without those that were revised meanwhile.

    Another run has released a later revision of those, and has published it: the next look is at that one.
    """
    for rows in run.within(Publication.resources_folder).workspace.find_parts(REPOINTED, CONTRACTS):
        yield rows.filter(_count_ahead(run, rows).is_in([0, 1]))


def _count_ahead(run: Run, rows: pl.DataFrame) -> pl.Series:
    """Return of each contract how many revisions it is ahead of the ledger's latest one; 0 if it is that one."""
    latest = run.ledger.contracts(run.pipeline.datastore_id, rows["subject"])
    known = latest.select("subject", latest="revision", same="content_digest")
    joined = rows.join(known, on="subject", how="left", maintain_order="left")
    is_other = (pl.col("latest") == pl.col("revision")) & (pl.col("same") != pl.col("content_digest"))
    return joined.select(pl.when(is_other).then(None).otherwise(pl.col("revision") - pl.col("latest"))).to_series()


def release_repointed(run: Run, proven: pl.DataFrame) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Release the studies that get another Patient, and yield their contracts and gates; then the look has ended.

    Parameters
    ----------
    run
        The run.
    proven
        The contents (``study_key``, ``content_digest``) that are proven in HealthLake. Others wait for the next run.
    """
    look, missing, there = read_look(run), 0, proven.rename({"study_key": "subject_key"})
    for rows in run.within(Publication.resources_folder).workspace.find_parts(REPOINTED, CONTRACTS):
        ready = rows.join(there, on=["subject_key", "content_digest"], how="semi", maintain_order="left")
        if not ready.is_empty():
            yield _release(run, ready)
        missing += int((_count_ahead(run, rows) != 0).fill_null(value=True).sum())
    if look and look["is_whole"] and not missing:
        comparison = run.ledger.comparison(look["comparison"])
        if comparison is not None and comparison.ended_at is None:
            counts = {name: look[name] for name in ("looked", "repointed", "alarms")}
            run.ledger.end_comparison(comparison, counts)


def _release(run: Run, rows: pl.DataFrame) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Release studies whose contracts no other run has revised meanwhile.

    The ledger gets no gate: a run that holds other files of the study goes on holding it.
    """
    store, studies = run.pipeline.datastore_id, rows["subject"]
    releases = write_payloads(run, rows)
    scopes = [arrivals.scope(run.pipeline.name), *lock_scopes(store, studies)]
    with run.ledger.at_once(*scopes, covered=COVERED, keep_first=True) as ledger:
        latest = ledger.contracts(store, studies).select("subject", pl.col("revision") + 1)
        free = rows.join(latest, on=["subject", "revision"], how="semi")
        ledger.revise_contracts(store, run.key, free["subject"], lambda _: free)
        gates = free.select(study_key="subject_key", StudyInstanceUID="subject", gate=pl.lit(Gate.RELEASE.value))
        gates = gates.with_columns(reason=pl.lit(None, pl.String)).select(GATES.names())
        released = releases.join(free, on=["subject_key", "revision"], how="semi")
        ledger.record_releases(run.pipeline.name, run.key, store, released)
    return free, gates
