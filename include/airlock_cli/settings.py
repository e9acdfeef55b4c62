"""The addresses of the ledger, the pipelines and Airflow, each read from the environment when it is needed."""

from __future__ import annotations

import os
from pathlib import Path

from airlock_cli.errors import RequestError

LEDGER_URL = "AIRLOCK_LEDGER_URL"
LEDGER_TARGET_URL = "AIRLOCK_LEDGER_TARGET_URL"
PIPELINES = "AIRLOCK_PIPELINES"
API_URL = "AIRLOCK_API_URL"
API_USER, API_PASSWORD, API_TOKEN = "AIRLOCK_API_USER", "AIRLOCK_API_PASSWORD", "AIRLOCK_API_TOKEN"

_MEANING = {
    LEDGER_URL: "the ledger's address, for example postgresql://user@host/airlock or sqlite:////folder/ledger.db",
    LEDGER_TARGET_URL: "the address of the empty database to copy the ledger to",
    PIPELINES: "the folder of the pipeline files",
    API_URL: "the address of Airflow's API server, for example https://airflow.example.org",
    API_USER: f"a user of Airflow, and {API_PASSWORD} to the password. Or set {API_TOKEN}",
    API_PASSWORD: f"the password of {API_USER}. Or set {API_TOKEN}",
}


def _require(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise RequestError(f"{name} is not set. Set it to {_MEANING[name]}.")
    return value


def ledger_url() -> str:
    """Return the ledger's address.

    Raises
    ------
    RequestError
        If the variable is not set; so do the other functions here that return a setting.
    """
    return _require(LEDGER_URL)


def ledger_target_url() -> str:
    """Return the address of the database to copy the ledger to."""
    return _require(LEDGER_TARGET_URL)


def has_ledger() -> bool:
    """Return whether the ledger's address is set."""
    return bool(os.environ.get(LEDGER_URL))


def has_pipelines() -> bool:
    """Return whether the folder of the pipeline files is set."""
    return bool(os.environ.get(PIPELINES))


def pipelines() -> Path:
    """Return the folder of the pipeline files."""
    return Path(_require(PIPELINES)).expanduser()


def api_url() -> str:
    """Return the address of Airflow's API server, without a slash at its end."""
    url = _require(API_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise RequestError(f"{API_URL} does not start with http:// or https://. Set it to {_MEANING[API_URL]}.")
    return url


def api_login() -> dict[str, str]:
    """Return the login arguments of `AirflowApi`: a token, or a user and a password."""
    token = os.environ.get(API_TOKEN)
    return {"token": token} if token else {"user": _require(API_USER), "password": _require(API_PASSWORD)}
