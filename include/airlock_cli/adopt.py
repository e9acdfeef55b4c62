"""``airlock ledger adopt``: let runs import into a data store that others have filled."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from airlock.ledger import Adoption
from airlock.pipelines import ClinicalPipeline, ImagingPipeline
from airlock_cli import workspaces
from airlock_cli.caller import find_caller
from airlock_cli.errors import RequestError
from airlock_cli.ledgers import open_ledger
from airlock_cli.show import Table, say
from airlock_cli.stores import connect, connect_fhir, translate_errors

if TYPE_CHECKING:
    from collections.abc import Iterator

    from boto3 import Session

    from airlock.pipelines import HealthImaging, HealthLake, Pipeline
    from airlock.stages.adopt import StoreSearch

SCHEMA = "airlock.adopt/1"


def adopt(datastore_id: str, why: str, *, dry_run: bool) -> dict[str, Any]:
    """Record what a data store holds as foreign and open it to runs, or only say how much it holds; schema `SCHEMA`.

    Raises
    ------
    RequestError
        If no pipeline names the data store, there is no reason, or runs may import into it already.
    UnreachableError
        If the service refuses or does not answer.
    """
    from boto3 import Session  # noqa: PLC0415  # slow to import

    from airlock.stages import adopt as stage  # noqa: PLC0415  # only this command needs it
    from airlock.stages.decision_log import open_log  # noqa: PLC0415

    if not dry_run and not why.strip():
        raise RequestError("--why is empty. Give a reason: the decision log keeps it.")
    pipeline = _find_pipeline(datastore_id)
    person = find_caller()
    advice = f"Check your AWS credentials, and the region of the pipeline {pipeline.name!r}. What was recorded stays: "
    with translate_errors(f"{advice}the same command goes on."), open_ledger() as ledger:
        search = connect_search(pipeline, datastore_id, Session())
        estimate = search.estimate()
        say(estimate.describe(search.requests_per_second))
        known = ledger.find_store(datastore_id)
        result = {"schema": SCHEMA, "datastore_id": datastore_id, "expected": estimate.objects, "adopted": False}
        if dry_run or (not estimate.objects and known is None):
            note = "" if known is None else f"It is {known.origin.value} since {known.known_at:%Y-%m-%d %H:%M}Z."
            return result | {"note": note or _describe_unknown(estimate.objects)}
        with workspaces.open_s3(pipeline) as store:
            kept = ledger.journaled_in(open_log(store, pipeline))
            found = stage.adopt(
                *(kept, datastore_id, search), lambda: Adoption(person, why.strip(), datetime.now(UTC)), say
            )
        return result | {"adopted": True, "foreign": found, "note": f"Adopted by {person}. Runs may import into it."}


def _describe_unknown(objects: int) -> str:
    if not objects:
        return "A search finds nothing in it, so runs may import into it. Nothing is to be adopted."
    return "Nothing was recorded. Runs stop before they import into it, until it is adopted."


def _find_pipeline(datastore_id: str) -> Pipeline:
    """Return a pipeline that names the data store; its section has the region."""
    known = workspaces.load_all_pipelines()
    for pipeline in known.values():
        if any(store.datastore_id == datastore_id for store in list_stores(pipeline)):
            return pipeline
    raise RequestError(
        f"No valid pipeline file names the data store {datastore_id!r}. Check the files: airlock pipelines check"
    )


def list_stores(pipeline: Pipeline) -> Iterator[HealthImaging | HealthLake]:
    """Yield the sections of the data stores that a pipeline imports into."""
    if isinstance(pipeline, ImagingPipeline):
        yield pipeline.healthimaging
    if isinstance(pipeline, ImagingPipeline | ClinicalPipeline) and pipeline.healthlake is not None:
        yield pipeline.healthlake


def connect_search(pipeline: Pipeline, datastore_id: str, session: Session, **options: Any) -> StoreSearch:
    """Return the search of a data store that the pipeline names.

    Parameters
    ----------
    pipeline, datastore_id
        The pipeline and the data store.
    session
        boto3's credentials.
    options
        Those of `boto3.Session.client`, such as ``endpoint_url``.
    """
    from airlock.clinical.adopt import AllResources  # noqa: PLC0415
    from airlock.imaging.adopt import ImageSets  # noqa: PLC0415
    from airlock.storage.requests import RequestMeter  # noqa: PLC0415

    (store,) = (store for store in list_stores(pipeline) if store.datastore_id == datastore_id)
    options["region_name"] = store.region_name
    if isinstance(pipeline, ImagingPipeline) and store is pipeline.healthimaging:
        return ImageSets(connect(session, "medical-imaging", **options), datastore_id)
    return AllResources(connect_fhir(session, datastore_id, RequestMeter(), **options))


def tables(found: dict[str, Any]) -> Iterator[Table]:
    """Yield the table of a result of `adopt`."""
    names = [name for name in ("expected", "foreign", "adopted", "note") if name in found]
    yield Table(f"data store {found['datastore_id']}", ("", ""), [(name, found[name]) for name in names])
