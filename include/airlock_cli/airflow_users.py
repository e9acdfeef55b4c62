"""The number of Airflow users who may answer a review, from Airflow's configuration but without loading Airflow."""

from __future__ import annotations

import configparser
import os
from pathlib import Path

from airlock_cli.errors import RequestError

_SIMPLE = "SimpleAuthManager"
_CANNOT_ANSWER = "viewer"


def count_reviewers() -> int | None:
    """Return how many Airflow users may answer a review; None if the configuration does not say.

    The configuration lists users only for Airflow's SimpleAuthManager, and only if that manager asks for passwords.

    Raises
    ------
    RequestError
        If Airflow's configuration file cannot be read.
    """
    options = _core_options()
    manager, users = options.get("auth_manager"), options.get("simple_auth_manager_users")
    if not (manager or users) or (manager and manager.rpartition(".")[2] != _SIMPLE):
        return None
    if options.get("simple_auth_manager_all_admins", "false").lower() in {"true", "t", "1"}:
        return None
    roles = [f"{user}:".split(":")[1].strip().lower() for user in (users or "admin:admin").split(",")]
    return sum(role not in {"", _CANNOT_ANSWER} for role in roles)


def _core_options() -> dict[str, str]:
    """Return the options of Airflow's section core; as in Airflow, the environment overrides the file."""
    home = os.environ.get("AIRFLOW_HOME")
    path = os.environ.get("AIRFLOW_CONFIG") or (Path(home, "airflow.cfg") if home else None)
    file = configparser.ConfigParser(interpolation=None)
    try:
        file.read(path or (), encoding="utf-8")
    except (OSError, ValueError, configparser.Error) as error:
        kind = type(error).__name__  # the error's text repeats lines of the file, which may hold secrets
        raise RequestError(f"{path} cannot be read as Airflow's configuration ({kind}). Correct the file.") from None
    written = dict(file["core"]) if file.has_section("core") else {}
    prefix = "AIRFLOW__CORE__"
    return written | {
        name.removeprefix(prefix).lower(): value for name, value in os.environ.items() if name.startswith(prefix)
    }
