"""Publication: released studies as FHIR into HealthLake, imported and audited like any clinical delivery, before route.

A second chain of stages within an imaging run, in its workspace's folder ``fhir``: normalize, import, audit. What was
published with the same content before is not sent again; a study counts as published when every resource of it is
proven in the data store.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.clinical.audit import account_batches
from airlock.clinical.normalize import pieces_of, stage
from airlock.clinical.resources import content_digest
from airlock.clinical.validate import is_begun
from airlock.contracts import StudyContract
from airlock.fhir.imaging_study import line
from airlock.fhir.publishing import publishing
from airlock.fhir.study import publication, references
from airlock.normalize import Batch, find_batches
from airlock.records import CONTRACTS, OUTCOMES, Outcome

if TYPE_CHECKING:
    from collections.abc import Iterable

    from airlock.fhir.publishing import Publishing
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
PUBLISHED = pl.Schema({"study_key": pl.String, "published": pl.Boolean})
_KEY = ["resource_type", "resource_id"]


class PublicationBusyError(RuntimeError):
    """Another run is publishing one of the same resources; a retry finds it done."""


def normalize(run: Run) -> list[Batch]:
    """Write the import files of what is to be published; once a job was begun, the files stand.

    Raises
    ------
    PublicationBusyError
        If another run holds one of the resources.
    """
    leg, store = run.within(FOLDER), _store(run)
    if is_begun(leg):
        return find_batches(leg)
    resources = _resources(run)
    leg.workspace.write("resources", RESOURCES, resources)
    new = resources.join(_proven(run, resources, except_run=run.key), on=[*_KEY, "content_digest"], how="anti")
    claims = new.select("arrival_id", *_KEY, "content_digest")
    taken = run.ledger.claim_resources(store.datastore_id, run.pipeline.name, run.key, claims)
    if taken.height:
        raise PublicationBusyError(
            f"{taken.height} resources are being published by another run: this task tries again; if that run has "
            f"broken off, clear its failed task, or give its claims back with: python -m airlock.ledger release"
        )
    return stage(leg, store, new, pieces_of)


def audit(run: Run) -> dict[str, int]:
    """Account for every resource that was sent, and say which studies are proven; return how many are and are not."""
    leg, store = run.within(FOLDER), _store(run)
    accounts = account_batches(leg)
    there = (pl.col("outcome") == Outcome.IMPORTED) & ~pl.col("batch_id").is_in(accounts.suspect)
    imported, missing = accounts.outcomes.filter(there), accounts.outcomes.filter(~there)
    run.ledger.record_imported_resources(
        store.datastore_id, run.key, imported.select("arrival_id", *_KEY, "content_digest", "batch_id")
    )
    run.ledger.drop_resource_claims(store.datastore_id, run.key, missing.select(_KEY))
    published = _published(run, leg.workspace.find("resources", RESOURCES), imported)
    leg.workspace.write("published", PUBLISHED, published)
    proven = int(published["published"].sum())
    return {"published": proven, "not_published": published.height - proven}


def published_studies(run: Run) -> set[str]:
    """Return the study keys of what is proven to be published; none before the publication was audited."""
    rows = run.within(FOLDER).workspace.find("published", PUBLISHED)
    return set(rows.filter("published")["study_key"])


def _store(run: Run) -> HealthLake:
    store = run.pipeline.healthlake
    if store is None:
        raise ValueError(f"pipeline {run.pipeline.name!r} publishes nothing: it has no healthlake section")
    return store


def _settings(run: Run) -> Publishing:
    return publishing(run.pipeline, _store(run))


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
    rows = [_row(resource, bringer) for resource in publication(contracts, settings, _earlier(run, contracts))]
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
    named = references(contract, settings)
    order = named["ServiceRequest"]
    return [named["Patient"], named["ImagingStudy"], *named["Endpoint"], *([order] if order else [])]


def _row(resource: dict[str, Any], bringer: dict[str, str]) -> dict[str, Any]:
    body = line(resource)
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
    return known.select(*_KEY, "content_digest")


def _published(run: Run, resources: pl.DataFrame, imported: pl.DataFrame) -> pl.DataFrame:
    """Say of each study whether all of it is proven: by this run's own jobs, or in the data store as it is."""
    settings = _settings(run)
    proven = resources.join(_proven(run, resources), on=[*_KEY, "content_digest"], how="semi")
    there = set(pl.concat([frame.select(pl.format("{}/{}", *_KEY)) for frame in (proven, imported)]).to_series())
    rows = [(one.study_key, there.issuperset(_names(one, settings))) for one in _contracts(run)]
    return pl.DataFrame(rows, schema=PUBLISHED, orient="row")
