"""The parts of the stack: two local AWS servers, Airflow's four processes, and the two databases that they need."""

from __future__ import annotations

import hashlib
import sys
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

import httpx

from airlock_local.environment import airflow_variables, backfill_variables, inherited, read_secrets
from airlock_local.settings import LOOPBACK, ROOT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

    from airlock_local.settings import Settings

S3, HEALTH, API_SERVER = "s3", "health", "api-server"


@dataclass(frozen=True)
class Service:
    """A server of the stack.

    Parameters
    ----------
    name
        Name of its record and its log file.
    title
        Its name in messages.
    argv
        The command.
    environment
        All of its variables.
    fingerprint
        Changes when the process has to be started anew.
    probe
        Returns whether it answers, given the moment before it was started.
    needs
        Parts that must be ready before it starts.
    port, setting
        Its TCP port, and the setting that changes it.
    patience
        Seconds that it gets to end.
    """

    name: str
    title: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    fingerprint: str
    probe: Callable[[datetime], bool]
    needs: frozenset[str] = frozenset()
    port: int | None = None
    setting: str | None = None
    patience: float = 15


@dataclass(frozen=True)
class Preparation:
    """A command that must have run once before a service starts.

    Parameters
    ----------
    marker
        Holds ``state`` when it has run.
    result
        A file that it makes; without this file the marker is ignored.
    """

    name: str
    title: str
    argv: tuple[str, ...]
    environment: Mapping[str, str]
    marker: Path
    state: str
    result: Path
    needs: frozenset[str] = frozenset()

    def is_done(self) -> bool:
        """Return whether it has run in this state of the project."""
        return self.result.exists() and self.marker.exists() and self.marker.read_text() == self.state


@dataclass(frozen=True)
class Plan:
    """The parts of one stack."""

    services: tuple[Service, ...]
    preparations: tuple[Preparation, ...]


def plan(settings: Settings, own: Mapping[str, str], seeds: Sequence[str], *, local: bool, account: bool) -> Plan:
    """Return the parts of the stack.

    Parameters
    ----------
    settings
        Ports and folders.
    own
        The caller's environment.
    seeds
        The emulator's flags that make data stores and the like.
    local
        True to start the local AWS servers.
    account
        True if the pipeline uses a real account: then the caller's AWS variables are kept.
    """
    known = read_secrets(settings)
    airflow = inherited(own, account=account) | airflow_variables(settings, known)
    servers = _local_servers(settings, inherited(own, account=False), seeds) if local else ()
    return Plan(servers + _airflow(settings, airflow), _preparations(settings, airflow))


def _local_servers(settings: Settings, environment: dict[str, str], seeds: Sequence[str]) -> tuple[Service, ...]:
    s3 = (sys.executable, "-m", "airlock_local.s3_server", "--host", LOOPBACK, "--port", str(settings.s3_port))
    health = (
        *(sys.executable, "-m", "localaws", "--host", LOOPBACK, "--port", str(settings.health_port)),
        *("--state", str(settings.var / "localaws/state.db")),
        *("--s3-endpoint", settings.s3_url, "--events-endpoint", settings.s3_url),
        *seeds,
    )
    return (
        Service(
            name=S3,
            title="local S3, SQS and EventBridge",
            argv=s3,
            environment=environment,
            fingerprint=_digest(*s3, version("moto")),
            probe=lambda _: _get(f"{settings.s3_url}/moto-api/") is not None,
            port=settings.s3_port,
            setting="AIRLOCK_S3_PORT",
        ),
        Service(
            name=HEALTH,
            title="local HealthImaging and HealthLake",
            argv=health,
            environment=environment,
            fingerprint=_digest(*health, _sources("include/localaws")),
            probe=lambda _: _get(f"{settings.health_url}/_localaws/health") is not None,
            port=settings.health_port,
            setting="AIRLOCK_HEALTH_PORT",
        ),
    )


def _airflow(settings: Settings, environment: dict[str, str]) -> tuple[Service, ...]:
    ours = sorted(f"{name}={value}" for name, value in environment.items() if name.startswith(("AIR", "AWS_")))
    sources = _sources("include/airlock", "plugins")

    def part(name: str, title: str, *options: str, health: str | None = None, port: int | None = None) -> Service:
        argv = (sys.executable, "-m", "airflow", name, *options)

        def probe(since: datetime) -> bool:
            return (
                _is_healthy(settings, health, since)
                if health
                else _get(f"{settings.api_url}/api/v2/version") is not None
            )

        return Service(
            name=name,
            title=title,
            argv=argv,
            environment=environment | (backfill_variables(settings) if name == API_SERVER else {}),
            fingerprint=_digest(*argv, *ours, sources),
            probe=probe,
            needs=frozenset({"metadata", "ledger"}),
            port=port,
            setting="AIRLOCK_API_PORT" if port else None,
            # The API server closes everything within a moment and then lingers; the others may have tasks to end.
            patience=2 if port else 15,
        )

    return (
        part(API_SERVER, "Airflow API server and UI", port=settings.api_port),
        part("scheduler", "Airflow scheduler", "--skip-serve-logs", health="scheduler"),
        part("dag-processor", "Airflow DAG processor", health="dag_processor"),
        part("triggerer", "Airflow triggerer", "--skip-serve-logs", health="triggerer"),
    )


def _preparations(settings: Settings, environment: dict[str, str]) -> tuple[Preparation, ...]:
    upgrade = (sys.executable, "-m", "airlock.ledger", "upgrade")
    return (
        Preparation(
            name="metadata",
            title="Airflow's metadata database",
            argv=(sys.executable, "-m", "airflow", "db", "migrate"),
            environment=environment,
            marker=settings.metadata_marker,
            state=_digest(version("apache-airflow"), settings.metadata_url),
            result=settings.metadata_marker if settings.metadata_server else settings.airflow_home / "airflow.db",
        ),
        Preparation(
            name="ledger",
            title="ledger",
            argv=upgrade,
            environment=environment,
            marker=settings.var / "ledger.migrated",
            state=_sources("include/airlock/ledger"),
            result=settings.var / "ledger.db",
        ),
    )


def _digest(*parts: str) -> str:
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _sources(*folders: str) -> str:
    # A server keeps the code that it started with: new code needs a new process.
    files = sorted(path for folder in folders for path in (ROOT / folder).rglob("*.py"))
    return _digest(*(f"{path}:{path.stat().st_mtime_ns}" for path in files))


def _get(url: str) -> Any:
    # A call to loopback must not use proxies of the environment or .netrc.
    try:
        reply = httpx.get(url, timeout=2, trust_env=False)
    except httpx.TransportError:
        return None  # not up yet
    return reply if reply.is_success else None


def _is_healthy(settings: Settings, part: str, since: datetime) -> bool:
    reply = _get(f"{settings.api_url}/api/v2/monitor/health")
    health = reply.json().get(part) or {} if reply else {}
    if health.get("status") != "healthy":
        return False
    # A heartbeat from before this start belongs to an earlier process.
    return datetime.fromisoformat(health[f"latest_{part}_heartbeat"]) >= since
