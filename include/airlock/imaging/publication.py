"""Publication: released studies as FHIR into HealthLake, imported and audited like any clinical delivery, before route.

A second chain of stages within an imaging run, in its workspace's folder ``fhir``: normalize, import, audit. What was
published with the same content before is not sent again; a study counts as published once every resource of it was
proven in the data store, and stays so whatever a later run changes there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.audit import account_batches
from airlock.clinical.normalize import pieces_of, stage
from airlock.clinical.records import BATCHES
from airlock.clinical.resources import content_digest
from airlock.imaging.contracts import StudyContract
from airlock.imaging.fhir.imaging_study import to_ndjson
from airlock.imaging.fhir.publishing import read_publishing
from airlock.imaging.fhir.study import build_publication, name_resources
from airlock.records import CONTRACTS, OUTCOMES, Outcome
from airlock.stages.auditing import is_open
from airlock.stages.batches import INDEX, Batch, find_begun_batches
from airlock.stages.resources import OUTCOMES as RESOURCE_OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.clinical.audit import Accounts
    from airlock.clinical.read_back import FhirReader
    from airlock.imaging.fhir.publishing import Publishing
    from airlock.pipelines import HealthLake
    from airlock.run import Run

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
    sent = leg.workspace.read_all([f"batches/{batch.batch_id}" for batch in standing], BATCHES)
    resources = _resources(run)
    leg.workspace.write("resources", RESOURCES, resources)
    known = pl.concat([sent.select(_CONTENT), _proven(run, resources, except_run=run.key)])
    new = _wanted(run, resources).join(known, on=_CONTENT, how="anti")
    _claim(run, new, _on_the_way(leg, sent))
    return stage(leg, store, new, pieces_of, standing)


def audit(run: Run, reader: FhirReader | None = None) -> dict[str, int]:
    """Account for every resource that was sent, and say which studies are proven; return how many are and are not."""
    leg = run.within(FOLDER)
    accounts = account_batches(leg, reader)
    leg.workspace.write("outcomes", RESOURCE_OUTCOMES, accounts.outcomes)
    imported = _record(run, accounts)
    there = _there(run, leg.workspace.find("resources", RESOURCES), imported)
    contracts, settings = _contracts(run), _settings(run)
    proven = {one.study_key: one.content_digest for one in contracts if there.issuperset(_names(one, settings))}
    published = _published(run) | proven
    leg.workspace.write("published", PUBLISHED, pl.DataFrame(list(published.items()), PUBLISHED, orient="row"))
    count = sum(one.study_key in published for one in contracts)
    return {"published": count, "not_published": len(contracts) - count}


def published_studies(run: Run) -> set[str]:
    """Return the study keys of what is proven to be published; none before the publication was audited."""
    return set(_published(run))


def _published(run: Run) -> dict[str, str]:
    return dict(run.within(FOLDER).workspace.find("published", PUBLISHED).iter_rows())


def _store(run: Run) -> HealthLake:
    store = run.pipeline.healthlake
    if store is None:
        raise ValueError(f"pipeline {run.pipeline.name!r} publishes nothing: it has no healthlake section")
    return store


def _settings(run: Run) -> Publishing:
    return read_publishing(run.pipeline, _store(run))


def _on_the_way(leg: Run, sent: pl.DataFrame) -> pl.DataFrame:
    """Return what of this the audit has not decided on: a job may still bring it."""
    outcomes = leg.workspace.find("outcomes", RESOURCE_OUTCOMES)
    return sent.join(outcomes.filter(~is_open()), on=["batch_id", *_KEY], how="anti")


def undecided(run: Run) -> int:
    """Return how many resources of a publication have no end yet; where nothing was written to be sent, all studies."""
    leg = run.within(FOLDER)
    if not run.s3.exists(leg.workspace.root.join(INDEX)):
        return run.workspace.find("publishable", CONTRACTS).height
    return leg.workspace.find("outcomes", RESOURCE_OUTCOMES).filter(is_open()).height


def _claim(run: Run, new: pl.DataFrame, on_the_way: pl.DataFrame) -> None:
    """Claim all that is new or nothing of it: two runs that each hold a part would wait for each other."""
    datastore = _store(run).datastore_id
    claims = pl.concat([frame.select("arrival_id", *_CONTENT) for frame in (new, on_the_way)])
    taken = run.ledger.claim_resources(datastore, run.pipeline.name, run.key, claims)
    if taken.height:
        run.ledger.drop_resource_claims(datastore, run.key, new.join(on_the_way, on=_KEY, how="anti").select(_KEY))
        raise PublicationBusyError(_advice(run, taken))


def _advice(run: Run, taken: pl.DataFrame) -> str:
    others = [run.ledger.run(key) for key in taken["claimed_by"].unique().sort()]
    names = " and ".join(f"--pipeline {other.pipeline} --run {other.run_key}" for other in others if other)
    return (
        f"{taken.height} resources are being published by another run ({names}): this task tries again; clear it once "
        f"that run has ended. If that run has a failed task, clear that one first; if its DAG run is gone, give its "
        f"claims back with: python -m airlock.ledger release and these options"
    )


def _contracts(run: Run) -> list[StudyContract]:
    return [
        StudyContract.model_validate_json(text) for text in run.workspace.read("publishable", CONTRACTS)["contract"]
    ]


def _resources(run: Run) -> pl.DataFrame:
    contracts, settings = _contracts(run), _settings(run)
    arrivals = run.workspace.read("outcomes", OUTCOMES).group_by("StudyInstanceUID").agg(pl.col("arrival_id").min())
    brought_by = dict(arrivals.iter_rows())
    bringer: dict[str, str] = {}
    for contract in contracts:
        for name in _names(contract, settings):
            bringer.setdefault(name, brought_by[contract.StudyInstanceUID])
    rows = [_row(resource, bringer) for resource in build_publication(contracts, settings, _earlier(run, contracts))]
    return pl.DataFrame(rows, schema=RESOURCES)


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


def _wanted(run: Run, resources: pl.DataFrame) -> pl.DataFrame:
    """Return the resources of studies that are not published yet as they are now.

    The others' Patient may read otherwise by now, as the studies of later runs have changed it; that is for those runs.
    """
    done, settings = _published(run), _settings(run)
    todo = [one for one in _contracts(run) if done.get(one.study_key) != one.content_digest]
    names = {name for one in todo for name in _names(one, settings)}
    return resources.filter(pl.format("{}/{}", *_KEY).is_in(sorted(names)))


def _row(resource: dict[str, Any], bringer: dict[str, str]) -> dict[str, Any]:
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
    }


def _proven(run: Run, resources: pl.DataFrame, except_run: str | None = None) -> pl.DataFrame:
    """Return which of these the data store holds with this very content."""
    known = run.ledger.known_resources(_store(run).datastore_id, resources.select(_KEY), except_run=except_run)
    return known.select(_CONTENT)


def _record(run: Run, accounts: Accounts) -> pl.DataFrame:
    """Tell the ledger what is in the data store; return what of the outcomes that is.

    Nothing is said of a resource that a job may still bring. One that is not proven is forgotten: it may be there.
    """
    datastore, outcomes = _store(run).datastore_id, accounts.outcomes
    refused = pl.col("outcome") == Outcome.REJECTED
    there = (pl.col("outcome") == Outcome.IMPORTED) & ~pl.col("batch_id").is_in(accounts.suspect)
    decided = outcomes.join(outcomes.filter(is_open()), on=_KEY, how="anti")
    # Sent twice, the later one is there, unless it was refused.
    last = decided.sort(~refused, maintain_order=True).unique(_KEY, keep="last", maintain_order=True)
    run.ledger.record_imported_resources(datastore, run.key, last.filter(there))
    run.ledger.drop_resource_claims(datastore, run.key, last.filter(refused).select(_KEY))
    run.ledger.forget_resources(datastore, run.key, last.filter(~there & ~refused).select(_KEY))
    return last.filter(there)


def _there(run: Run, resources: pl.DataFrame, imported: pl.DataFrame) -> set[str]:
    """Return what of the resources is proven, as ``Type/id``: by this run's own jobs, or in the data store as it is."""
    known = pl.concat([_proven(run, resources), imported.select(_CONTENT)])
    proven = resources.join(known, on=_CONTENT, how="semi")
    return set(proven.select(pl.format("{}/{}", *_KEY)).to_series())
