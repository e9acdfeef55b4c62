"""Route: send released contracts to their destinations, and tell the edge what became of its objects."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowException, AirflowFailException
from typing_extensions import override

from airlock.pipelines import ImagingPipeline
from airlock_tasks.destinations import connect, connect_edge
from airlock_tasks.run import PipelineT
from airlock_tasks.settling import SettlingOperator
from airlock_tasks.telemetry import note_ledger

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

    from airlock.run import Run
    from airlock.stages.route import Routed


class RouteOperator(SettlingOperator[PipelineT]):
    """Delivers the pipeline's released contracts through the ledger's outbox, after they have settled.

    Parameters
    ----------
    asset
        The asset that gets an event with the number of routed contracts.
    audited_by
        The task whose audit is the run's last.
    **kwargs
        Of :class:`SettlingOperator`.
    """

    def __init__(self, *, asset: Asset, audited_by: str = "audit", **kwargs: Any) -> None:
        super().__init__(outlets=[asset], **kwargs)
        self.asset = asset
        self.audited_by = audited_by

    def run_stage(self, run: Run[PipelineT], context: Context) -> dict[str, int]:
        """Return how many contracts were sent to each destination.

        Raises
        ------
        TaskDeferred
            While releases settle.
        AirflowFailException
            If the run left arrivals undecided; the released contracts are routed all the same.
        """
        from airlock.stages.route import route

        waits = self.may_wait(context)
        routed = route(run, connect(run), comes_again=waits)
        before = self.kept["sent"] if self.kept else {}
        sent = {name: number + before.get(name, 0) for name, number in routed.sent.items()}
        if routed.pause is not None and waits:
            raise self.pause(routed.pause, sent=sent)
        self._log(routed, sent)
        note_ledger(self.pipeline.name)
        context["outlet_events"][self.asset].extra = {"run_key": run.key, "contracts": sum(sent.values())}
        summary = context["ti"].xcom_pull(task_ids=self.audited_by)
        if summary["open_arrivals"]:
            raise AirflowFailException(
                f"{summary['open_arrivals']} arrivals are undecided because an earlier task failed. See the report, "
                f"fix the cause, and clear the failed task and everything after it."
            )
        return sent

    def _log(self, routed: Routed, sent: dict[str, int]) -> None:
        self.log.info(
            "Contracts sent: %s; waiting: %s; given up: %s; unrouted: %d.",
            sent,
            routed.waiting,
            routed.failed,
            routed.unrouted,
        )
        if routed.overtaken:
            self.log.warning(
                "%d contracts were not queued: their destination has a later revision of the same study or patient, or "
                "other content under the same revision. See docs/routing.md.",
                routed.overtaken,
            )
        if routed.gone:
            self.log.warning(
                "%d released contracts are no longer in the workspace, so no rule can be tested on them. Lengthen the "
                "bucket's lifecycle rules, and redrive their studies.",
                routed.gone,
            )
        if routed.without_route:
            self.log.warning(
                "Messages wait for destinations that no route names any more: %s. Restore the routes, or see "
                "docs/routing.md.",
                routed.without_route,
            )


class ImagingRouteOperator(RouteOperator[ImagingPipeline]):
    """Also tells the pipeline's edge, if it has one, which of its objects are imported, released or failed."""

    @override
    def run_stage(self, run: Run[ImagingPipeline], context: Context) -> dict[str, int]:
        """Tell the edge, then route; neither a queue that is down nor a connection that is gone delays a contract.

        Raises
        ------
        AirflowException
            If the edge's queue did not take every message: the next try sends the rest.
        """
        error = self._tell(run)
        sent = super().run_stage(run, context)
        if error is not None:
            raise AirflowException(
                f"The edge's queue did not take every message ({error}). Correct edge.queue_url, or the region or the "
                f"rights of edge.aws_conn_id; the next try, or the next run, sends the rest."
            )
        return sent

    def _tell(self, run: Run[ImagingPipeline]) -> str | None:
        """Tell the edge what it has not been told yet; return the code of the error that stopped this, if any."""
        from airlock.stages.edge import tell_edge
        from airlock.storage.aws import error_code

        if run.pipeline.edge is None:
            return None
        try:
            queue = connect_edge(run.pipeline.edge)
        except Exception as error:  # noqa: BLE001 - of any library below the connection; the contracts do not need it
            return error_code(error)
        told = tell_edge(run, queue)
        self.log.info("The edge is told about %d objects.", told.objects)
        if told.others:
            self.log.warning(
                "%d objects of the source have keys that no edge has given, so the edge is not told about them.",
                told.others,
            )
        return told.error
