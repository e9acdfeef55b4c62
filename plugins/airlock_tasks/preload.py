"""What every task needs, loaded before a worker forks a task's process: importing this module loads it.

The worker must stay safe to fork. So this loads no module that starts a thread (polars, pyarrow, numpy), and makes no
client, session, engine or socket.
"""

from __future__ import annotations

import aiohttp  # noqa: F401  # which copies import
import airflow.dag_processing.dagbag
import airflow.sdk.definitions.decorators
import airflow.sdk.execution_time.task_runner  # noqa: F401
import boto3.s3.inject  # noqa: F401
import jinja2.ext  # noqa: F401
import sqlalchemy.dialects.postgresql
import sqlalchemy.dialects.sqlite  # noqa: F401

import airlock.storage.connections
import airlock.storage.copy_requests  # noqa: F401
from airlock_tasks import (  # noqa: F401  # the operators of all DAG files
    announce,
    audit,
    buffer,
    dag,
    import_,
    normalize,
    parse,
    receive,
    review,
    route,
    run,
    stage,
    sweep,
    validate,
    waves,
)
from healthaws.hooks.aws import load_models

load_models(("s3", "medical-imaging", "healthlake"))
