"""Publication: released studies as FHIR in HealthLake, imported and audited like a clinical delivery, before route.

A second chain of stages within an imaging run, in its workspace's folder ``fhir``: normalize, import, audit. A resource
that was published with the same content is not sent again. A study is published once each of its resources was proven
in the data store, and stays published even if a later run changes the resources. A Patient that Airlock has not made is
never written: the study refers to it as it is.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.accounts import JobReading, account_batches
from airlock.clinical.normalize import stage_batches
from airlock.clinical.records import BATCHES
from airlock.clinical.resources import content_digest
from airlock.imaging.contracts import StudyContract
from airlock.imaging.fhir.identifiers import is_existing_patient
from airlock.imaging.fhir.imaging_study import to_ndjson
from airlock.imaging.fhir.publishing import read_publishing
from airlock.imaging.fhir.study import build_publication, list_own_resources, name_resources
from airlock.imaging.matching import (
    HEADS,
    Matcher,
    complete_contracts,
    find_healthlake,
    is_matching,
    match_studies,
    read_heads,
    read_matches,
)
from airlock.imaging.repoint import REPOINTED, begin_look, look_again, read_look, read_repointed
from airlock.ledger.open_resources import scope
from airlock.pipelines import Publication
from airlock.records import CONTRACTS, OUTCOMES, Outcome, schema
from airlock.stages.auditing import is_open
from airlock.stages.batches import INDEX, Batch, find_begun_batches
from airlock.stages.resources import OUTCOMES as RESOURCE_OUTCOMES
from airlock.storage.spool import Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from airlock.clinical.accounts import Accounts
    from airlock.clinical.read_back import FhirReader
    from airlock.imaging.fhir.publishing import Publishing
    from airlock.imaging.matching import PatientStore
    from airlock.run import Run
    from airlock.storage.spool import Spool

FOLDER = Publication.resources_folder
RESOURCES = pl.Schema(
    {
        "arrival_id": pl.String,  # of a file of the study
        "line": pl.Int64,  # null: the resource is not a line of a file
        "resource_type": pl.String,
        "resource_id": pl.String,
        "content_digest": pl.String,
        "size": pl.Int64,  # bytes
        "patient": pl.String,
        "body": pl.String,  # JSON
    }
)
PUBLISHED = pl.Schema(
    {
        "study_key": pl.String,
        "content_digest": pl.String,  # of the contract; all resources of the study are proven
    }
)
_KEY = ["resource_type", "resource_id"]
_CONTENT = [*_KEY, "content_digest"]
_BY_RESOURCE = pl.format("{}/{}", *_KEY)
_WANTED = schema(RESOURCES, {"is_wanted": pl.Boolean})
_CONTENTS = schema(dict.fromkeys(_CONTENT, pl.String))
_BRINGERS = schema(dict.fromkeys(("StudyInstanceUID", "arrival_id"), pl.String))
_STUDIES = schema(dict.fromkeys(("patient", "arrival_id", "contract"), pl.String))
_FOREIGN = pl.Schema({"name": pl.String})  # a Patient of the data store that Airlock has not made, as Type/id
_READS = 8  # resources read from the data store at a time
_NAMES = schema(PUBLISHED, {"name": pl.String})  # the name of a resource of the study, as Type/id
_PROOFS = schema(PUBLISHED, {"is_proven": pl.Boolean})
_ROWS_PER_ARRIVAL = 4  # a contract as an object needs more memory than the rows of its arrivals


class PublicationBusyError(RuntimeError):
    """Another run is publishing one of the same resources; a later retry succeeds."""


def normalize(run: Run, reader: FhirReader | None = None, patients: PatientStore | None = None) -> list[Batch]:
    """Write the import files of the resources to publish; return their batches.

    A batch whose job was begun does not change. Resources that have become publishable since then are in further
    batches.

    Parameters
    ----------
    run
        The run.
    reader
        Reads the data store, for Patients that the ledger does not know.
    patients
        Searches the data store for the Patients of the studies, where `publish.patient_match` asks for that.

    Raises
    ------
    PublicationBusyError
        If another run has claimed one of the resources. This run then keeps claims only on resources that it has sent.
    """
    leg, store = run.within(FOLDER), find_healthlake(run)
    standing = find_begun_batches(leg)
    if patients is not None and is_matching(run):
        _match(Matcher.of(run, patients))
    with _open_partitions(run) as partitions:
        rows_sent = (rows for batch in standing for rows in leg.workspace.parts(f"batches/{batch.batch_id}", BATCHES))
        sent = partitions.spool(_BY_RESOURCE, BATCHES, rows_sent)
        revisions: list[int] | None = None
        while revisions != (found := _hash_revisions(run)):  # once claimed, no other run changes the resources
            revisions = found
            built = partitions.spool(_BY_RESOURCE, _WANTED, _build_resources(run, partitions))
            resources = partitions.spool(_BY_RESOURCE, _WANTED, _drop_foreign(run, reader, built))
            with leg.workspace.writer("resources", RESOURCES, part_rows=None) as writer:
                for rows in resources:
                    writer.add(rows.select(RESOURCES.names()))
                    writer.end_part()
            new = partitions.spool(_BY_RESOURCE, RESOURCES, _find_new(run, resources, sent))
            _claim_all(run, new, partitions.spool(_BY_RESOURCE, BATCHES, _find_undecided(leg, partitions, sent)))
        return stage_batches(leg, store, new, lambda rows: rows.iter_slices(10_000), standing)


def _match(matcher: Matcher) -> None:
    """Find the Patients of the studies to publish, and of released ones of which there is something new."""
    look = begin_look(matcher)
    released = (read_heads(rows, matcher.settings) for rows in _read_released(matcher.run))
    with _open_partitions(matcher.run) as partitions:
        match_studies(matcher, partitions.spool(pl.col("patient"), HEADS, released))
    look_again(matcher, look)


def _open_partitions(run: Run) -> Partitions:
    others = read_look(run).get("instances", 0) if is_matching(run) else 0  # of studies that get another Patient
    return Partitions(_ROWS_PER_ARRIVAL * (run.workspace.count_rows("outcomes") + others))


def audit(run: Run, reader: FhirReader | None = None) -> dict[str, int]:
    """Write the outcome of every resource that was sent and the published studies; return the counts of studies."""
    leg = run.within(FOLDER)
    with _open_partitions(run) as partitions:
        reading = JobReading(find_healthlake(run), run.pipeline.audit.manifest_wait_seconds, reader)
        accounts = account_batches(leg, partitions, reading)
        with leg.workspace.writer("outcomes", RESOURCE_OUTCOMES) as outcomes:
            for rows in accounts.outcomes:
                outcomes.add(rows)
        imported = partitions.spool(_BY_RESOURCE, _CONTENTS, _record_outcomes(run, partitions, accounts))
        proofs = partitions.spool(pl.col("study_key"), _PROOFS, _find_proofs(run, partitions, imported))
        before = partitions.spool(pl.col("study_key"), PUBLISHED, _read_published(run))
        count = 0
        with leg.workspace.writer("published", PUBLISHED) as published:
            for rows, known in zip_partitions(proofs, before):
                studies = rows.group_by(PUBLISHED.names()).agg(pl.col("is_proven").all())
                proven = studies.filter("is_proven").select(PUBLISHED.names())
                now = pl.concat([proven, known]).unique("study_key", keep="first", maintain_order=True)
                published.add(now)
                count += studies.filter(pl.col("study_key").is_in(now["study_key"].implode()))["study_key"].n_unique()
    asked = run.workspace.count_rows("publishable") + leg.workspace.count_rows(REPOINTED)
    return {"published": count, "not_published": asked - count}


def find_published(run: Run) -> pl.Series:
    """Return the keys of the published studies; none before the publication was audited."""
    return find_proven(run)["study_key"]


def find_proven(run: Run) -> pl.DataFrame:
    """Return the contents that are proven in HealthLake, as `PUBLISHED`."""
    return pl.concat([PUBLISHED.to_frame(), *_read_published(run)])


def _read_published(run: Run) -> Iterator[pl.DataFrame]:
    return run.within(FOLDER).workspace.find_parts("published", PUBLISHED)


def _read_settings(run: Run) -> Publishing:
    return read_publishing(run.pipeline, find_healthlake(run))


def _find_undecided(leg: Run, partitions: Partitions, sent: Spool) -> Iterator[pl.DataFrame]:
    """Yield the sent resources without a decision of the audit: a job may still import them."""
    decided = (rows.filter(~is_open()) for rows in leg.workspace.find_parts("outcomes", RESOURCE_OUTCOMES))
    outcomes = partitions.spool(_BY_RESOURCE, RESOURCE_OUTCOMES, decided)
    for rows, ended in zip_partitions(sent, outcomes):
        yield rows.join(ended, on=["batch_id", *_KEY], how="anti")


def count_undecided(run: Run) -> int:
    """Return the number of undecided resources of a publication; if no batch was written, of publishable studies."""
    leg = run.within(FOLDER)
    if not run.s3.exists(leg.workspace.root.join(INDEX)):
        return run.workspace.count_rows("publishable")
    return sum(rows.filter(is_open()).height for rows in leg.workspace.find_parts("outcomes", RESOURCE_OUTCOMES))


def _claim_all(run: Run, new: Spool, on_the_way: Spool) -> None:
    """Claim all new resources, or none of them: two runs that each claim a part would wait for each other."""
    datastore, none = find_healthlake(run).datastore_id, pl.lit(None, pl.String)
    claims = (
        pl.concat([rows.select("arrival_id", *_CONTENT, clock=none, patient=none) for rows in both])
        for both in zip_partitions(new, on_the_way)
    )
    taken = run.ledger.claim_resources(datastore, run.pipeline.name, run.key, claims)
    if taken.height:
        for rows, waiting in zip_partitions(new, on_the_way):
            unsent = rows.join(waiting, on=_KEY, how="anti").select(_KEY)
            run.ledger.drop_resource_claims(datastore, run.key, unsent)
        raise PublicationBusyError(_explain_busy(run, taken))


def _explain_busy(run: Run, taken: pl.DataFrame) -> str:
    others = [run.ledger.run(key) for key in taken["claimed_by"].unique().sort()]
    names = " and ".join(f"--pipeline {other.pipeline} --run {other.run_key}" for other in others if other)
    return (
        f"{taken.height} resources are being published by another run ({names}): this task tries again; clear it once "
        f"that run has ended. If that run has a failed task, clear that one first; if its DAG run is gone, give its "
        f"claims back with: python -m airlock.ledger release and these options"
    )


def _build_resources(run: Run, partitions: Partitions) -> Iterator[pl.DataFrame]:
    """Yield the resources of the publishable studies (`_WANTED`), partition by partition of patients.

    A resource belongs to one patient, and all studies of a patient are in one partition.
    """
    settings = _read_settings(run)
    for studies in partitions.spool(pl.col("patient"), _STUDIES, _read_studies(run, partitions, settings)):
        contracts = [StudyContract.model_validate_json(text) for text in studies["contract"]]
        bringer: dict[str, str] = {}
        for contract, arrival_id in zip(contracts, studies["arrival_id"], strict=True):
            for name in list_own_resources(contract, settings):
                bringer.setdefault(name, arrival_id)
        wanted = _find_wanted(run, contracts, settings)
        built = build_publication(contracts, settings, _find_earlier_contracts(run, contracts))
        yield pl.DataFrame([_make_row(resource, bringer, wanted) for resource in built], schema=_WANTED)


def _read_studies(run: Run, partitions: Partitions, settings: Publishing) -> Iterator[pl.DataFrame]:
    """Yield each publishable contract with its patient and the id of an arrival of the study."""
    columns = ["StudyInstanceUID", "arrival_id"]
    first = (
        rows.group_by("StudyInstanceUID").agg(pl.col("arrival_id").min())
        for rows in run.workspace.parts("outcomes", OUTCOMES, columns)
    )
    bringers = partitions.spool(pl.col("StudyInstanceUID"), _BRINGERS, first)
    contracts = partitions.spool(pl.col("subject"), CONTRACTS, _read_publishable(run))
    for rows, arrivals in zip_partitions(contracts, bringers):
        brought = arrivals.group_by(subject="StudyInstanceUID").agg(pl.col("arrival_id").min())
        patients = [
            name_resources(StudyContract.model_validate_json(text), settings)["Patient"] for text in rows["contract"]
        ]
        joined = rows.with_columns(patient=pl.Series(patients, dtype=pl.String)).join(
            brought, on="subject", how="left", maintain_order="left"
        )
        yield joined.select(_STUDIES.names())


def _read_publishable(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the contracts to publish, with their Patients, and those of released studies that get another Patient."""
    matches, settings = read_matches(run), _read_settings(run)
    for rows in _read_released(run):
        yield complete_contracts(rows, matches, settings)
    yield from read_repointed(run)


def _read_released(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the publishable contracts: of a study that another run has released since the audit, the released one.

    The newest contract may name files that are held. If it is not the released one, the run that released has published
    the study, and it is left out.
    """
    store = run.pipeline.datastore_id
    for rows in run.workspace.parts("publishable", CONTRACTS):
        released = run.ledger.released_revisions(None, store, rows["subject_key"])
        later = rows.select("subject", "subject_key", own="revision").join(released, on="subject_key")
        later = later.filter(pl.col("revision") > pl.col("own"))
        newer = run.ledger.contracts(store, later["subject"]).join(later, on=["subject", "revision"], how="semi")
        yield pl.concat([rows.join(later, on="subject", how="anti"), newer.select(rows.columns)])


def _hash_revisions(run: Run) -> list[int]:
    both = chain(_read_released(run), read_repointed(run))
    return [int(rows.select("subject", "revision").hash_rows().sum()) for rows in both]


def _find_earlier_contracts(run: Run, contracts: list[StudyContract]) -> list[StudyContract]:
    """Return the contracts of the same patients that other runs have released, or published to release them.

    A Patient is merged from all of them: two runs that publish one after the other would otherwise leave each other's
    studies out.
    """
    datastore = run.pipeline.healthimaging.datastore_id
    own = [one.fhir.Patient for one in contracts if one.fhir and not is_existing_patient(one)]
    patients = pl.Series(own, dtype=pl.String)
    known = run.ledger.contracts_of_patients(datastore, patients)
    released = set(run.ledger.released_before(datastore, known["subject"], except_run=run.key)["subject"])
    found = [StudyContract.model_validate_json(text) for text in known["contract"]]
    there = _find_published_studies(run, found)
    return [one for one in found if one.StudyInstanceUID in released or one.StudyInstanceUID in there]


def _find_published_studies(run: Run, contracts: list[StudyContract]) -> set[str]:
    """Return the studies, by their UID, of which other runs have published the ImagingStudy."""
    names = {one.fhir.ImagingStudy: one.StudyInstanceUID for one in contracts if one.fhir}
    keys = pl.DataFrame([name.split("/") for name in names], schema=dict.fromkeys(_KEY, pl.String), orient="row")
    known = run.ledger.known_resources(find_healthlake(run).datastore_id, keys, except_run=run.key)
    return {names[name] for name in known.select(_BY_RESOURCE.alias("name"))["name"]}


def _drop_foreign(run: Run, reader: FhirReader | None, resources: Spool) -> Iterator[pl.DataFrame]:
    """Yield the resources without the Patients that Airlock has not made; write these to ``foreign``."""
    with run.within(FOLDER).workspace.writer("foreign", _FOREIGN) as writer:
        for rows in resources:
            foreign = _find_foreign(
                run, reader, rows.filter(pl.col("is_wanted") & (pl.col("resource_type") == "Patient"))
            )
            writer.add(foreign.select(_BY_RESOURCE.alias("name")))
            yield rows.join(foreign, on=_KEY, how="anti")


def _find_foreign(run: Run, reader: FhirReader | None, patients: pl.DataFrame) -> pl.DataFrame:
    """Return the Patients (`_KEY`) that a file has brought, or that are in the data store unknown to the ledger."""
    known = run.ledger.contents_of(find_healthlake(run).datastore_id, patients.select(_KEY))
    brought = known.filter(pl.col("known_clock").is_not_null()).select(_KEY)
    if reader is None:
        return brought
    unknown = patients.join(known, on=_KEY, how="anti").select(_KEY)
    claimed = run.ledger.claimed_resources(find_healthlake(run).datastore_id, unknown)  # a run may have written these
    unknown = unknown.join(claimed, on=_KEY, how="anti")
    with ThreadPoolExecutor(_READS) as pool:
        is_there = list(pool.map(lambda names: reader.read(*names) is not None, unknown.iter_rows()))
    return pl.concat([brought, unknown.filter(pl.Series(is_there, dtype=pl.Boolean))])


def _find_wanted(run: Run, contracts: list[StudyContract], settings: Publishing) -> set[str]:
    """Return the resources, as Type/id, of studies that are not published with their present content.

    A later run may have changed the Patient of a published study; that run publishes the Patient.
    """
    is_named = pl.col("study_key").is_in([one.study_key for one in contracts])
    done = dict(row for rows in _read_published(run) for row in rows.filter(is_named).iter_rows())
    todo = [one for one in contracts if done.get(one.study_key) != one.content_digest]
    return {name for one in todo for name in list_own_resources(one, settings)}


def _find_new(run: Run, resources: Spool, sent: Spool) -> Iterator[pl.DataFrame]:
    """Yield the wanted resources that were not sent with the same content and are not in the data store with it."""
    for rows, standing in zip_partitions(resources, sent):
        known = pl.concat([standing.select(_CONTENT), _find_proven(run, rows, except_run=run.key)])
        yield rows.filter("is_wanted").join(known, on=_CONTENT, how="anti")


def _make_row(resource: dict[str, Any], bringer: dict[str, str], wanted: Collection[str]) -> dict[str, Any]:
    body = to_ndjson(resource)
    kind, name = resource["resourceType"], resource["id"]
    return {
        "arrival_id": bringer[f"{kind}/{name}"],
        "resource_type": kind,
        "resource_id": name,
        "content_digest": content_digest(resource),
        "size": len(body.encode()),
        "patient": None,
        "body": body,
        "is_wanted": f"{kind}/{name}" in wanted,
    }


def _find_proven(run: Run, resources: pl.DataFrame, except_run: str | None = None) -> pl.DataFrame:
    """Return the content of these resources that the ledger knows in the data store (`_CONTENT`)."""
    known = run.ledger.known_resources(find_healthlake(run).datastore_id, resources.select(_KEY), except_run=except_run)
    return known.select(_CONTENT)


def _record_outcomes(run: Run, partitions: Partitions, accounts: Accounts) -> Iterator[pl.DataFrame]:
    """Record in the ledger the resources that are in the data store; yield their outcomes.

    A resource that a job may still import is left out. An unproven resource is forgotten, since it may be in the data
    store.
    """
    datastore, refused = find_healthlake(run).datastore_id, pl.col("outcome") == Outcome.REJECTED
    is_stored = (pl.col("outcome") == Outcome.IMPORTED) & ~pl.col("batch_id").is_in(accounts.suspect)
    for outcomes in partitions.spool(_BY_RESOURCE, RESOURCE_OUTCOMES, accounts.outcomes):
        decided = _leave_out_open(outcomes)
        # Of a resource that was sent twice, the data store holds the later content, unless that was rejected.
        last = decided.sort(~refused, maintain_order=True).unique(_KEY, keep="last", maintain_order=True)
        with run.ledger.at_once(scope(datastore)) as ledger:
            # Until the studies are settled no other run may publish: it would write an older revision over this one.
            ledger.record_imported_resources(datastore, run.key, last.filter(is_stored), keep_claims=True)
            ledger.drop_resource_claims(datastore, run.key, last.filter(refused).select(_KEY))
            ledger.forget_resources(datastore, run.key, last.filter(~is_stored & ~refused).select(_KEY))
            ledger.close_open(datastore, run.key)
        yield last.filter(is_stored)


def _leave_out_open(outcomes: pl.DataFrame) -> pl.DataFrame:
    """Leave out the resources that a job may still import."""
    return outcomes.join(outcomes.filter(is_open()), on=_KEY, how="anti", maintain_order="left")


def end_claims(run: Run) -> None:
    """End the run's claims on what it has published: its studies are settled, so a later run sees what it released."""
    datastore, leg = find_healthlake(run).datastore_id, run.within(FOLDER)
    with _open_partitions(run) as partitions:
        outcomes = leg.workspace.find_parts("outcomes", RESOURCE_OUTCOMES)
        for rows in partitions.spool(_BY_RESOURCE, RESOURCE_OUTCOMES, outcomes):
            run.ledger.drop_resource_claims(datastore, run.key, _leave_out_open(rows).select(_KEY).unique())


def _find_proofs(run: Run, partitions: Partitions, imported: Spool) -> Iterator[pl.DataFrame]:
    """Yield the resources of the publishable studies, each with ``is_proven`` (`_PROOFS`).

    A resource is proven by a job of this run, or by the ledger if the data store holds it with the same content.
    """
    parts = run.within(FOLDER).workspace.find_parts("resources", RESOURCES, _CONTENT)
    resources = partitions.spool(_BY_RESOURCE, _CONTENTS, parts)
    names = partitions.spool(pl.col("name"), _NAMES, _name_resources(run))
    found = run.within(FOLDER).workspace.find_parts("foreign", _FOREIGN)
    foreign = partitions.spool(pl.col("name"), _FOREIGN, found)
    for rows, own, named, others in zip_partitions(resources, imported, names, foreign):
        known = pl.concat([_find_proven(run, rows), own])
        proven = rows.join(known, on=_CONTENT, how="semi").select(_BY_RESOURCE.alias("name"))["name"]
        is_proven = pl.col("name").is_in(proven.implode()) | pl.col("name").is_in(others["name"].implode())
        yield named.with_columns(is_proven=is_proven).select(_PROOFS.names())


def _name_resources(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the names of the resources of each publishable study (`_NAMES`)."""
    settings = _read_settings(run)
    for rows in _read_publishable(run):
        contracts = map(StudyContract.model_validate_json, rows["contract"])
        named = [
            (one.study_key, one.content_digest, name) for one in contracts for name in list_own_resources(one, settings)
        ]
        yield pl.DataFrame(named, schema=_NAMES, orient="row")
