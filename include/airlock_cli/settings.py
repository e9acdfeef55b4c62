"""Where the ledger, the pipelines and Airflow are: read from the environment, each when it is first needed."""

from __future__ import annotations

import os
from pathlib import Path

from airlock_cli.errors import RequestError

LEDGER_URL = "AIRLOCK_LEDGER_URL"
PIPELINES = "AIRLOCK_PIPELINES"
API_URL = "AIRLOCK_API_URL"
API_USER, API_PASSWORD, API_TOKEN = "AIRLOCK_API_USER", "AIRLOCK_API_PASSWORD", "AIRLOCK_API_TOKEN"

_MEANING = {
    LEDGER_URL: "the ledger's address, as postgresql://user@host/airlock or sqlite:////folder/ledger.db",
    PIPELINES: "the folder of the pipeline files",
    API_URL: "the address of Airflow's API server, as https://airflow.example.org",
    API_USER: f"a user of Airflow, with {API_PASSWORD}; or set {API_TOKEN}",
    API_PASSWORD: f"the password of {API_USER}; or set {API_TOKEN}",
}


def _need(name: str) -> str:
    value = os.environ.get(name, "")
    if not value:
        raise RequestError(f"{name} is not set: set it to {_MEANING[name]}")
    return value


def ledger_url() -> str:
    """Return the ledger's address.

    Raises
    ------
    RequestError
        If it is not set, as for all functions here.
    """
    return _need(LEDGER_URL)


def has_ledger() -> bool:
    """Say whether the ledger's address is set."""
    return bool(os.environ.get(LEDGER_URL))


def has_pipelines() -> bool:
    """Return whether the folder of the pipeline files is set."""
    return bool(os.environ.get(PIPELINES))


def pipelines() -> Path:
    """Return the folder of the pipeline files."""
    return Path(_need(PIPELINES)).expanduser()


def api_url() -> str:
    """Return the address of Airflow's API server, without a slash at its end."""
    url = _need(API_URL).rstrip("/")
    if not url.startswith(("http://", "https://")):
        raise RequestError(f"{API_URL} does not begin with http:// or https://: set it to {_MEANING[API_URL]}")
    return url


def api_login() -> dict[str, str]:
    """Return what `AirflowApi` takes to log in: a token, or a user and a password."""
    token = os.environ.get(API_TOKEN)
    return {"token": token} if token else {"user": _need(API_USER), "password": _need(API_PASSWORD)}
