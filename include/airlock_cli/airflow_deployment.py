"""The Airflow deployment as the doctor sees it: its settings, and its pools and connections over the REST API."""

from __future__ import annotations

import configparser
import os
import threading
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from airlock.stages.doctor.airflow_settings import HIDDEN
from airlock.stages.doctor.attempts import CheckUnableError
from airlock.stages.doctor.world import Connection, Dag, Pool
from airlock_cli import settings
from airlock_cli.airflow_api import AirflowApi, ApiError
from airlock_cli.airflow_connections import ConnectionTextError, read_connection, variable_of
from airlock_cli.errors import CommandError, RequestError

if TYPE_CHECKING:
    from collections.abc import Mapping

_AS_JSON = (
    '{"conn_type": ...}. A shell needs single quotes around it; docker run --env-file keeps quotes, so write none '
    "there."
)
_NO_API = (
    "AIRLOCK_API_URL is not set.\nSet it with AIRLOCK_API_USER and AIRLOCK_API_PASSWORD, so that Airflow can be asked."
)


class DeploymentApi(AirflowApi):
    """The REST API with what only the doctor asks."""

    def pool(self, name: str) -> Pool | None:
        """Return a pool, or None if Airflow has none of this name."""
        found = self._call("GET", f"/api/v2/pools/{quote(name, safe='')}", missing={})
        return Pool(int(found["slots"]), bool(found["include_deferred"])) if found else None

    def connection_kind(self, name: str) -> str | None:
        """Return a connection's type, or None if Airflow's database has no such connection."""
        found = self._call("GET", f"/api/v2/connections/{quote(name, safe='')}", missing={})
        return str(found["conn_type"]) if found else None


class Deployment:
    """Airflow by the environment, its configuration file, and its REST API if `settings` name one.

    Raises
    ------
    RequestError
        If its configuration file cannot be read.
    """

    def __init__(self) -> None:
        home = os.environ.get("AIRFLOW_HOME")
        path = os.environ.get("AIRFLOW_CONFIG") or (Path(home, "airflow.cfg") if home else None)
        self._file = _read_file(path)
        self._has_settings = home is not None or any(name.startswith("AIRFLOW__") for name in os.environ)
        self._api: DeploymentApi | None = None
        self._lock = threading.Lock()

    @property
    def has_settings(self) -> bool:
        """Whether its settings are those of this machine's environment or file."""
        return self._has_settings

    def option(self, section: str, name: str) -> str | None:
        """Return a setting of Airflow's environment or file; None if it has its default."""
        variable = f"AIRFLOW__{section.upper()}__{name.upper()}"
        if variable in os.environ:
            return os.environ[variable]
        if f"{variable}_CMD" in os.environ or f"{variable}_SECRET" in os.environ:
            return HIDDEN
        written: Mapping[str, str] = self._file[section] if self._file.has_section(section) else {}
        if name in written:
            return written[name]
        return HIDDEN if f"{name}_cmd" in written or f"{name}_secret" in written else None

    def pool(self, name: str) -> Pool | None:
        """Return a pool; None if there is none of this name."""
        with self._lock:
            found: Pool | None = self._ask(lambda api: api.pool(name))
        return found

    def dag(self, name: str) -> Dag | None:
        """Return a DAG; None if Airflow has none of this name."""
        with self._lock:
            found: dict[str, Any] | None = self._ask(lambda api: api.dag(name))
        return Dag(bool(found["is_paused"])) if found and not found.get("is_stale") else None

    def connection(self, name: str) -> Connection:
        """Return what is known of a connection: from the environment, which wins, or from Airflow's database."""
        variable = variable_of(name)
        try:
            given = read_connection(name, os.environ)
        except ConnectionTextError:
            problem = f"{variable} is neither a JSON object nor an address."
            return Connection(True, variable, problem=problem, fix=f"Write {variable} as {_AS_JSON}")
        if given is not None:
            problem, fix = given.find_problem()
            return Connection(is_defined=True, source=variable, kind=given.kind, problem=problem, fix=fix)
        if not os.environ.get(settings.API_URL):
            return Connection(None, f"{variable} is not set, and Airflow cannot be asked")
        with self._lock:
            kind = self._ask(lambda api: api.connection_kind(name))
        where = "Airflow's database"
        return Connection(is_defined=kind is not None, source=where, kind=kind or "", is_readable=False)

    def version(self, package: str) -> str | None:
        """Return the installed version of a Python package; None if it is not installed here."""
        try:
            return metadata.version(package)
        except metadata.PackageNotFoundError:
            return None

    def _ask(self, question: Any) -> Any:
        if not os.environ.get(settings.API_URL):
            raise CheckUnableError(_NO_API)
        try:
            if self._api is None:
                api = DeploymentApi(settings.api_url(), **settings.api_login())
                api.log_in()
                self._api = api
            return question(self._api)
        except (ApiError, CommandError) as error:
            raise CheckUnableError(f"{error}\nCheck AIRLOCK_API_URL and its user.") from None


def _read_file(path: Path | str | None) -> configparser.ConfigParser:
    file = configparser.ConfigParser(interpolation=None)
    try:
        file.read(path or (), encoding="utf-8")
    except (OSError, ValueError, configparser.Error) as error:
        kind = type(error).__name__  # the error's text repeats lines of the file, which may hold secrets
        raise RequestError(f"{path} cannot be read as Airflow's configuration ({kind}). Correct the file.") from None
    return file
