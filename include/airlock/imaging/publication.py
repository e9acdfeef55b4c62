"""Publication: released studies as FHIR into HealthLake, imported and audited like any clinical delivery, before route.

A second chain of stages within an imaging run, in its workspace's folder ``fhir``: normalize, import, audit. What was
published with the same content before is not sent again; a study counts as published once every resource of it was
proven in the data store, and stays so whatever a later run changes there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.accounts import JobReading, account_batches
from airlock.clinical.normalize import stage_batches
from airlock.clinical.records import BATCHES
from airlock.clinical.resources import content_digest
from airlock.imaging.contracts import StudyContract
from airlock.imaging.fhir.imaging_study import to_ndjson
from airlock.imaging.fhir.publishing import read_publishing
from airlock.imaging.fhir.study import build_publication, name_resources
from airlock.records import CONTRACTS, OUTCOMES, Outcome, schema
from airlock.stages.auditing import is_open
from airlock.stages.batches import INDEX, Batch, find_begun_batches
from airlock.stages.resources import OUTCOMES as RESOURCE_OUTCOMES
from airlock.storage.spool import Partitions, zip_partitions

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from airlock.clinical.accounts import Accounts
    from airlock.clinical.read_back import FhirReader
    from airlock.imaging.fhir.publishing import Publishing
    from airlock.pipelines import HealthLake
    from airlock.run import Run
    from airlock.storage.spool import Spool

FOLDER = "fhir"
RESOURCES = pl.Schema(
    {
        "arrival_id": pl.String,  # of the study that brings it
        "line": pl.Int64,  # null: no line of a file
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
        "content_digest": pl.String,  # of the contract all of whose resources are proven
    }
)
_KEY = ["resource_type", "resource_id"]
_CONTENT = [*_KEY, "content_digest"]
_BY_RESOURCE = pl.format("{}/{}", *_KEY)
_WANTED = schema(RESOURCES, {"is_wanted": pl.Boolean})
_CONTENTS = schema(dict.fromkeys(_CONTENT, pl.String))
_BRINGERS = schema(dict.fromkeys(("StudyInstanceUID", "arrival_id"), pl.String))
_STUDIES = schema(dict.fromkeys(("patient", "arrival_id", "contract"), pl.String))  # of a patient
_NAMES = schema(PUBLISHED, {"name": pl.String})  # of a study's resources, as Type/id
_PROOFS = schema(PUBLISHED, {"is_proven": pl.Boolean})
_ROWS_PER_ARRIVAL = 4  # contracts as objects are many times the rows of their arrivals


class PublicationBusyError(RuntimeError):
    """Another run is publishing one of the same resources; a retry finds it done."""


def normalize(run: Run) -> list[Batch]:
    """Write the import files of what is to be published.

    A batch whose job was begun stands. What has become publishable since then comes in further batches, after it.

    Raises
    ------
    PublicationBusyError
        If another run holds one of the resources. Then this one holds none that it has not sent yet.
    """
    leg, store = run.within(FOLDER), _store(run)
    standing = find_begun_batches(leg)
    with _partitions(run) as partitions:
        rows_sent = (rows for batch in standing for rows in leg.workspace.parts(f"batches/{batch.batch_id}", BATCHES))
        sent = partitions.spool(_BY_RESOURCE, BATCHES, rows_sent)
        resources = partitions.spool(_BY_RESOURCE, _WANTED, _resources(run, partitions))
        with leg.workspace.writer("resources", RESOURCES, part_rows=None) as writer:
            for rows in resources:
                writer.add(rows.select(RESOURCES.names()))
                writer.end_part()
        new = partitions.spool(_BY_RESOURCE, RESOURCES, _new(run, resources, sent))
        _claim(run, new, partitions.spool(_BY_RESOURCE, BATCHES, _on_the_way(leg, partitions, sent)))
        return stage_batches(leg, store, new, lambda rows: rows.iter_slices(10_000), standing)


def _partitions(run: Run) -> Partitions:
    return Partitions(_ROWS_PER_ARRIVAL * run.workspace.count_rows("outcomes"))


def audit(run: Run, reader: FhirReader | None = None) -> dict[str, int]:
    """Account for every resource that was sent, and say which studies are proven; return how many are and are not."""
    leg = run.within(FOLDER)
    with _partitions(run) as partitions:
        reading = JobReading(_store(run), run.pipeline.audit.manifest_wait_seconds, reader)
        accounts = account_batches(leg, partitions, reading)
        with leg.workspace.writer("outcomes", RESOURCE_OUTCOMES) as outcomes:
            for rows in accounts.outcomes:
                outcomes.add(rows)
        imported = partitions.spool(_BY_RESOURCE, _CONTENTS, _record(run, partitions, accounts))
        proofs = partitions.spool(pl.col("study_key"), _PROOFS, _proofs(run, partitions, imported))
        before = partitions.spool(pl.col("study_key"), PUBLISHED, _published(run))
        count = 0
        with leg.workspace.writer("published", PUBLISHED) as published:
            for rows, known in zip_partitions(proofs, before):
                studies = rows.group_by(PUBLISHED.names()).agg(pl.col("is_proven").all())
                proven = studies.filter("is_proven").select(PUBLISHED.names())
                now = pl.concat([proven, known]).unique("study_key", keep="first", maintain_order=True)
                published.add(now)
                count += studies.filter(pl.col("study_key").is_in(now["study_key"].implode()))["study_key"].n_unique()
    return {"published": count, "not_published": run.workspace.count_rows("publishable") - count}


def published_studies(run: Run) -> pl.Series:
    """Return the study keys of what is proven to be published; none before the publication was audited."""
    return pl.concat([PUBLISHED.to_frame(), *_published(run)])["study_key"]


def _published(run: Run) -> Iterator[pl.DataFrame]:
    return run.within(FOLDER).workspace.find_parts("published", PUBLISHED)


def _store(run: Run) -> HealthLake:
    store = run.pipeline.healthlake
    if store is None:
        raise ValueError(f"pipeline {run.pipeline.name!r} publishes nothing: it has no healthlake section")
    return store


def _settings(run: Run) -> Publishing:
    return read_publishing(run.pipeline, _store(run))


def _on_the_way(leg: Run, partitions: Partitions, sent: Spool) -> Iterator[pl.DataFrame]:
    """Yield what of this the audit has not decided on: a job may still bring it."""
    decided = (rows.filter(~is_open()) for rows in leg.workspace.find_parts("outcomes", RESOURCE_OUTCOMES))
    outcomes = partitions.spool(_BY_RESOURCE, RESOURCE_OUTCOMES, decided)
    for rows, ended in zip_partitions(sent, outcomes):
        yield rows.join(ended, on=["batch_id", *_KEY], how="anti")


def undecided(run: Run) -> int:
    """Return how many resources of a publication have no end yet; where nothing was written to be sent, all studies."""
    leg = run.within(FOLDER)
    if not run.s3.exists(leg.workspace.root.join(INDEX)):
        return run.workspace.count_rows("publishable")
    return sum(rows.filter(is_open()).height for rows in leg.workspace.find_parts("outcomes", RESOURCE_OUTCOMES))


def _claim(run: Run, new: Spool, on_the_way: Spool) -> None:
    """Claim all that is new or nothing of it: two runs that each hold a part would wait for each other."""
    datastore = _store(run).datastore_id
    claims = (
        pl.concat([rows.select("arrival_id", *_CONTENT) for rows in both]) for both in zip_partitions(new, on_the_way)
    )
    taken = run.ledger.claim_resources(datastore, run.pipeline.name, run.key, claims)
    if taken.height:
        for rows, waiting in zip_partitions(new, on_the_way):
            unsent = rows.join(waiting, on=_KEY, how="anti").select(_KEY)
            run.ledger.drop_resource_claims(datastore, run.key, unsent)
        raise PublicationBusyError(_advice(run, taken))


def _advice(run: Run, taken: pl.DataFrame) -> str:
    others = [run.ledger.run(key) for key in taken["claimed_by"].unique().sort()]
    names = " and ".join(f"--pipeline {other.pipeline} --run {other.run_key}" for other in others if other)
    return (
        f"{taken.height} resources are being published by another run ({names}): this task tries again; clear it once "
        f"that run has ended. If that run has a failed task, clear that one first; if its DAG run is gone, give its "
        f"claims back with: python -m airlock.ledger release and these options"
    )


def _resources(run: Run, partitions: Partitions) -> Iterator[pl.DataFrame]:
    """Yield the resources of the publishable studies (`_WANTED`), of some patients at a time.

    Each belongs to one patient, and a patient's studies are together.
    """
    settings = _settings(run)
    for studies in partitions.spool(pl.col("patient"), _STUDIES, _studies(run, partitions, settings)):
        contracts = [StudyContract.model_validate_json(text) for text in studies["contract"]]
        bringer: dict[str, str] = {}
        for contract, arrival_id in zip(contracts, studies["arrival_id"], strict=True):
            for name in _names(contract, settings):
                bringer.setdefault(name, arrival_id)
        wanted = _wanted(run, contracts, settings)
        built = build_publication(contracts, settings, _earlier(run, contracts))
        yield pl.DataFrame([_row(resource, bringer, wanted) for resource in built], schema=_WANTED)


def _studies(run: Run, partitions: Partitions, settings: Publishing) -> Iterator[pl.DataFrame]:
    """Yield each publishable contract with its patient and with an arrival that brought a file of the study."""
    columns = ["StudyInstanceUID", "arrival_id"]
    first = (
        rows.group_by("StudyInstanceUID").agg(pl.col("arrival_id").min())
        for rows in run.workspace.parts("outcomes", OUTCOMES, columns)
    )
    bringers = partitions.spool(pl.col("StudyInstanceUID"), _BRINGERS, first)
    contracts = partitions.spool(pl.col("subject"), CONTRACTS, run.workspace.parts("publishable", CONTRACTS))
    for rows, arrivals in zip_partitions(contracts, bringers):
        brought = arrivals.group_by(subject="StudyInstanceUID").agg(pl.col("arrival_id").min())
        patients = [
            name_resources(StudyContract.model_validate_json(text), settings)["Patient"] for text in rows["contract"]
        ]
        joined = rows.with_columns(patient=pl.Series(patients, dtype=pl.String)).join(
            brought, on="subject", how="left", maintain_order="left"
        )
        yield joined.select(_STUDIES.names())


def _earlier(run: Run, contracts: list[StudyContract]) -> list[StudyContract]:
    """Return what is released of the same patients already: a Patient tells of all of them, not of this run's alone."""
    datastore = run.pipeline.healthimaging.datastore_id
    patients = pl.Series([one.fhir.Patient for one in contracts if one.fhir], dtype=pl.String)
    known = run.ledger.contracts_of_patients(datastore, patients)
    released = run.ledger.released_before(datastore, known["subject"], except_run=run.key)
    texts = known.filter(pl.col("subject").is_in(released["subject"].implode()))["contract"]
    return [StudyContract.model_validate_json(text) for text in texts]


def _names(contract: StudyContract, settings: Publishing) -> Iterable[str]:
    named = name_resources(contract, settings)
    order = named["ServiceRequest"]
    return [named["Patient"], named["ImagingStudy"], *named["Endpoint"], *([order] if order else [])]


def _wanted(run: Run, contracts: list[StudyContract], settings: Publishing) -> set[str]:
    """Return the resources, as Type/id, of studies that are not published yet as they are now.

    The others' Patient may read otherwise by now, as the studies of later runs have changed it; that is for those runs.
    """
    is_named = pl.col("study_key").is_in([one.study_key for one in contracts])
    done = dict(row for rows in _published(run) for row in rows.filter(is_named).iter_rows())
    todo = [one for one in contracts if done.get(one.study_key) != one.content_digest]
    return {name for one in todo for name in _names(one, settings)}


def _new(run: Run, resources: Spool, sent: Spool) -> Iterator[pl.DataFrame]:
    """Yield the wanted resources that were not sent and are not in the data store, with this very content."""
    for rows, standing in zip_partitions(resources, sent):
        known = pl.concat([standing.select(_CONTENT), _proven(run, rows, except_run=run.key)])
        yield rows.filter("is_wanted").join(known, on=_CONTENT, how="anti")


def _row(resource: dict[str, Any], bringer: dict[str, str], wanted: Collection[str]) -> dict[str, Any]:
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


def _proven(run: Run, resources: pl.DataFrame, except_run: str | None = None) -> pl.DataFrame:
    """Return which of these the data store holds with this very content."""
    known = run.ledger.known_resources(_store(run).datastore_id, resources.select(_KEY), except_run=except_run)
    return known.select(_CONTENT)


def _record(run: Run, partitions: Partitions, accounts: Accounts) -> Iterator[pl.DataFrame]:
    """Tell the ledger what is in the data store; yield what of the outcomes that is.

    Nothing is said of a resource that a job may still bring. One that is not proven is forgotten: it may be there.
    """
    datastore, refused = _store(run).datastore_id, pl.col("outcome") == Outcome.REJECTED
    is_stored = (pl.col("outcome") == Outcome.IMPORTED) & ~pl.col("batch_id").is_in(accounts.suspect)
    for outcomes in partitions.spool(_BY_RESOURCE, RESOURCE_OUTCOMES, accounts.outcomes):
        decided = outcomes.join(outcomes.filter(is_open()), on=_KEY, how="anti", maintain_order="left")
        # Sent twice, the later one is there, unless it was refused.
        last = decided.sort(~refused, maintain_order=True).unique(_KEY, keep="last", maintain_order=True)
        run.ledger.record_imported_resources(datastore, run.key, last.filter(is_stored))
        run.ledger.drop_resource_claims(datastore, run.key, last.filter(refused).select(_KEY))
        run.ledger.forget_resources(datastore, run.key, last.filter(~is_stored & ~refused).select(_KEY))
        yield last.filter(is_stored)


def _proofs(run: Run, partitions: Partitions, imported: Spool) -> Iterator[pl.DataFrame]:
    """Yield of each resource of the publishable studies whether it is proven (`_PROOFS`).

    It is by this run's own jobs, or if the data store has it as it is.
    """
    parts = run.within(FOLDER).workspace.find_parts("resources", RESOURCES, _CONTENT)
    resources = partitions.spool(_BY_RESOURCE, _CONTENTS, parts)
    names = partitions.spool(pl.col("name"), _NAMES, _named(run))
    for rows, own, named in zip_partitions(resources, imported, names):
        known = pl.concat([_proven(run, rows), own])
        proven = rows.join(known, on=_CONTENT, how="semi").select(_BY_RESOURCE.alias("name"))["name"]
        is_proven = pl.col("name").is_in(proven.implode())
        yield named.with_columns(is_proven=is_proven).select(_PROOFS.names())


def _named(run: Run) -> Iterator[pl.DataFrame]:
    """Yield the names of the resources of each publishable study."""
    settings = _settings(run)
    for rows in run.workspace.parts("publishable", CONTRACTS):
        contracts = map(StudyContract.model_validate_json, rows["contract"])
        named = [(one.study_key, one.content_digest, name) for one in contracts for name in _names(one, settings)]
        yield pl.DataFrame(named, schema=_NAMES, orient="row")
