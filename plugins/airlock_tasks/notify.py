"""Notify: tell people of holds, failures and late deliveries, by Airflow's own notifiers.

A text has the pipeline, the run, counts and reason codes, and never an identifier. A notifier that fails is logged and
counted (metric ``airlock.notify.failed``) and fails nothing: whoever it would have told finds the same in the UI.
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
from airflow.sdk.observability.stats import Stats

from airlock.reasons import Reason

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from airflow.sdk import Context
    from airflow.sdk.bases.notifier import BaseNotifier

    from airlock.pipelines import ClinicalPipeline, Event, ImagingPipeline, Notify

    Notifying = ImagingPipeline | ClinicalPipeline

FAILED = "airlock.notify.failed"  # the metric
_AWS_DEFAULT = "aws_default"  # need not be there: boto3 then has credentials of its own
_TOLD = "told"  # beginning of a key of the task state store
_log = logging.getLogger(__name__)


def check_connections(pipeline: Notifying) -> None:
    """Refuse a place without its connection when the run begins, not when there is something to tell.

    Raises
    ------
    AirflowFailException
        With the connection and the field that names it.
    """
    for number, place in enumerate(pipeline.notify):
        if place.connection == _AWS_DEFAULT:
            continue
        try:
            BaseHook.get_connection(place.connection)
        except AirflowNotFoundException:
            raise AirflowFailException(
                f"there is no Airflow connection {place.connection!r}: make it, or correct notify.{number}.conn_id of "
                f"the pipeline {pipeline.name!r}"
            ) from None


def tell(pipeline: Notifying, event: Event, run_id: str, what: str) -> None:
    """Tell every place that wants to know of the event.

    Parameters
    ----------
    pipeline, event, run_id
        Whose run, and what kind of news.
    what
        Counts and reason codes, in words.
    """
    subject = f"Airlock {pipeline.name}: {event}"
    text = f"{subject}\nRun: {run_id}\n{what}\n{_link(pipeline.name, run_id)}".rstrip()
    for place in pipeline.notify:
        if event not in place.events:
            continue
        try:
            # As it is: not through its templates, and so nothing of the text is rendered.
            notifier(place, subject, text).notify({})
        except Exception as error:  # noqa: BLE001  (whatever a provider raises)
            Stats.incr(FAILED, tags={"pipeline": pipeline.name, "kind": place.kind})
            # Without the message: it may repeat what was sent, or the connection's secrets.
            _log.error("%s by %s was not told: %s", event, place.kind, type(error).__name__)
        else:
            _log.info("%s was told by %s", event, place.kind)


def tell_once(pipeline: Notifying, event: Event, context: Context, what: str) -> None:
    """Tell of an event once in a run, however often the task is tried or cleared."""
    store = context["task_state_store"]
    key = f"{_TOLD}_{event}"
    if store.get(key, ""):
        return
    store.set(key, _TOLD)
    tell(pipeline, event, str(context["run_id"]), what)


def on_failure(pipeline: Notifying) -> Callable[[Context], None] | None:
    """Return what Airflow's DAG processor calls when a run has failed; None where nobody wants to know."""
    if not any("failure" in place.events for place in pipeline.notify):
        return None
    return partial(_tell_failure, pipeline)


def _tell_failure(pipeline: Notifying, context: Context) -> None:
    last: Any = context.get("ti")
    task = f"The last task was {last.task_id}. " if last else ""
    tell(pipeline, "failure", str(context["run_id"]), f"{task}See its log and the report in the UI.")


def held_words(report: Mapping[str, Any], *, published: bool) -> str:
    """Say how much a run holds and why; empty where it holds nothing.

    Parameters
    ----------
    report
        The run's report.
    published
        Whether the run's publication has been audited: what only waits for that is not worth a word before.
    """
    counts = {
        code: next(n for name, n in entry.items() if name != "sentence") for code, entry in report["reasons"].items()
    }
    held = report["dispositions"].get("held", 0)
    if not published:
        held -= counts.pop(str(Reason.NOT_PUBLISHED), 0)
    if held <= 0:
        return ""
    codes = ", ".join(f"{code} {number}" for code, number in counts.items())
    return f"Held: {held}. By reason code, with what was set aside: {codes}."


def notifier(place: Notify, subject: str, text: str) -> BaseNotifier:
    """Return Airflow's notifier for a place; its provider is imported only now."""
    aws: dict[str, Any] = {"aws_conn_id": place.connection, "region_name": place.region_name}
    if place.sns:
        from airflow.providers.amazon.aws.notifications.sns import SnsNotifier

        return SnsNotifier(target_arn=place.sns, subject=subject, message=text, **aws)
    if place.sqs:
        from airflow.providers.amazon.aws.notifications.sqs import SqsNotifier

        return SqsNotifier(queue_url=place.sqs, message_body=text, **aws)
    if place.email:
        from airflow.providers.smtp.notifications.smtp import SmtpNotifier

        body = f"<pre>{html.escape(text)}</pre>"
        return SmtpNotifier(to=list(place.email), subject=subject, html_content=body, smtp_conn_id=place.connection)
    from airflow.providers.slack.notifications.slack import SlackNotifier

    return SlackNotifier(slack_conn_id=place.connection, channel=str(place.slack), text=text)


def _link(dag_id: str, run_id: str) -> str:
    base = conf.get("api", "base_url", fallback="")
    return f"{base.rstrip('/')}/dags/{dag_id}/runs/{quote(run_id, safe='')}" if base else ""
