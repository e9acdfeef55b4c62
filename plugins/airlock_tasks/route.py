"""Route: send released contracts to their destinations, and emit events of Airflow's assets."""

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
    """Delivers released contracts through the ledger's outbox.

    Parameters
    ----------
    asset
        The asset that gets an event with the number of routed contracts.
    audited_by
        The task whose audit is the run's last.
    **kwargs
        Of :class:`StageOperator`.
    """

    def __init__(self, *, asset: Asset, audited_by: str = "audit", **kwargs: Any) -> None:
        super().__init__(outlets=[asset], **kwargs)
        self.asset = asset
        self.audited_by = audited_by

    def run_stage(self, run: Run[Pipeline], context: Context) -> dict[str, int]:
        """Return how many contracts were sent to each destination.

        Raises
        ------
        AirflowFailException
            If the run left arrivals undecided; the released contracts are routed all the same.
        """
        from airlock.stages.route import route
        from airlock.stages.route_queue import queue_contracts

        try:
            destinations = connect(run)
        except AirflowFailException:
            queue_contracts(run)  # so that the next run sends these contracts even if nobody clears this task
            raise
        routed = route(run, destinations)
        self.log.info(
            "Contracts sent: %s; waiting: %s; given up: %s; unrouted: %d.",
            routed.sent,
            routed.waiting,
            routed.failed,
            routed.unrouted,
        )
        if routed.without_route:
            self.log.warning(
                "Messages wait for destinations that no route names any more: %s. Restore the routes, or see "
                "docs/routing.md.",
                routed.without_route,
            )
        context["outlet_events"][self.asset].extra = {"run_key": run.key, "contracts": sum(routed.sent.values())}
        summary = context["ti"].xcom_pull(task_ids=self.audited_by)
        if summary["open_arrivals"]:
            raise AirflowFailException(
                f"{summary['open_arrivals']} arrivals are undecided because an earlier task failed. See the report, "
                f"fix the cause, and clear the failed task and everything after it."
            )
        return routed.sent


class AnnounceOperator(StageOperator):
    """Emits the asset events of a pipeline's ``asset`` routes, one per subject, with its key as partition.

    It is a task of its own, because Airflow counts events only if their task succeeds: a destination of another route
    that is down must not suppress them.

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
        """Return how many subjects were announced to each asset.

        Raises
        ------
        AirflowSkipException
            If there is none: success would emit an event of each outlet, without a partition.
        """
        from airlock.stages.route import announce

        announced = {name: subject_keys for name, subject_keys in announce(run).items() if subject_keys}
        if not announced:
            raise AirflowSkipException("Nothing was released that an asset route takes.")
        # Airflow emits an event of every outlet, so an asset without subjects must not be one.
        self.outlets = [self.assets[name] for name in announced]
        for name, subject_keys in announced.items():
            event = context["outlet_events"][self.assets[name]]
            event.extra = {"pipeline": run.pipeline.name, "run_key": run.key}
            event.add_partitions(subject_keys)
        return {name: len(subject_keys) for name, subject_keys in announced.items()}
