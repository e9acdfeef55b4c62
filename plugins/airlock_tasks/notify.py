"""Notify: tell people about holds, failures and late deliveries, through Airflow's own notifiers.

A text has the pipeline, the run, counts and reason codes, and never an identifier. A notifier that fails is logged and
sets the metric ``airlock.notify.failed``, and does not fail the task: the UI shows the same facts.
"""

from __future__ import annotations

import html
import logging
from functools import partial
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airflow.sdk import BaseHook
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException

from airlock.reasons import Reason
from airlock_tasks.telemetry import note_failed_notification

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.sdk import Context
    from airflow.sdk.bases.notifier import BaseNotifier

    from airlock.pipelines import ClinicalPipeline, Event, ImagingPipeline, Notify

    Notifying = ImagingPipeline | ClinicalPipeline

_AWS_DEFAULT = "aws_default"  # may be missing: the amazon provider then uses boto3's own credentials
_TOLD = "told"  # prefix of the keys in the task state store
_log = logging.getLogger(__name__)


def check_connections(pipeline: Notifying) -> None:
    """Refuse a notification target without its connection when the run begins, not when there is news.

    Raises
    ------
    AirflowFailException
        With the connection and the field that names it.
    """
    for number, target in enumerate(pipeline.notify):
        if target.connection == _AWS_DEFAULT:
            continue
        try:
            BaseHook.get_connection(target.connection)
        except AirflowNotFoundException:
            raise AirflowFailException(
                f"There is no Airflow connection {target.connection!r}. Create it, or correct notify.{number}.conn_id "
                f"of the pipeline {pipeline.name!r}."
            ) from None


def send_notifications(pipeline: Notifying, event: Event, run_id: str, what: str, dag_id: str | None = None) -> bool:
    """Notify every target that subscribes to the event.

    Parameters
    ----------
    pipeline, event, run_id
        The run, and the kind of news.
    what
        The news: counts and reason codes, in words.
    dag_id
        Of the run; by default the pipeline's own DAG.

    Returns
    -------
    bool
        Whether at least one target has taken it.
    """
    taken = False
    subject = f"Airlock {pipeline.name}: {event}"
    text = f"{subject}\nRun: {run_id}\n{what}\n{_link(dag_id or pipeline.name, run_id)}".rstrip()
    for target in pipeline.notify:
        if event not in target.events:
            continue
        try:
            # An empty context, so that Airflow renders no template in the text.
            make_notifier(target, subject, text).notify({})
        except Exception as error:  # noqa: BLE001  (whatever a provider raises)
            note_failed_notification(pipeline.name, target.kind)
            # Without the error's message, which may repeat the text or the connection's secrets.
            _log.error("Notification of %s by %s failed: %s.", event, target.kind, type(error).__name__)
        else:
            taken = True
            _log.info("Sent a notification of %s by %s.", event, target.kind)
    return taken


def notify_once(pipeline: Notifying, event: Event, context: Context, what: str, about: str = "") -> None:
    """Notify people of an event once in a run, even if the task is retried or cleared; once of each *about*."""
    store = context["task_state_store"]
    key = f"{_TOLD}_{event}{about}"
    if store.get(key, ""):
        return
    store.set(key, _TOLD)
    send_notifications(pipeline, event, str(context["run_id"]), what, _dag_id(context))


def on_failure(pipeline: Notifying) -> Callable[[Context], None] | None:
    """Return the callback for a failed run; None if no target subscribes to failures."""
    if not any("failure" in target.events for target in pipeline.notify):
        return None
    return partial(_notify_of_failure, pipeline)


def _notify_of_failure(pipeline: Notifying, context: Context) -> None:
    last: Any = context.get("ti")
    task = f"The last task was {last.task_id}. " if last else ""
    send_notifications(
        pipeline, "failure", str(context["run_id"]), f"{task}See its log and the report in the UI.", _dag_id(context)
    )


def _dag_id(context: Context) -> str | None:
    found = getattr(context.get("dag_run"), "dag_id", None)
    return found if isinstance(found, str) else None


def describe_holds(report: Mapping[str, Any], *, published: bool) -> str:
    """Return a sentence about how much a run holds and why; empty if it holds nothing.

    Parameters
    ----------
    report
        The run's report.
    published
        Whether the run's publication has been audited; before, studies that only wait for it do not count.
    """
    from airlock.stages.reporting import describe_unattributed

    counts = {
        code: next(n for name, n in entry.items() if name != "sentence") for code, entry in report["reasons"].items()
    }
    held = report["dispositions"].get("held", 0)
    if not published:
        held -= counts.pop(str(Reason.NOT_PUBLISHED), 0)
    if held <= 0:
        return ""
    codes = ", ".join(f"{code} {number}" for code, number in counts.items())
    return " ".join([f"Held: {held}. Held and set aside, by reason code: {codes}.", *describe_unattributed(report)])


def describe_overdue(report: Mapping[str, Any]) -> str:
    """Return a sentence about objects that have become overdue since the last notification; empty without any."""
    owed = report.get("owed")
    if not owed or not owed["untold"]:
        return ""
    codes = ", ".join(f"{code} {entry['overdue']}" for code, entry in owed["reasons"].items() if entry["overdue"])
    return f"Overdue: {owed['overdue']} objects could not be taken, {owed['untold']} of them new. By reason: {codes}."


def describe_waited(report: Mapping[str, Any]) -> str:
    """Return a line for each type and site of resources that have waited too long for others; empty without any."""
    lines = []
    for row in report.get("waited_too_long", ()):
        site = f" of site {row['site']}" if row["site"] else ""
        lines.append(f"Waited too long: {row['resources']} {row['resource_type']}{site} ({row['detail']}).")
    return "\n".join(lines)


def make_notifier(target: Notify, subject: str, text: str) -> BaseNotifier:
    """Return Airflow's notifier for a target; import its provider only now."""
    aws: dict[str, Any] = {"aws_conn_id": target.connection, "region_name": target.region_name}
    if target.sns:
        from airflow.providers.amazon.aws.notifications.sns import SnsNotifier

        return SnsNotifier(target_arn=target.sns, subject=subject, message=text, **aws)
    if target.sqs:
        from airflow.providers.amazon.aws.notifications.sqs import SqsNotifier

        return SqsNotifier(queue_url=target.sqs, message_body=text, **aws)
    if target.email:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        body = f"<pre>{html.escape(text)}</pre>"
        return SmtpNotifier(to=list(target.email), subject=subject, html_content=body, smtp_conn_id=target.connection)
    from airflow.providers.slack.notifications.slack import SlackNotifier

    return SlackNotifier(slack_conn_id=target.connection, channel=str(target.slack), text=text)


def _link(dag_id: str, run_id: str) -> str:
    base = conf.get("api", "base_url", fallback="")
    return f"{base.rstrip('/')}/dags/{dag_id}/runs/{quote(run_id, safe='')}" if base else ""
