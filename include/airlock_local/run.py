"""``make run``: check the request, bring the stack up, deliver, run the pipeline, show the audit."""

from __future__ import annotations

import os
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from threading import Event
from typing import TYPE_CHECKING, Any

from boto3.exceptions import Boto3Error
from botocore.exceptions import BotoCoreError, ClientError

from airlock.run import run_key
from airlock.storage.s3uri import S3Uri
from airlock_cli.airflow_api import AirflowApi
from airlock_cli.watch import WAITS, follow
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
from airlock_local.failures import failures
from airlock_local.progress import say
from airlock_local.report import REPORTS, audit_lines, place_lines, show
from airlock_local.stack import Stack, StackError
from airlock_local.stores import SLOTS

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airlock_local.settings import Settings

_DAG_APPEARS_WITHIN = 90.0  # seconds


class RunError(RuntimeError):
    """The delivery did not get through; the message says where it stopped and what to do."""


def run(settings: Settings, pipeline: str, source: str, environment: Mapping[str, str]) -> int:
    """Do what ``make run`` does.

    Returns
    -------
    int
        0 if the DAG run succeeded, or waits for a person, and its books balance; else 1.

    Raises
    ------
    PipelineError, SourceError
        If the request is wrong; nothing was started.
    StackError, RunError, ApiError, StalledError
        If it broke off later.
    """
    began = time.monotonic()
    choice = choose(settings.pipelines, pipeline, source, environment)
    if choice.files and choice.uses_local:
        check_room(choice.files)
    if connection_variable(LOCAL_CONNECTION) in environment:
        say(f"{connection_variable(LOCAL_CONNECTION)} is not used: here {LOCAL_CONNECTION} is always the local stack")
    if choice.files == () and choice.pipeline.source.aws_conn_id != LOCAL_CONNECTION:
        _check_bucket(s3_client(settings, choice), choice)
    delivered = _up_and_deliver(settings, choice, environment)
    ready = time.monotonic()
    status = _through_the_stages(settings, choice, delivered)
    now = time.monotonic()
    say(f"took {now - began:.0f} s: stack and delivery {ready - began:.0f} s, run {now - ready:.0f} s")
    return status


def _up_and_deliver(settings: Settings, choice: Choice, environment: Mapping[str, str]) -> int:
    """Bring the stack up, deliver meanwhile, and return how many files the delivery has."""
    s3_answers = Event()
    stack = Stack(settings, on_ready=lambda name: s3_answers.set() if name == S3 else None)
    parts = plan(settings, environment, choice.seeds(), local=choice.uses_local, account=choice.uses_account)
    with ThreadPoolExecutor(1) as pool:
        up = pool.submit(stack.up, parts)
        up.add_done_callback(lambda _: s3_answers.set())
        s3_answers.wait()
        if up.done():
            up.result()  # a stack that did not come up gets nothing: another program may listen on its ports
        try:
            delivered = _deliver(settings, choice)
        except (ClientError, BotoCoreError, Boto3Error) as error:
            up.result()  # where the stack failed, that is the cause
            raise RunError(f"the delivery could not be put on S3: {error}") from error
        if not up.result():
            say("the stack is up")
    return delivered


def _deliver(settings: Settings, choice: Choice) -> int:
    client = s3_client(settings, choice)
    if choice.uses_local:
        make_buckets(local_client(settings.s3_url), choice.buckets())
    files = sample_files(settings.var / "sample", choice.pipeline.kind) if choice.files is None else list(choice.files)
    if not files:
        _check_bucket(client, choice)  # the local S3 can be asked only now
        return 0
    written, there = upload(client, files, choice.target)
    say(f"delivered to {choice.target}: {written} files written, {there} were there already")
    return len(files)


def s3_client(settings: Settings, choice: Choice) -> Any:
    """Return the S3 client that the pipeline's source connection means."""
    connection = choice.pipeline.source.aws_conn_id
    if connection == LOCAL_CONNECTION:
        return local_client(settings.s3_url)
    # Only a real account needs Airflow's reading of the connection, which takes seconds to import.
    os.environ.update(airflow_variables(settings, read_secrets(settings)), AIRFLOW__LOGGING__LOGGING_LEVEL="ERROR")
    from airflow.providers.amazon.aws.hooks.s3 import S3Hook  # noqa: PLC0415
    from airflow.sdk.exceptions import AirflowException  # noqa: PLC0415

    try:
        return S3Hook(aws_conn_id=connection).get_conn()
    except (BotoCoreError, ClientError, AirflowException, ValueError) as error:
        raise SourceError(
            f"the connection {connection!r} cannot be used ({error}): check {connection_variable(connection)} "
            "and your AWS credentials"
        ) from error


def _check_bucket(client: Any, choice: Choice) -> None:
    target = choice.target
    try:
        found = client.list_objects_v2(Bucket=target.bucket, Prefix=target.key, MaxKeys=1)
    except (ClientError, BotoCoreError) as error:
        raise SourceError(
            f"the bucket {target.bucket!r} cannot be listed ({error}): check its name, and that the connection "
            f"{choice.pipeline.source.aws_conn_id!r} has s3:ListBucket on it"
        ) from error
    if not found.get("KeyCount"):
        raise SourceError(f"there is nothing below {target}: put the delivery there, or correct the prefix")


def _through_the_stages(settings: Settings, choice: Choice, delivered: int) -> int:
    password, dag = read_secrets(settings).password, choice.pipeline.name
    with AirflowApi(settings.api_url, USER, password) as api:
        api.log_in()
        for pool, service in choice.pools().items():
            api.make_pool(pool, SLOTS[service], f"{service} import jobs at a time")
        await_dag(api, choice, settings)
        api.unpause(dag)
        for other in api.unfinished_runs(dag):
            say(f"the run {other} is not finished; the new one may have to wait for it")
        run_id = api.trigger(dag, {"prefix": choice.target.key})
        say(f"run {run_id} of pipeline {dag}: {settings.api_url}/dags/{dag}/runs/{run_id}")
        state, tasks = follow(
            api, dag, run_id, say, lambda: check_alive(settings), stall_minutes=settings.stall_minutes
        )
    client = s3_client(settings, choice)
    kept = settings.var / REPORTS / run_key(dag, run_id)
    report = _fetch_report(settings, client, choice, kept)
    if report is not None:
        for line in (*audit_lines(report, delivered), *place_lines(report, settings.var, kept)):
            say(line)
    say(f"UI:     {settings.api_url} (user {USER}, password {password}); make stop ends it")
    problems = failures(tasks, settings.airflow_home / "logs")
    for problem in problems:
        say(problem)
    if state == WAITS:
        say(f"the run waits for a person, and holds everything until then: {settings.api_url}/required_actions")
    elif state != "success" and not problems:
        say(f"the run ended as {state}: see {settings.api_url}/dags/{dag}/runs/{run_id}")
    return 0 if state in {"success", WAITS} and report is not None and report.get("balanced") is True else 1


def await_dag(api: AirflowApi, choice: Choice, settings: Settings) -> None:
    """Wait until Airflow has read the DAG from the pipeline file as it is now.

    Raises
    ------
    RunError
        If it does not find it.
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
    errors = "\n".join(api.import_errors()) or f"see {settings.var / 'log/dag-processor.log'}"
    raise RunError(f"Airflow did not find the DAG {name!r} within {_DAG_APPEARS_WITHIN:.0f} s: {errors}")


def _parsed_at(dag: Mapping[str, Any]) -> float:
    parsed = dag.get("last_parsed_time")
    return datetime.fromisoformat(parsed).astimezone(UTC).timestamp() if parsed else 0.0


def check_alive(settings: Settings) -> None:
    """See that every part of the stack still runs.

    Raises
    ------
    StackError
        With the part that has ended, and its log.
    """
    stack = Stack(settings)
    for name in stack.dead():
        log = stack.records.read()[name].log
        raise StackError(f"the {name} has ended by itself: see {log}, and call make run again to start it anew")


def _fetch_report(settings: Settings, client: Any, choice: Choice, kept: Path) -> dict[str, Any] | None:
    """Copy the run's reports from the workspace to a folder of their own, and to var/ as `show` does.

    Returns
    -------
    dict or None
        report.json; None if the run did not come to write one.
    """
    pipeline = choice.pipeline
    audit = S3Uri.parse(pipeline.workspace).join(pipeline.name, kept.name, "audit", "")
    names = ("report.json", *pipeline.report_lists)
    (settings.var / "report.json").unlink(missing_ok=True)  # an earlier run's must not pass for this one's
    try:
        bodies = {
            name: client.get_object(Bucket=audit.bucket, Key=audit.join(name).key)["Body"].read() for name in names
        }
    except ClientError as error:
        code = error.response["Error"]["Code"]
        say(f"no report was found at {audit} ({code}); lists in {settings.var} are those of earlier runs")
        return None
    kept.mkdir(parents=True, exist_ok=True)
    for name, body in bodies.items():
        (kept / name).write_bytes(body)
    return show(settings.var, kept)
