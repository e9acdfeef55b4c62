"""Audit: prove, file by file, what arrived, and decide on every study."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from airflow.sdk.exceptions import AirflowFailException

from airlock_tasks.stage import StageOperator
from healthaws.hooks.healthimaging import HealthImagingHook

if TYPE_CHECKING:
    from airflow.sdk import Context

    from airlock.run import Run


class AuditOperator(StageOperator):
    """Reads every manifest, balances the books, decides release or hold; runs whatever became of the tasks before."""

    def run_stage(self, run: Run, context: Context) -> dict[str, Any]:
        """Return the report's address and counts.

        Raises
        ------
        AirflowFailException
            If the books do not balance; the report is written all the same, and everything is held.
        """
        from airlock.audit import audit

        store = run.pipeline.healthimaging
        imaging = HealthImagingHook(aws_conn_id=store.aws_conn_id, region_name=store.region_name).conn
        audited = audit(run, imaging)
        summary = {
            "report_uri": audited.report_uri,
            "dispositions_uri": audited.dispositions_uri,
            "balanced": audited.balanced,
            "open_arrivals": audited.open_arrivals,
            "arrivals": audited.report["arrivals"],
            "dispositions": audited.report["dispositions"],
            "studies": audited.report["studies"],
        }
        self.log.info("audit: %s", summary)
        if not audited.balanced:
            # Pushed by hand, since a failed task has no return value and the report is wanted most now.
            context["ti"].xcom_push(key="return_value", value=summary)
            problems = "; ".join(audited.report["problems"])
            raise AirflowFailException(f"the books do not balance, so everything is held: {problems}; see the report")
        return summary
