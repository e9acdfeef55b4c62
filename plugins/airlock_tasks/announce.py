"""Announce: emit the events of Airflow's assets, chunk by chunk, and mark them in the ledger afterwards."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airlock_tasks.run import RunOperator
from airlock_tasks.settling import SettlingOperator

if TYPE_CHECKING:
    from collections.abc import Sequence

    from airflow.sdk import Context

    from airlock.pipelines import Pipeline
    from airlock.run import Run

COLLECT, ANNOUNCE, MARK = "collect_announcements", "announce", "mark_announced"


def add_announce_tasks(pipeline: Pipeline, folder: str = "") -> CollectAnnouncementsOperator:
    """Add the three tasks of a pipeline with ``asset`` routes to the open DAG; return the first."""
    collect = CollectAnnouncementsOperator(task_id=COLLECT, pipeline=pipeline, folder=folder)
    announce = AnnounceOperator.partial(
        task_id=ANNOUNCE,
        pipeline=pipeline,
        folder=folder,
        outlets=list_assets(pipeline),
        map_index_template="chunk {{ task.chunk }}",
    ).expand(chunk=collect.output)
    # It marks the chunks that were announced, whatever became of the others.
    mark = MarkAnnouncedOperator(task_id=MARK, pipeline=pipeline, folder=folder, trigger_rule="all_done")
    announce >> mark
    return collect


def list_assets(pipeline: Pipeline) -> list[Asset]:
    """Return the assets of a pipeline's routes."""
    return [Asset(route.asset.name) for route in pipeline.routes if route.asset]


class CollectAnnouncementsOperator(SettlingOperator):
    """Collects the subjects to announce in chunks, after they have settled; returns the chunks' names."""

    def run_stage(self, run: Run[Pipeline], context: Context) -> list[str]:
        """Return the names of the chunks.

        Raises
        ------
        TaskDeferred
            While releases settle.
        """
        from airlock.stages.announce import collect

        collected = collect(run)
        if collected.pause is not None and self.may_wait(context):
            raise self.pause(collected.pause)
        return collected.chunks


class AnnounceOperator(RunOperator):
    """Emits the asset events of one chunk, one per subject, with its key as partition.

    Airflow counts events only if their task succeeds: a destination of another route that is down must not suppress
    them.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    chunk
        The name of the chunk.
    outlets
        The assets of the pipeline's routes.
    **kwargs
        Of :class:`RunOperator`.
    """

    def __init__(self, *, pipeline: Pipeline, chunk: str, outlets: Sequence[Asset], **kwargs: Any) -> None:
        super().__init__(pipeline=pipeline, outlets=list(outlets), **kwargs)
        self.chunk = chunk

    def run_stage(self, run: Run[Pipeline], context: Context) -> int:
        """Return how many subjects were announced."""
        from airlock.stages.announce import read_chunk

        chunk = read_chunk(run, self.chunk)
        asset = Asset(chunk.asset)
        # Airflow emits an event of every outlet, so the assets of other chunks must not be outlets now.
        self.outlets = [asset]
        event = context["outlet_events"][asset]
        event.extra = {"pipeline": run.pipeline.name, "run_key": run.key}
        event.add_partitions(chunk.subject_keys)
        return len(chunk.subject_keys)


class MarkAnnouncedOperator(RunOperator):
    """Marks the chunks as sent whose tasks have succeeded; the others are announced again."""

    def run_stage(self, run: Run[Pipeline], context: Context) -> dict[str, int]:
        """Return how many subjects were announced, by asset.

        Raises
        ------
        AirflowSkipException
            If there was nothing to announce.
        AirflowFailException
            If some chunks were not announced; the others are marked.
        """
        from airlock.stages.announce import mark_announced

        instance = context["ti"]
        chunks: list[str] = instance.xcom_pull(task_ids=COLLECT) or []
        if not chunks:
            raise AirflowSkipException("Nothing was released that an asset route takes.")
        found = instance.get_task_states(dag_id=instance.dag_id, task_ids=[ANNOUNCE], run_ids=[instance.run_id])
        states = found.get(instance.run_id, {})
        done = [name for index, name in enumerate(chunks) if states.get(f"{ANNOUNCE}_{index}") == "success"]
        announced = mark_announced(run, done)
        if len(done) < len(chunks):
            raise AirflowFailException(
                f"{len(chunks) - len(done)} of {len(chunks)} chunks were not announced. See the log of {ANNOUNCE}, fix "
                f"the cause, and clear it with what follows it. The next run of the pipeline announces them too."
            )
        return announced
