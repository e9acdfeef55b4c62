"""``make run``: check the request, start the stack, deliver, run the pipeline, print the audit."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

from airlock.run import run_key
from airlock.storage.s3uri import S3Uri
from airlock_cli.airflow_api import AirflowApi
from airlock_cli.watch import WAITS, follow
from airlock_local.adopt import adopt_stores
from airlock_local.buckets import local_client, make_buckets
from airlock_local.choice import Choice, choose
from airlock_local.components import S3, plan
from airlock_local.deliver import SourceError, check_room, sample_files, upload
from airlock_local.environment import (
    LOCAL_CONNECTION,
    USER,
    airflow_variables,
    connection_variable,
    read_secrets,
)
from airlock_local.failures import describe_failures
from airlock_local.profiles import sign_profile
from airlock_local.progress import say
from airlock_local.report import COMMAND, PAGE, REPORTS, audit_lines, copy_reports, hint_of_kind, report_lines
from airlock_local.stack import Stack, StackError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airlock_local.settings import Settings

_DAG_APPEARS_WITHIN = 90.0  # seconds


class RunError(RuntimeError):
    """The run failed; the message says where and what to do."""


def run(settings: Settings, pipeline: str, source: str, environment: Mapping[str, str]) -> int:
    """Run a pipeline on a delivery, with the stack that it needs.

    Returns
    -------
    int
        0 if the DAG run succeeded or waits for a person, and its books balance; else 1.

    Raises
    ------
    PipelineError, SourceError
        The request is wrong; nothing was started.
    StackError, RunError, ApiError, StalledError
        It failed later.
    """
    began = time.monotonic()
    choice = choose(settings.pipelines, pipeline, source, environment)
    if choice.files and choice.uses_local:
        check_room(choice.files)
    if connection_variable(LOCAL_CONNECTION) in environment:
        say(f"{connection_variable(LOCAL_CONNECTION)} is ignored: {LOCAL_CONNECTION} is always the local stack here.")
    if choice.files == () and choice.pipeline.source.aws_conn_id != LOCAL_CONNECTION:
        _check_bucket(s3_client(settings, choice), choice)
    delivered = _start_and_deliver(settings, choice, environment)
    ready = time.monotonic()
    status = _run_pipeline(settings, choice, delivered)
    now = time.monotonic()
    say(f"Took {now - began:.0f} s: stack and delivery {ready - began:.0f} s, run {now - ready:.0f} s.")
    return status


def deliver(settings: Settings, pipeline: str, source: str, environment: Mapping[str, str]) -> int:
    """Upload a folder to the local S3 without a run: for a plan, a sweep, or a run from the UI.

    Returns
    -------
    int
        0; everything else is an exception.

    Raises
    ------
    PipelineError, SourceError
        The request is wrong; nothing was started.
    StackError, RunError
        It failed later.
    """
    choice = choose(settings.pipelines, pipeline, source, environment)
    if choice.files == () or not choice.uses_local:
        raise SourceError("make deliver uploads a folder to the local S3. Set SOURCE to a folder, or leave it out.")
    if choice.files:
        check_room(choice.files)
    _start_and_deliver(settings, choice, environment)
    name = choice.pipeline.name
    say(f"No run is started. To see what one would do: {COMMAND} plan {name} --prefix {choice.target.key}")
    return 0


def _start_and_deliver(settings: Settings, choice: Choice, environment: Mapping[str, str]) -> int:
    """Start the stack, deliver meanwhile, and return the number of files of the delivery."""
    s3_answers = Event()
    stack = Stack(settings, on_ready=lambda name: s3_answers.set() if name == S3 else None)
    parts = plan(settings, environment, choice.seeds(), local=choice.uses_local, account=choice.uses_account)
    with ThreadPoolExecutor(1) as pool:
        up = pool.submit(stack.up, parts)
        up.add_done_callback(lambda _: s3_answers.set())
        s3_answers.wait()
        if up.done():
            up.result()  # without the stack nothing is delivered: another program may listen on its ports
        try:
            delivered = _deliver(settings, choice)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            up.result()  # if the stack failed, that is the cause
            raise RunError(f"The delivery could not be uploaded: {error}. Call make run again.") from error
        if not up.result():
            say("The stack is up.")
    return delivered


def _deliver(settings: Settings, choice: Choice) -> int:
    client = s3_client(settings, choice)
    if choice.uses_local:
        make_buckets(local_client(settings.s3_url), choice.buckets())
    files = sample_files(settings.var / "sample", choice.pipeline.kind) if choice.files is None else list(choice.files)
    if not files:
        _check_bucket(client, choice)  # the local S3 can be asked only now
        return 0
    written, unchanged = upload(client, files, choice.target)
    say(f"Delivered to {choice.target}: {written} files written, {unchanged} already there.")
    return len(files)


def s3_client(settings: Settings, choice: Choice) -> Any:
    """Return the S3 client of the pipeline's source connection."""
    connection = choice.pipeline.source.aws_conn_id
    if connection == LOCAL_CONNECTION:
        return local_client(settings.s3_url)
    # Only a real account needs Airflow to read the connection; its import takes seconds.
    os.environ.update(airflow_variables(settings, read_secrets(settings)), AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR")
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook  # noqa: PLC0415
    from airflow.sdk.exceptions import AirflowException  # noqa: PLC0415

    try:
        return S3Hook(aws_conn_id=connection).get_conn()
    except (BotoCoreError, ClientError, AirflowException, ValueError) as error:
        raise SourceError(
            f"The connection {connection!r} cannot be used ({error}). Check {connection_variable(connection)} "
            "and your AWS credentials."
        ) from error


def _check_bucket(client: Any, choice: Choice) -> None:
    target = choice.target
    try:
        found = client.list_objects_v2(Bucket=target.bucket, Prefix=target.key, MaxKeys=1)
    except NoCredentialsError:
        raise SourceError(
            f"The connection {choice.pipeline.source.aws_conn_id!r} has no AWS credentials. Give it a login and a "
            "password or a role_arn, or log in to AWS as its command line does."
        ) from None
    except (ClientError, BotoCoreError) as error:
        raise SourceError(
            f"The bucket {target.bucket!r} cannot be listed ({error}). Check its name, and that the connection "
            f"{choice.pipeline.source.aws_conn_id!r} has the right s3:ListBucket."
        ) from error
    if not found.get("KeyCount"):
        raise SourceError(f"There is no object below {target}. Put the delivery there, or correct the prefix.")


def _run_pipeline(settings: Settings, choice: Choice, delivered: int) -> int:
    if choice.uses_local:
        adopt_stores(settings, choice.pipeline)
        sign_profile(settings, choice.pipeline)
    password, dag = read_secrets(settings).password, choice.pipeline.name
    with AirflowApi(settings.api_url, USER, password) as api:
        api.log_in()
        for pool in choice.pools(settings.parallelism):
            api.make_pool(pool.name, pool.slots, pool.description)
        await_dag(api, choice, settings)
        api.unpause(dag)
        if choice.pipeline.schedule.cron is not None:
            say(f"The DAG {dag} is switched on: it also runs by its schedule, {choice.pipeline.schedule.cron}.")
        for other in api.unfinished_runs(dag):
            say(f"Run {other} has not ended. The new run may wait for it.")
        run_id = api.trigger(dag, {"prefix": choice.target.key})
        say(f"Run {run_id} of pipeline {dag}: {settings.api_url}/dags/{dag}/runs/{run_id}")
        say(f"  To look on, log in as {USER} with the password {password}.")
        state, tasks = follow(
            api, dag, run_id, say, lambda: check_alive(settings), stall_minutes=settings.stall_minutes
        )
    client = s3_client(settings, choice)
    kept = settings.var / REPORTS / run_key(dag, run_id)
    report = _fetch_report(settings, client, choice, kept)
    if report is not None:
        told = report_lines(report, settings.var, kept)
        for line in (*audit_lines(report, delivered), *told, *hint_of_kind(report)):
            say(line)
    say(f"UI:          {settings.api_url} (user {USER}, password {password}). make stop ends it.")
    say("             It is the only user and may do everything. People with roles: docs/identity.md.")
    problems = describe_failures(tasks, settings.airflow_home / "logs")
    for problem in problems:
        say(problem)
    _say_reviews(settings, choice, report)
    if state == WAITS:
        say(f"The run waits for a person and holds everything until then: {settings.api_url}/required_actions")
    elif state != "success" and not problems:
        say(f"The run ended as {state}. See {settings.api_url}/dags/{dag}/runs/{run_id}.")
    return 0 if state in {"success", WAITS} and report is not None and report.get("balanced") is True else 1


def _say_reviews(settings: Settings, choice: Choice, report: dict[str, Any] | None) -> None:
    if report is not None and choice.pipeline.asks_people and report["dispositions"].get("held"):
        command = f'make cli CMD="review list {choice.pipeline.name}"'
        say(f"Reviews:     {settings.api_url}/airlock/triage#reviews, or {command}")


def await_dag(api: AirflowApi, choice: Choice, settings: Settings) -> None:
    """Wait until Airflow has read the DAG from the current pipeline files.

    Raises
    ------
    RunError
        Airflow does not find it in time.
    """
    name = choice.pipeline.name
    edited = min(time.time(), max(path.stat().st_mtime for path in settings.pipelines.iterdir()))
    until, asked = time.monotonic() + _DAG_APPEARS_WITHIN, False
    while time.monotonic() < until:
        dag = api.dag(name)
        if dag and _parsed_at(dag) > edited:
            return
        token = dag["file_token"] if dag else api.any_file_token()
        if token and not asked:
            api.reparse(token)
            asked = True
        check_alive(settings)
        time.sleep(0.5)
    errors = "\n".join(api.import_errors()) or f"See {settings.var / 'log/dag-processor.log'}"
    raise RunError(f"Airflow did not find the DAG {name!r} within {_DAG_APPEARS_WITHIN:.0f} s. {errors}")


def _parsed_at(dag: Mapping[str, Any]) -> float:
    parsed = dag.get("last_parsed_time")
    return datetime.fromisoformat(parsed).astimezone(UTC).timestamp() if parsed else 0.0


def check_alive(settings: Settings) -> None:
    """Check that every part of the stack still runs.

    Raises
    ------
    StackError
        Names the part that has ended, and its log.
    """
    stack = Stack(settings)
    for name in stack.list_dead():
        log = stack.records.read()[name].log
        raise StackError(f"The {name} has ended unexpectedly. See {log}, and call make run again.")


def _fetch_report(settings: Settings, client: Any, choice: Choice, kept: Path) -> dict[str, Any] | None:
    """Copy the run's reports from the workspace to a folder of their own, and to var/ as `copy_reports` does.

    Returns
    -------
    dict or None
        report.json; None if the run did not write one.
    """
    pipeline = choice.pipeline
    audit = S3Uri.parse(pipeline.workspace).join(pipeline.name, kept.name, "audit", "")
    names = ("report.json", PAGE, *pipeline.report_lists)
    for name in ("report.json", PAGE):  # an earlier run's report must not be taken for this one's
        (settings.var / name).unlink(missing_ok=True)
    try:
        bodies = {
            name: client.get_object(Bucket=audit.bucket, Key=audit.join(name).key)["Body"].read() for name in names
        }
    except ClientError as error:
        code = error.response["Error"]["Code"]
        say(f"No report was found at {audit} ({code}). The lists in {settings.var} are those of earlier runs.")
        return None
    kept.mkdir(parents=True, exist_ok=True)
    for name, body in bodies.items():
        (kept / name).write_bytes(body)
    return copy_reports(settings.var, kept)
