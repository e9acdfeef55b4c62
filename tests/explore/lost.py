"""Histories in which somebody deletes image sets: a reconciliation names them, and a redrive imports them again.

What counts is that at rest, after a reconciliation and a redrive, the data store has all that was released.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from airlock.imaging.reconcile import ImageSetComparer
from airlock.imaging.reconcile_store import ImageSetStore
from airlock.pipelines import ImagingPipeline
from airlock.stages.decision_log import open_log
from airlock.stages.reconcile import Request, reconcile
from airlock.stages.reconcile_scope import STORE, ReconcileError, Scope
from airlock.stages.reconcile_source import Archive
from airlock.storage.requests import RequestMeter
from airlock.storage.s3 import S3
from airlock.storage.s3uri import S3Uri
from airlock.storage.workspace import Workspace
from tests.explore.history import Go, Lose, Reconcile, RunPlan
from tests.explore.pipelines import DATASTORE
from tests.explore.services import ImageSetReader

if TYPE_CHECKING:
    from random import Random

    from tests.explore.history import History, Step
    from tests.explore.play import Player

_FOUND = "found-"  # begins the names of the redrives at rest
_LISTED = (
    "SELECT image_set.id FROM image_set_version JOIN image_set ON image_set.id = image_set_id "
    "WHERE version = latest_version AND image_set.is_primary AND state = 'ACTIVE' "
    "ORDER BY study_uid, series_uid, image_set.id"
)


def lose(rng: Random, history: History) -> History:
    """Return a history of images in which image sets are deleted; maybe somebody compares and redrives in between."""
    steps, name = list(history.steps), next(iter(history.runs.values())).pipeline
    begun = next(at for at, step in enumerate(steps) if isinstance(step, Go)) + 1
    for _ in range(rng.choice((1, 1, 2))):
        cure: list[Step] = [Reconcile(name), Go("R")] if rng.random() < 0.5 else []
        at = rng.randint(begun, len(steps))
        steps[at:at] = [Lose(rng.randint(0, 9)), *cure]
    runs = history.runs | {"R": RunPlan(name, finds=True)}
    return replace(history, kind=f"lost {history.kind}", runs=runs, steps=tuple(steps))


def has_lost(history: History) -> bool:
    """Return whether somebody deletes an image set."""
    return any(isinstance(step, Lose) for step in history.steps)


class _NoMeter(RequestMeter):
    """A meter of clients that send nothing."""

    def attach(self, client: Any) -> None:
        """Count nothing."""


def lose_image_set(player: Player, step: Lose) -> None:
    """Delete one of the image sets that are in the data store."""
    services = player.outside.services
    there = [row["id"] for row in services.state.rows(_LISTED)]
    if there:
        services.imaging("DeleteImageSet", datastoreId=DATASTORE, imageSetId=there[step.number % len(there)])
        services.steps.do_all()
    player.say(f"  {min(len(there), 1)} of {len(there)} image sets deleted")


def compare(player: Player, step: Reconcile) -> None:
    """Compare the ledger with the data store of a pipeline of images."""
    pipeline = player.pipelines.get(step.pipeline)
    if not isinstance(pipeline, ImagingPipeline):
        return
    outside = player.outside
    s3 = S3(None, outside.s3)  # type: ignore[arg-type]  # no session: nothing opens another client
    store = ImageSetStore(ImageSetReader(outside.services), DATASTORE, _NoMeter())

    def open_workspace(name: str) -> Workspace:
        return Workspace(s3, S3Uri.parse(f"{pipeline.workspace}{pipeline.name}/{name}/"))

    kept = outside.ledger.journaled_in(open_log(s3, pipeline))
    comparer = ImageSetComparer(kept, pipeline, store, Archive(s3, _NoMeter()), open_workspace)
    request = Request(Scope(parts=(STORE,)), "an operator")
    try:
        done = reconcile(comparer, pipeline.name, request, lambda ended: ended)
    except ReconcileError as error:
        player.say(f"  refused: {str(error)[:100]}")
    else:
        player.say(f"  {done.counts.get('findings')} found, {done.counts.get('forgotten')} no longer count as stored")


def find_at_rest(player: Player) -> None:
    """Compare everything, and import again what the data store has lost."""
    if not has_lost(player.history):
        return
    for name, pipeline in player.pipelines.items():
        if isinstance(pipeline, ImagingPipeline):
            player.do(Reconcile(name))
            player.open_run(f"{_FOUND}{name}", RunPlan(name, finds=True))
            player.do(Go(f"{_FOUND}{name}"))
