"""A real Airflow API server whose auth manager is FAB, prepared as Compose does, from requirements-fab.lock.

`make proofs` installs the packages; AIRLOCK_FAB_PYTHON names the Python of another place that has them.
"""

from __future__ import annotations

import json
import os
import subprocess
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from airlock_local.environment import airflow_variables, inherited, read_secrets
from airlock_local.settings import ROOT, Settings
from tests.waiting import until

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

PYTHON = Path(os.environ.get("AIRLOCK_FAB_PYTHON") or ROOT / ".venv/fab/bin/python")
CONFIG = ROOT / "deploy/fab/webserver_config.py"
FAB = "airflow.providers.fab.auth_manager.fab_auth_manager.FabAuthManager"
PASSWORD = "loopback only"
PATIENCE = 180.0  # seconds for the API server on a busy machine


@dataclass(frozen=True)
class FabAirflow:
    """A running API server."""

    url: str
    environment: Mapping[str, str]

    def log_in(self, user: str) -> str:
        """Return a token of a user."""
        body = {"username": user, "password": PASSWORD}
        answer = httpx.post(f"{self.url}/auth/token", json=body, timeout=60, trust_env=False)
        assert answer.status_code == 201, answer.text
        return str(answer.json()["access_token"])


@contextmanager
def fab_airflow(
    settings: Settings, roles: Mapping[str, list[tuple[str, str]]], users: Mapping[str, str]
) -> Iterator[FabAirflow]:
    """Give an API server with Airlock's roles and these.

    Parameters
    ----------
    settings
        Its port, and the folders of its databases and pipeline files.
    roles
        Further roles: the pairs of an action and a resource, by name.
    users
        The role of each user; ``admin`` is there.
    """
    assert PYTHON.is_file(), f"there is no {PYTHON}: run make proofs, or set AIRLOCK_FAB_PYTHON"
    environment = _environment(settings)
    for command in ("db migrate", "sync-perm", "dags reserialize"):
        _airflow(environment, *command.split())
    admin = "users create --username admin --role Admin --firstname A --lastname B --email admin@localhost"
    _airflow(environment, *admin.split(), told=f"{PASSWORD}\n{PASSWORD}\n")
    asked = {"roles": roles, "users": users, "password": PASSWORD}
    _python(environment, "-m", "tests.servers.fab_users", told=json.dumps(asked))
    with _serving(settings, environment) as server:
        yield server


def _environment(settings: Settings) -> dict[str, str]:
    made = inherited(os.environ, account=False) | airflow_variables(settings, read_secrets(settings))
    return made | {
        "AIRFLOW__CORE__AUTH_MANAGER": FAB,
        "AIRFLOW__FAB__CONFIG_FILE": str(CONFIG),
        "AIRFLOW__FAB__AUTH_RATE_LIMITED": "False",
        "PYTHONPATH": os.pathsep.join([str(ROOT / "include"), str(ROOT)]),
    }


def _airflow(environment: Mapping[str, str], *arguments: str, told: str = "") -> None:
    _python(environment, "-m", "airflow", *arguments, told=told)


def _python(environment: Mapping[str, str], *arguments: str, told: str) -> None:
    done = subprocess.run(
        [str(PYTHON), *arguments],
        check=False,
        env=dict(environment),
        cwd=ROOT,
        input=told,
        capture_output=True,
        text=True,
        timeout=300,
        start_new_session=True,  # without a terminal, so that a password is read from standard input
    )
    assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-4000:]}"


@contextmanager
def _serving(settings: Settings, environment: Mapping[str, str]) -> Iterator[FabAirflow]:
    command = [str(PYTHON), "-m", "airflow", "api-server"]
    with (
        (settings.var / "api-server.log").open("wb") as log,
        subprocess.Popen(command, env=dict(environment), cwd=ROOT, stdout=log, stderr=log) as server,
    ):
        try:
            until("the API server answers", lambda: server.poll() is not None or _answers(settings.api_url), PATIENCE)
            assert server.poll() is None, (settings.var / "api-server.log").read_text()[-4000:]
            yield FabAirflow(settings.api_url, environment)
        finally:
            server.terminate()


def _answers(url: str) -> bool:
    try:
        return httpx.get(f"{url}/api/v2/version", timeout=10, trust_env=False).status_code == 200
    except httpx.TransportError:
        return False
