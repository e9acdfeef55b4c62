"""Route: send released contracts to their destinations, and tell Airflow's assets."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from airlock_tasks.destinations import connect
from airlock_tasks.stage import StageOperator

if TYPE_CHECKING:
    from airflow.sdk import Asset, Context

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

    def run_stage(self, run: Run, context: Context) -> dict[str, int]:
        """Return the number of contracts sent by destination.

        Raises
        ------
        AirflowFailException
            If the run left arrivals undecided: what was released is routed, and the run is shown as failed.
        """
        from airlock.route import route

        routed = route(run, connect(run))
        self.log.info(
            "contracts sent: %s; waiting: %s; given up: %s; unrouted: %d",
            routed.sent,
            routed.waiting,
            routed.failed,
            routed.unrouted,
        )
        context["outlet_events"][self.asset].extra = {"run_key": run.key, "contracts": sum(routed.sent.values())}
        summary = context["ti"].xcom_pull(task_ids=self.audited_by)
        if summary["open_arrivals"]:
            raise AirflowFailException(
                f"{summary['open_arrivals']} arrivals are not decided, since a task before failed: "
                f"see the report, cure the cause, and clear the failed task with all that follows"
            )
        return routed.sent
