"""The environment of the stack's processes, and the secrets that belong to it.

The stack cannot reach a real account by accident: the connection ``aws_default`` is always the local stack, and every
AWS credential is removed unless the pipeline names a connection that the person defined.
"""

from __future__ import annotations

import base64
import json
import os
import secrets
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from airlock_local.settings import LOOPBACK, ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from airlock_local.settings import Settings

LOCAL_CONNECTION = "aws_default"
LOCAL_KEY, LOCAL_SECRET = "airlock-local", "airlock-local-secret"  # the local servers accept any key
REGION = "us-east-1"
USER = "admin"


def connection_variable(connection: str) -> str:
    """Return the variable that defines an Airflow connection."""
    return f"AIRFLOW_CONN_{connection.upper()}"


@dataclass(frozen=True)
class Secrets:
    """Secrets that are generated once per stack, in files that only their owner can read."""

    fernet_key: str
    jwt_secret: str
    secret_key: str
    password: str


def read_secrets(settings: Settings) -> Secrets:
    """Return the stack's secrets; the first call generates them."""
    home = settings.airflow_home
    home.mkdir(parents=True, exist_ok=True)
    keys = _read_or_write(
        home / "secrets.json",
        {
            "fernet_key": base64.urlsafe_b64encode(secrets.token_bytes(32)).decode(),
            "jwt_secret": secrets.token_urlsafe(48),
            "secret_key": secrets.token_urlsafe(48),
        },
    )
    passwords = _read_or_write(password_file(settings), {USER: secrets.token_urlsafe(12)})
    return Secrets(**keys, password=passwords[USER])


def password_file(settings: Settings) -> Path:
    """Return the file of Airflow's SimpleAuthManager for its users' passwords."""
    return settings.airflow_home / "simple_auth_manager_passwords.json"


def _read_or_write(path: Path, content: dict[str, str]) -> dict[str, str]:
    if not path.exists():
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            json.dump(content, file)
    known: dict[str, str] = json.loads(path.read_text())
    return known


def inherited(own: Mapping[str, str], *, account: bool) -> dict[str, str]:
    """Return the part of the caller's environment that the stack's processes inherit.

    Parameters
    ----------
    own
        The caller's environment.
    account
        True if the pipeline uses a real account: only then are AWS's variables kept.

    Notes
    -----
    Settings of another Airflow on the machine (``AIRFLOW__*``, ``AIRFLOW_HOME``) are dropped; connections and
    variables (``AIRFLOW_CONN_*``, ``AIRFLOW_VAR_*``) stay.
    """
    kept = {
        name: value
        for name, value in own.items()
        if not name.startswith("AIRFLOW") or name.startswith(("AIRFLOW_CONN_", "AIRFLOW_VAR_"))
    }
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "SOURCE", "PIPELINE"):
        kept.pop(name, None)
    if account:
        return kept
    kept = {name: value for name, value in kept.items() if not name.startswith(("AWS_", "BOTO_"))}
    return kept | {
        "AWS_ACCESS_KEY_ID": LOCAL_KEY,
        "AWS_SECRET_ACCESS_KEY": LOCAL_SECRET,
        "AWS_DEFAULT_REGION": REGION,
        "AWS_CONFIG_FILE": os.devnull,
        "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def local_connection(settings: Settings) -> str:
    """Return the Airflow connection to the local stack, as JSON."""
    extra = {
        "region_name": REGION,
        "endpoint_url": settings.s3_url,
        # Below service_config it would have no effect, and calls would go to runtime-127.0.0.1.
        "config_kwargs": {"inject_host_prefix": False},
        "service_config": {
            "medical-imaging": {"endpoint_url": settings.health_url},
            "healthlake": {"endpoint_url": settings.health_url},
        },
    }
    return json.dumps({"conn_type": "aws", "login": LOCAL_KEY, "password": LOCAL_SECRET, "extra": extra})


def airflow_variables(settings: Settings, known: Secrets) -> dict[str, str]:
    """Return the variables that make an Airflow process part of this stack."""
    home = settings.airflow_home
    options = {
        "core__dags_folder": settings.dags,
        "core__plugins_folder": ROOT / "plugins",
        "core__load_examples": False,
        "core__executor": "LocalExecutor",
        "core__parallelism": settings.parallelism,
        "core__dags_are_paused_at_creation": True,
        "core__fernet_key": known.fernet_key,
        # Airflow does not derive it from the port: without it tasks would call port 8080.
        "core__execution_api_server_url": f"{settings.api_url}/execution/",
        "core__simple_auth_manager_users": f"{USER}:admin",
        "core__simple_auth_manager_passwords_file": password_file(settings),
        "database__sql_alchemy_conn": settings.metadata_url,
        "api__host": LOOPBACK,
        "api__port": settings.api_port,
        "api__workers": 1,
        "api__base_url": settings.api_url,
        "api__secret_key": known.secret_key,
        "api__instance_name": "Airlock",
        "api_auth__jwt_secret": known.jwt_secret,
        "logging__base_log_folder": home / "logs",
        "logging__dag_processor_child_process_log_directory": home / "logs/dag_processor",
        "dag_processor__refresh_interval": 10,
        "dag_processor__parsing_processes": 1,
        # The machine runs one delivery at a time: react at once, not every second.
        "scheduler__scheduler_idle_sleep_time": 0.3,
        # What a scheduler had queued that was killed is taken up by the next one within a minute, not after five.
        "scheduler__orphaned_tasks_check_interval": 60,
        "usage_data_collection__enabled": False,
    }
    if settings.metadata_url.startswith("sqlite"):
        arguments = "airlock_local.sqlite.CONNECT_ARGUMENTS"
        options |= {f"database__sql_alchemy_connect_args{which}": arguments for which in ("", "_async")}
    if settings.metrics_url.startswith("statsd:"):
        options |= _statsd_options(settings.metrics_url)
    elif settings.metrics_url:
        options["metrics__otel_on"] = True
    return {
        "AIRFLOW_HOME": str(home),
        # Airflow takes the address of a collector from these variables of OpenTelemetry.
        "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": settings.metrics_url,
        "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
        connection_variable(LOCAL_CONNECTION): local_connection(settings),
        "AIRLOCK_LEDGER_URL": settings.ledger_url,
        "AIRLOCK_PIPELINES": str(settings.pipelines),
        "DO_NOT_TRACK": "1",
        "SCARF_ANALYTICS": "false",
        "NO_PROXY": f"{LOOPBACK},localhost",
        "no_proxy": f"{LOOPBACK},localhost",
        "PYTHONUNBUFFERED": "1",
        **{f"AIRFLOW__{name.upper()}": str(value) for name, value in options.items()},
    }


def _statsd_options(url: str) -> dict[str, object]:
    """Return Airflow's options for StatsD; without InfluxDB's spelling of tags it would leave them out."""
    address = urlsplit(url)
    return {
        "metrics__statsd_on": True,
        "metrics__statsd_host": address.hostname,
        "metrics__statsd_port": address.port,
        "metrics__statsd_influxdb_enabled": True,
    }


def backfill_variables(settings: Settings) -> dict[str, str]:
    """Return further variables of processes that make backfills, for the reason in `airlock_local.sqlite`."""
    if not settings.metadata_url.startswith("sqlite"):
        return {}
    return {"AIRFLOW__DATABASE__SQL_ALCHEMY_CONNECT_ARGS": "airlock_local.sqlite.BACKFILL_ARGUMENTS"}


def cli_variables(settings: Settings, known: Secrets) -> dict[str, str]:
    """Return the variables by which Airlock's command line finds this stack, besides `airflow_variables`."""
    return {
        "AIRLOCK_API_URL": settings.api_url,
        "AIRLOCK_API_USER": USER,
        "AIRLOCK_API_PASSWORD": known.password,
        "AWS_ENDPOINT_URL": settings.s3_url,
        "AWS_ENDPOINT_URL_MEDICAL_IMAGING": settings.health_url,
        "AWS_ENDPOINT_URL_HEALTHLAKE": settings.health_url,
        "AWS_DISABLE_HOST_PREFIX_INJECTION": "true",
    }
