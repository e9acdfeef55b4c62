"""Settings of the one-machine stack: ``AIRLOCK_*`` of the environment, or of the make command line."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

if TYPE_CHECKING:
    from collections.abc import Mapping

ROOT = Path(__file__).resolve().parents[2]
LOOPBACK = "127.0.0.1"


class SettingsError(ValueError):
    """A setting cannot be used; the message names it and the fix."""


@dataclass(frozen=True)
class Settings:
    """Ports and folders of the stack; all paths are absolute.

    Parameters
    ----------
    api_port, s3_port, health_port
        TCP ports on the loopback address: the Airflow UI and REST API, the local S3 (with SQS, EventBridge, STS and
        IAM), the local HealthImaging and HealthLake.
    parallelism
        Tasks at a time.
    stall_minutes
        Minutes without a change after which ``make run`` stops watching a run.
    var
        Folder of databases, logs and reports.
    pipelines, dags
        Folders of the pipeline files and of the DAG files.
    metadata_server
        URL of a PostgreSQL database of Airflow's own; empty for a SQLite file below ``var``.
    metrics_url
        Where Airflow sends metrics: ``statsd://host:port``, or the address of an OpenTelemetry collector that takes
        OTLP over HTTP; empty for nowhere.
    """

    api_port: int = 8080
    s3_port: int = 4566
    health_port: int = 4567
    parallelism: int = 4
    stall_minutes: float = 15
    var: Path = ROOT / "var"
    pipelines: Path = ROOT / "include/pipelines"
    dags: Path = ROOT / "dags"
    metadata_server: str = ""
    metrics_url: str = ""

    @property
    def api_url(self) -> str:
        """The Airflow UI's address, without a slash at its end."""
        return f"http://{LOOPBACK}:{self.api_port}"

    @property
    def s3_url(self) -> str:
        """The local S3's address."""
        return f"http://{LOOPBACK}:{self.s3_port}"

    @property
    def health_url(self) -> str:
        """The address of the local HealthImaging and HealthLake."""
        return f"http://{LOOPBACK}:{self.health_port}"

    @property
    def airflow_home(self) -> Path:
        """Airflow's own folder: its configuration, metadata database and task logs."""
        return self.var / "airflow"

    @property
    def metadata_url(self) -> str:
        """Airflow's metadata database."""
        return self.metadata_server or f"sqlite:///{self.airflow_home / 'airflow.db'}"

    @property
    def metadata_marker(self) -> Path:
        """The file that exists once Airflow's metadata database is made."""
        return self.airflow_home / "migrated"

    @property
    def ledger_url(self) -> str:
        """The ledger's database."""
        return f"sqlite:///{self.var / 'ledger.db'}"


def read_settings(environment: Mapping[str, str]) -> Settings:
    """Read the settings from ``AIRLOCK_*`` variables.

    Raises
    ------
    SettingsError
        A value is not a number in its range, two ports are equal, the metadata database is not PostgreSQL, or the
        address for metrics is of no kind that Airflow knows.
    """
    default = Settings()

    def number(name: str, fallback: float, low: float, high: float) -> float:
        text = environment.get(name) or str(fallback)
        try:
            value = float(text)
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise SettingsError(f"{name} is {text!r}. Set it to a number from {low:g} to {high:g}.")
        return value

    def folder(name: str, fallback: Path) -> Path:
        return Path(environment.get(name) or fallback).expanduser().resolve()

    ports = {
        "AIRLOCK_API_PORT": default.api_port,
        "AIRLOCK_S3_PORT": default.s3_port,
        "AIRLOCK_HEALTH_PORT": default.health_port,
    }
    chosen = {name: int(number(name, port, 1, 65535)) for name, port in ports.items()}
    if len(set(chosen.values())) < len(chosen):
        shown = ", ".join(f"{name}={port}" for name, port in chosen.items())
        raise SettingsError(f"Two parts of the stack would share a port ({shown}). Give each its own.")
    metadata_server = environment.get("AIRLOCK_METADATA_URL", "")
    if metadata_server and not metadata_server.startswith("postgresql+psycopg2://"):  # it may hold a password
        raise SettingsError(
            "AIRLOCK_METADATA_URL does not begin with postgresql+psycopg2://. Name an empty database of a PostgreSQL "
            "server, or leave it out for SQLite."
        )
    return Settings(
        api_port=chosen["AIRLOCK_API_PORT"],
        s3_port=chosen["AIRLOCK_S3_PORT"],
        health_port=chosen["AIRLOCK_HEALTH_PORT"],
        parallelism=int(number("AIRLOCK_PARALLELISM", default.parallelism, 1, 64)),
        stall_minutes=number("AIRLOCK_STALL_MINUTES", default.stall_minutes, 0.1, 24 * 60),
        var=folder("AIRLOCK_VAR", default.var),
        pipelines=folder("AIRLOCK_PIPELINES", default.pipelines),
        dags=folder("AIRLOCK_DAGS", default.dags),
        metadata_server=metadata_server,
        metrics_url=_read_metrics_url(environment),
    )


def _read_metrics_url(environment: Mapping[str, str]) -> str:
    text = environment.get("AIRLOCK_METRICS", "")
    is_statsd = text.startswith("statsd://") and urlsplit(text).port is not None
    if text and not (is_statsd or text.startswith(("http://", "https://"))):
        raise SettingsError(
            "AIRLOCK_METRICS is neither statsd://host:port nor the http:// address of an OpenTelemetry collector."
        )
    return text
