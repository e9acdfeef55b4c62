"""Look again: released studies of which the data store or a person says something new get the Patient that is theirs.

A run asks the data store once for the Patients and orders that have changed since the last look, not once for each
study without a Patient. What a study gets is written to the dataset ``repointed``, published like any other contract,
and released when it is proven. A look is a comparison in the ledger. It ends when everything that it found is released;
until then the next run looks from the same time on. A run repoints `MOST_REPOINTED` studies at most.
"""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

import polars as pl

from airlock.imaging.contracts import StudyContract
from airlock.imaging.fhir.identifiers import DICOM_UID, identity_id
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
from airlock.imaging.patient_match import read_candidate
from airlock.imaging.settle import COVERED
from airlock.ledger import arrivals
from airlock.ledger.columns import ComparisonKind
from airlock.ledger.studies import lock_scopes
from airlock.pipelines import Publication
from airlock.records import CONTRACTS, GATES, Gate, digest
from airlock.stages.releases import write_payloads

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator
    from datetime import datetime

    from airlock.imaging.matching import Matched, Matcher
    from airlock.run import Run

REPOINTED = "repointed"
MOST_REPOINTED = 50_000  # studies of a run, about: the first look may be at the whole archive
LOOK = "look.json"
_LAG = timedelta(hours=1)  # a search finds a resource some time after it was written
_RESOURCES_AT_A_TIME = 100

T = TypeVar("T")


def look_again(matcher: Matcher) -> None:
    """Decide again whose the released studies are of which there is something new."""
    run, lake = matcher.run, find_healthlake(matcher.run).datastore_id
    scope = _describe_scope(matcher)
    about: dict[str, Any] = {"pipeline": run.pipeline.name, "datastore_id": lake}
    last = run.ledger.last_comparison(ComparisonKind.PATIENTS, **about, has_ended=True, scope=scope)
    look = run.ledger.begin_comparison(ComparisonKind.PATIENTS, scope, **about, is_dry=False, asked_by=run.key)
    since = None if last is None else last.began_at - _LAG
    done = {uid for rows in run.workspace.parts("publishable", CONTRACTS, ["subject"]) for uid in rows["subject"]}
    counts = {"looked": 0, "repointed": 0, "instances": 0, "is_whole": 1}
    with run.within(Publication.resources_folder).workspace.writer(REPOINTED, CONTRACTS, None) as writer:
        for patients, studies in _find_news(matcher, since):
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
    alarms = {"alarms": _count_alarms(run, lake)}
    content = {"comparison": look.number} | counts | alarms
    run.within(Publication.resources_folder).workspace.write_json(LOOK, content)


def _count_instances(contracts: pl.DataFrame) -> int:
    number = pl.col("contract").str.json_path_match("$.NumberOfStudyRelatedInstances").cast(pl.Int64)
    return int(contracts.select(number.sum()).item())


def _count_alarms(run: Run, datastore_id: str) -> int:
    """Return how many released studies the run was the first to find contradicted, also in a try that broke off."""
    new = run.ledger.first_contradicted(datastore_id, run.pipeline.name, run.key)
    return run.ledger.released_revisions(None, run.pipeline.datastore_id, new).height


def _describe_scope(matcher: Matcher) -> dict[str, str]:
    """Return what a look rests on; if it changes, everything is looked at again."""
    settings = matcher.run.pipeline.publish
    rules = settings.model_dump_json(include={"patient_match", "issuer_systems"})
    return {"rules": digest(rules), "crosswalk": matcher.crosswalk.digest if matcher.crosswalk else ""}


def _find_news(matcher: Matcher, since: datetime | None) -> Iterator[tuple[set[str], set[str]]]:
    """Yield Patients, as ``Patient/<id>``, and studies, by UID, of which there is something new since then."""
    run, lake = matcher.run, find_healthlake(matcher.run).datastore_id
    asked = run.ledger.identity_questions(lake, run.pipeline.name)
    answers = run.ledger.identity_answers_since(lake, since)
    persons = {name for row in answers.iter_rows(named=True) for name in _list_persons(row)}
    for names in _cut(sorted(persons), _RESOURCES_AT_A_TIME):
        yield set(names), set()
    for uids in _cut(asked["subject"].unique().sort(), _RESOURCES_AT_A_TIME):
        yield set(), set(uids)
    for patients in _find_changed(matcher, "Patient", since):
        yield {name for one in patients for name in _name_identities(matcher, one)}, set()
    # The first look is at the studies of all Patients, and with each it asks for the order.
    for orders in _find_changed(matcher, "ServiceRequest", since) if since is not None else ():
        numbers = sorted({number for one in orders for number in _list_numbers(matcher, one)})
        found = ask_each(lambda number: list(_find_studies(matcher, number)), numbers)
        # An order that has lost its number may be the one of a study of its Patient.
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
    """Yield the resources that others have written since then, some at a time."""
    asked = {"_count": str(_RESOURCES_AT_A_TIME)}
    if since is not None:
        asked["_lastUpdated"] = f"ge{since.strftime('%Y-%m-%dT%H:%M:%SZ')}"
    for resources in _cut(matcher.store.search(resource_type, asked), _RESOURCES_AT_A_TIME):
        own = matcher.find_own(f"{resource_type}/{one['id']}" for one in resources)
        yield [one for one in resources if f"{resource_type}/{one['id']}" not in own]


def _name_identities(matcher: Matcher, patient: dict[str, Any]) -> set[str]:
    """Return a Patient, and the Patients that Airlock makes of the numbers that lead to it."""
    keys = set(read_candidate(patient, matcher.placeholders, matcher.today).keys)
    keys |= matcher.crosswalk.lead_to(keys) if matcher.crosswalk else set()
    found = {f"Patient/{patient['id']}"}
    for system, number in keys:
        issuers = [issuer for issuer, known in matcher.settings.issuer_systems.items() if known == system]
        issuers += [system.removeprefix("urn:oid:")] if system.startswith("urn:oid:") else []
        found |= {f"Patient/{identity_id(issuer or None, number)}" for issuer in issuers}
    return found


def _list_numbers(matcher: Matcher, order: dict[str, Any]) -> set[str]:
    systems: set[str | None] = {*matcher.rules.order_systems.values()} or {None}
    return {number for system in systems for number in list_accessions(order, system)}


def _find_studies(matcher: Matcher, accession: str) -> Iterator[str]:
    """Yield the UIDs of published studies with an AccessionNumber."""
    for study in matcher.store.search("ImagingStudy", {"identifier": escape_token(accession), "_count": "100"}):
        for one in study.get("identifier", ()):
            if one.get("system") == DICOM_UID:
                yield str(one.get("value", "")).removeprefix("urn:oid:")


def _find_released(run: Run, patients: set[str], studies: set[str], done: set[str]) -> pl.DataFrame:
    """Return the contracts of these Patients and studies whose latest revision is the released one.

    A study that has a later revision waits for something else; when it is released, its Patient is looked for anew.
    """
    store, lake = run.pipeline.datastore_id, find_healthlake(run).datastore_id
    persons = run.ledger.persons_of(lake, pl.Series(sorted(patients), dtype=pl.String))
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
    return known.join(released, on=["subject_key", "revision"], how="semi")


def _match_again(matcher: Matcher, contracts: pl.DataFrame) -> pl.DataFrame:
    """Return the contracts that get another Patient."""
    texts = dict(contracts.select("subject", "contract").iter_rows())
    rows: list[tuple[Any, ...]] = []
    for chunk in parse_heads(matcher.run, read_heads(contracts, matcher.settings)):
        decided = matcher.match(chunk)
        record_matches(matcher.run, decided)
        for one in decided:
            rows += _repoint(matcher, one, texts[one.head.contract.StudyInstanceUID])
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


def release_repointed(run: Run, published: Collection[str]) -> Iterator[tuple[pl.DataFrame, pl.DataFrame]]:
    """Release the studies that get another Patient, and yield their contracts and gates; then the look has ended.

    Parameters
    ----------
    run
        The run.
    published
        The keys of the studies that are proven in HealthLake with their new Patient. Others wait for the next run.
    """
    look, missing = read_look(run), 0
    for rows in run.within(Publication.resources_folder).workspace.find_parts(REPOINTED, CONTRACTS):
        ready = rows.filter(pl.col("subject_key").is_in(sorted(published)))
        missing += rows.height - ready.height
        if not ready.is_empty():
            yield _release(run, ready)
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
