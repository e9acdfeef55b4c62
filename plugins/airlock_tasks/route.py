"""Route: send released contracts to their destinations, and tell Airflow's assets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk import Asset
from airflow.sdk.exceptions import AirflowFailException, AirflowSkipException

from airlock_tasks.destinations import connect
from airlock_tasks.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.pipelines import Pipeline
    from airlock.run import Run


class RouteOperator(StageOperator):
    """Delivers the contracts that were released through the ledger's outbox.

    Parameters
    ----------
    asset
        The asset that gets an event with the number of routed contracts.
    audited_by
        The task whose audit is the last.
    **kwargs
        Of :class:`StageOperator`.
    """

    def __init__(self, *, asset: Asset, audited_by: str = "audit", **kwargs: Any) -> None:
        super().__init__(outlets=[asset], **kwargs)
        self.asset = asset
        self.audited_by = audited_by

    def run_stage(self, run: Run[Pipeline], context: Context) -> dict[str, int]:
        """Return the number of contracts sent by destination.

        Raises
        ------
        AirflowFailException
            If the run left arrivals undecided: what was released is routed, and the run is shown as failed.
        """
        from airlock.stages.route import route
        from airlock.stages.route_queue import queue_contracts

        try:
            destinations = connect(run)
        except AirflowFailException:
            queue_contracts(run)  # so that the next run sends what this one released, though nobody clears the task
            raise
        routed = route(run, destinations)
        self.log.info(
            "contracts sent: %s; waiting: %s; given up: %s; unrouted: %d",
            routed.sent,
            routed.waiting,
            routed.failed,
            routed.unrouted,
        )
        if routed.without_route:
            self.log.warning(
                "messages wait for destinations that no route leads to any more: %s; bring the routes back, or see "
                "docs/routing.md",
                routed.without_route,
            )
        context["outlet_events"][self.asset].extra = {"run_key": run.key, "contracts": sum(routed.sent.values())}
        summary = context["ti"].xcom_pull(task_ids=self.audited_by)
        if summary["open_arrivals"]:
            raise AirflowFailException(
                f"{summary['open_arrivals']} arrivals are not decided, since a task before failed: "
                f"see the report, cure the cause, and clear the failed task with all that follows"
            )
        return routed.sent


class AnnounceOperator(StageOperator):
    """Emits the asset events of a pipeline's ``asset`` routes, one per subject, with its key as partition.

    It runs beside route: events count only when their task succeeds, and another route's destination that is down
    must not keep them back.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    **kwargs
        Of :class:`StageOperator`.
    """

    def __init__(self, *, pipeline: Pipeline, **kwargs: Any) -> None:
        self.assets = {route.asset.name: Asset(route.asset.name) for route in pipeline.routes if route.asset}
        super().__init__(pipeline=pipeline, outlets=list(self.assets.values()), **kwargs)

    def run_stage(self, run: Run[Pipeline], context: Context) -> dict[str, int]:
        """Return the number of subjects by asset.

        Raises
        ------
        AirflowSkipException
            If there is none: a task that succeeds makes an event of each of its outlets, without a partition.
        """
        from airlock.stages.route import announce

        told = {name: subject_keys for name, subject_keys in announce(run).items() if subject_keys}
        if not told:
            raise AirflowSkipException("nothing was released that an asset is told of")
        # Airflow makes an event of every outlet, of one that is told of nothing without a partition.
        self.outlets = [self.assets[name] for name in told]
        for name, subject_keys in told.items():
            event = context["outlet_events"][self.assets[name]]
            event.extra = {"pipeline": run.pipeline.name, "run_key": run.key}
            event.add_partitions(subject_keys)
        return {name: len(subject_keys) for name, subject_keys in told.items()}
