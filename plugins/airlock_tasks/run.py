"""The base of the operators of all stages: it opens the run that a task is part of."""

from __future__ import annotations

import os
from abc import abstractmethod
from datetime import datetime
from typing import TYPE_CHECKING, Any, ClassVar, Generic

from airflow.sdk import BaseHook, BaseOperator
from airflow.sdk.configuration import conf
from airflow.sdk.exceptions import AirflowFailException, AirflowNotFoundException, AirflowSkipException
from typing_extensions import TypeVar

from airlock.pipelines import REVIEW_SUFFIX, Pipeline
from airlock_tasks.datastores import with_region
from airlock_tasks.telemetry import timed
from healthaws.exceptions import fail_without_retry
from healthaws.hooks.aws import AwsHook

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airflow.sdk import Context

    from airlock.records import Window
    from airlock.run import RedriveRequest, Run, WaveOf
    from airlock.storage.protection import BucketProtection
    from airlock.storage.s3 import S3

PipelineT = TypeVar("PipelineT", bound=Pipeline, default=Pipeline)

# The params that a run's conf may have.
PARAMS = frozenset(
    {
        *("prefix", "window_start", "window_end", "plan_only"),
        *("redrive_run", "redrive_study", "redrive_reasons", "redrive_site", "redrive_csv"),
        *("redrive_findings", "redrive_non_primary", "redrive_why", "redrive_by"),
        *("wave", "wave_of"),
    }
)
LEDGER_CONNECTION = "airlock_ledger"
LEDGER_VARIABLE = "AIRLOCK_LEDGER_URL"
POD_VARIABLE = "AIRFLOW_IS_K8S_EXECUTOR_POD"  # the KubernetesExecutor sets it in each pod
REMIND = "remind"  # its first task, which names the run whose answers are applied
CONNECTIONS = 256  # in a client's pool: the most requests that a stage has in flight, see staging.copies_in_flight


def connect_s3(aws_conn_id: str, buckets: Mapping[str, BucketProtection] | None = None) -> S3:
    """Open S3 with an Airflow connection's credentials, endpoint and region.

    Parameters
    ----------
    aws_conn_id
        The connection.
    buckets
        The key and the owner of each bucket, as ``Pipeline.bucket_settings`` returns them.
    """
    from airlock.storage.s3 import S3

    hook = AwsHook(aws_conn_id=aws_conn_id, client_type="s3")
    return S3(hook.get_session(), client_of(hook), buckets)


def client_of(hook: AwsHook) -> Any:
    """Return a hook's client with a connection for each thread of a stage; botocore's default keeps only ten."""
    from botocore.config import Config

    kept = max(CONNECTIONS, hook.config.max_pool_connections)
    config = hook.config.merge(Config(max_pool_connections=kept))
    return hook.get_client_type(region_name=hook.region_name, config=config)


def ledger_url() -> str:
    """Return the ledger's SQLAlchemy URL: from the connection ``airlock_ledger``, else from ``AIRLOCK_LEDGER_URL``.

    Raises
    ------
    AirflowFailException
        If neither exists, or it is a SQLite file and tasks do not run on the scheduler's machine.
    """
    url = _find_ledger_url()
    if not url:
        raise AirflowFailException(
            f"No ledger is configured. Define the Airflow connection {LEDGER_CONNECTION!r} or the environment variable "
            f"{LEDGER_VARIABLE}, a SQLAlchemy URL such as postgresql+psycopg2://user@host/airlock."
        )
    if url.startswith("sqlite") and not _runs_tasks_here():
        raise AirflowFailException(
            f"The ledger is a SQLite file, and the executor {_name_executors()!r} runs tasks on other machines: each "
            f"would have a ledger of its own. Set the connection {LEDGER_CONNECTION!r} or {LEDGER_VARIABLE} to a "
            "PostgreSQL database."
        )
    return url


def _find_ledger_url() -> str | None:
    try:
        return str(BaseHook.get_connection(LEDGER_CONNECTION).get_uri())
    except AirflowNotFoundException:
        return os.environ.get(LEDGER_VARIABLE)


def _runs_tasks_here() -> bool:
    """Return whether all executors run their tasks on the scheduler's machine; a pod's own setting may name another."""
    from airlock.stages.doctor.airflow_settings import are_local_executors

    return POD_VARIABLE not in os.environ and are_local_executors(_name_executors())


def _name_executors() -> str:
    return str(conf.get("core", "executor"))


def run_window(context: Context, *, sweep: bool = False) -> Window | None:
    """Return the window of a run: that of its params, else its data interval; None if it takes every object.

    Without a window in the params, a run that a person or an event started takes every object below its prefix.

    Parameters
    ----------
    context
        The task's context.
    sweep
        Whether scheduled runs take every object too: they find objects of any age that no event announced.
    """
    from airlock.records import Window

    params = context["params"]
    unknown = sorted(set(params) - PARAMS)
    if unknown:
        raise AirflowFailException(
            f"The run's conf has unknown params: {', '.join(unknown)}. Use {', '.join(sorted(PARAMS))}."
        )
    start, end = params.get("window_start"), params.get("window_end")
    if bool(start) != bool(end):
        raise AirflowFailException("window_start and window_end belong together. Give both or neither.")
    if start and end:
        window = Window(_moment("window_start", start), _moment("window_end", end))
        if window.start >= window.end:
            raise AirflowFailException("window_start must be before window_end.")
        return window
    dag_run: Any = context["dag_run"]
    by_interval = {"backfill"} if sweep else {"scheduled", "backfill"}
    if dag_run.run_type not in by_interval or dag_run.data_interval_start is None:
        return None
    return Window(dag_run.data_interval_start, dag_run.data_interval_end)


def _moment(name: str, text: str) -> datetime:
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise AirflowFailException(f"{name} is not a date and time. Write it as 2026-11-24T00:00:00+00:00.") from None
    if moment.tzinfo is None:
        raise AirflowFailException(f"{name} has no time zone. Write it as 2026-11-24T00:00:00+00:00.")
    return moment


def _check_days(pipeline: Pipeline, window: Window | None, context: Context) -> None:
    """Refuse a person's window that holds no whole day where keys have days: the run would take nothing.

    Raises
    ------
    AirflowFailException
        With the time zone of the days.
    """
    from airlock.stages.windows import owns_a_day

    by_key_date = pipeline.source.window == "key_date" and context["params"].get("window_start")
    if window is not None and by_key_date and not owns_a_day(window, pipeline.schedule):
        raise AirflowFailException(
            f"No day of {pipeline.schedule.timezone} ends between window_start and window_end, so no key date belongs "
            f"to the window. Give whole days of that time zone, from midnight to midnight."
        )


def is_plan(context: Context) -> bool:
    """Return whether the run is a plan, which ends after normalize.

    Raises
    ------
    AirflowFailException
        If the run is also a redrive.
    """
    if not context["params"].get("plan_only"):
        return False
    redrive = sorted(name for name, value in context["params"].items() if name.startswith("redrive_") and value)
    if redrive:
        raise AirflowFailException(f"A redrive cannot be planned. Leave out plan_only, or {', '.join(redrive)}.")
    return True


def redrive_request(pipeline: Pipeline, context: Context) -> RedriveRequest | None:
    """Return the redrive that a run's params ask for; None if the run is not a redrive.

    Raises
    ------
    AirflowFailException
        If the params contradict each other, or do not apply to pipelines of this kind.
    """
    from airlock.stages.redrive_request import RedriveError, read_request

    person = getattr(context.get("dag_run"), "triggering_user_name", None)
    try:
        return read_request(context["params"], person, pipeline)
    except RedriveError as error:
        raise AirflowFailException(str(error)) from None


def wave_of(context: Context) -> WaveOf | None:
    """Return the part of another run's delivery that a run takes; None if it has its own delivery.

    Raises
    ------
    AirflowFailException
        If only one of the two params is given.
    """
    from airlock.run import WaveOf

    number, of = context["params"].get("wave"), context["params"].get("wave_of")
    if bool(number) != bool(of):
        raise AirflowFailException("wave and wave_of belong together. Airlock sets both: give neither.")
    return WaveOf(of, number) if of and number else None


def open_run(pipeline: PipelineT, context: Context, folder: str = "") -> Run[PipelineT]:
    """Open the run that a task is part of, with its S3 and its ledger.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    context
        The task's context.
    folder
        The workspace folder of a second chain of stages within the run; empty for the first chain.

    Raises
    ------
    AirflowFailException
        If the params do not apply to the pipeline, or there is no ledger.
    AirflowSkipException
        If the task is one that applies answers, and there are none.
    """
    from airlock.ledger import Ledger
    from airlock.run import PrefixOutsideSourceError, Run, source_prefix
    from airlock.stages.journal import keep_journal

    reviewed = _find_reviewed(context)
    if reviewed is not None:
        return _reopen_run(pipeline, reviewed, folder)
    try:
        prefix = source_prefix(pipeline, context["params"].get("prefix"))
    except PrefixOutsideSourceError as error:
        raise AirflowFailException(str(error)) from None
    pipeline = with_region(pipeline)
    s3 = connect_s3(pipeline.source.aws_conn_id, pipeline.bucket_settings())
    window, asked = run_window(context, sweep=pipeline.arrivals is not None), redrive_request(pipeline, context)
    _check_days(pipeline, window, context)
    ledger = Ledger.open(ledger_url())
    wave = wave_of(context)
    run = keep_journal(Run(pipeline, context["run_id"], window, prefix, s3, ledger, folder, redrive=asked, wave=wave))
    return run.as_plan() if is_plan(context) else run


def _find_reviewed(context: Context) -> str | None:
    """Return the id of the run whose answers this DAG run applies; None in a pipeline's own DAG.

    Raises
    ------
    AirflowSkipException
        If there is no such run.
    """
    instance: Any = context.get("ti")
    if not str(getattr(instance, "dag_id", "")).endswith(REVIEW_SUFFIX):
        return None
    chosen = instance.xcom_pull(task_ids=REMIND)
    if not chosen:
        raise AirflowSkipException("There is no answer to apply.")
    return str(chosen["run_id"])


def _reopen_run(pipeline: PipelineT, run_id: str, folder: str) -> Run[PipelineT]:
    """Open a run that has ended, as its own tasks had opened it.

    Raises
    ------
    AirflowFailException
        If its workspace was deleted.
    """
    from airlock.ledger import Ledger
    from airlock.run import Run, source_prefix
    from airlock.stages.journal import keep_journal
    from airlock.stages.review import ReviewError, reopen

    pipeline = with_region(pipeline)
    s3 = connect_s3(pipeline.source.aws_conn_id, pipeline.bucket_settings())
    known = Run(pipeline, run_id, None, source_prefix(pipeline, None), s3, Ledger.open(ledger_url()), folder)
    try:
        return keep_journal(reopen(known))
    except ReviewError as error:
        last = known.ledger.last_approval(known.key)
        known.ledger.close_approvals(known.key, last, with_unpublished=True)  # or they would fail each hour
        known.ledger.dispose()
        raise AirflowFailException(str(error)) from None


class RunOperator(BaseOperator, Generic[PipelineT]):
    """Base of operators that open their run and call one stage of the library.

    A plan skips the operator unless it has ``in_plan``, and always skips the second chain of stages.

    Parameters
    ----------
    pipeline
        The pipeline whose run this is.
    folder
        The workspace folder of a second chain of stages within the run; empty for the first chain.
    **kwargs
        Of :class:`airflow.sdk.BaseOperator`.
    """

    in_plan: ClassVar[bool] = False  # whether a plan runs it

    def __init__(self, *, pipeline: PipelineT, folder: str = "", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.pipeline = pipeline
        self.folder = folder

    def execute(self, context: Context) -> Any:
        """Run the stage, and return what goes to XCom: counts, our own ids and addresses in the workspace.

        Raises
        ------
        AirflowSkipException
            If the run is a plan, and the operator is not part of plans.
        AirflowFailException
            If a data store rejects a request, and a retry would not help.
        """
        if (self.folder or not self.in_plan) and is_plan(context):
            raise AirflowSkipException("This run is a plan, which ends after normalize.")
        run = open_run(self.pipeline, context, self.folder)
        with run.ledger, timed(self.pipeline.name, self.task_id), fail_without_retry():
            return self.run_stage(run, context)

    @abstractmethod
    def run_stage(self, run: Run[PipelineT], context: Context) -> Any:
        """Call the library, and return what goes to XCom."""
