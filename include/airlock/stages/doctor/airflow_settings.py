"""Settings of Airflow and versions of packages that are known to hurt (docs/operations.md, docs/doctor.md)."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from airlock.stages.doctor.findings import Check, failed, not_made, passed, warned

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.stages.doctor.findings import Finding
    from airlock.stages.doctor.world import Airflow, World

EXECUTOR: Final = ("core", "executor")
HIDDEN: Final = "(a command or a secret backend gives it)"
_ABOUT: Final = "Airflow"
_MAPPED: Final = 1_000  # most tasks that a stage is mapped to
_JWT_BYTES: Final = 64  # HS512; Airflow 3.3.2 warns of a shorter one
_IMPORT_SECONDS: Final = 30.0  # Airflow's default
_VISIBLE_SECONDS: Final = 6 * 3600  # longer than any task that is not deferred
_API_PORT: Final = "8080"
_TRUE: Final = frozenset({"true", "t", "1"})
_LOCAL_EXECUTOR: Final = "LocalExecutor"  # the only one of Airflow 3.3 with `BaseExecutor.is_local`
_PACKAGES: Final = ("healthaws/", "airlock_tasks/", "airlock_console/")
# From this version on, below that one; why is in requirements.txt and docs/doctor.md.
OLDEST_AND_UNTRIED: Final[tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]] = (
    ("apache-airflow", (3, 3, 1), (3, 4)),
    ("apache-airflow-providers-amazon", (9, 39), (10,)),
    ("aiobotocore", (3,), (99,)),
    ("polars", (2, 1), (99,)),
    ("celery", (5,), (5, 7)),
)
_ONLY_IF_THERE: Final = frozenset({"celery"})


def has_local_executor(airflow: Airflow) -> bool:
    """Return whether all tasks run on the scheduler's machine."""
    return are_local_executors(airflow.option(*EXECUTOR) or _LOCAL_EXECUTOR)


def are_local_executors(setting: str) -> bool:
    """Return whether all executors of ``[core] executor`` run tasks on the scheduler's machine.

    The setting is a list such as ``LocalExecutor,alias:module.Class;team=CeleryExecutor``: names of classes with or
    without their module, an alias, and the team that they are for (``airflow.executors.executor_loader``).
    """
    named = (re.split("[.:=]", one)[-1].strip() for one in re.split("[,;]", setting))
    return all(name == _LOCAL_EXECUTOR for name in named)


def list_checks(world: World) -> Iterator[Check]:
    """Yield the checks of Airflow's settings."""
    airflow = world.airflow
    yield Check("airflow.versions", _ABOUT, partial(_check_versions, airflow))
    if not airflow.has_settings:
        yield Check("airflow.settings", _ABOUT, _say_that_none_are_known)
        return
    looks: dict[str, Callable[[Airflow], Finding]] = {
        "airflow.metadata": _check_metadata,
        "airflow.secrets": _check_secrets,
        "airflow.users": _check_users,
        "airflow.execution_api": _check_execution_api,
        "airflow.scheduling": _check_scheduling,
        "airflow.parsing": _check_parsing,
        "airflow.mapping": _check_mapping,
        "airflow.celery": _check_celery,
        "airflow.exposure": _check_exposure,
        "airflow.logs": _check_logs,
        "airflow.plugins": _check_plugins,
    }
    for name, look in looks.items():
        yield Check(name, _ABOUT, partial(look, airflow))


def _say_that_none_are_known() -> Finding:
    return warned(
        "Not checked: neither AIRFLOW_HOME nor AIRFLOW__... is set here.",
        "Call airlock doctor where Airflow runs: on a worker, with its environment.",
    )


def _is_on(airflow: Airflow, section: str, name: str, default: str) -> bool:
    return (airflow.option(section, name) or default).lower() in _TRUE


def _number(airflow: Airflow, section: str, name: str, default: float) -> float:
    try:
        return float(airflow.option(section, name) or default)
    except ValueError:  # Airflow itself refuses it at its start
        return default


def _read_version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text.partition("+")[0])[:3])


def _check_versions(airflow: Airflow) -> Finding:
    if airflow.version("apache-airflow") is None:
        return not_made("Airflow is not installed where this command runs.")
    wrong = []
    for package, least, below in OLDEST_AND_UNTRIED:
        found = airflow.version(package)
        if found is None:
            if package not in _ONLY_IF_THERE:
                wrong.append(f"{package} is not installed")
        elif not least <= _read_version(found) < below:
            wrong.append(f"{package} is {found}")
    if wrong:
        return failed(f"{', '.join(wrong)}.", "Install the versions of requirements.lock.")
    return passed("The packages have versions that Airlock was tested with.")


def _check_metadata(airflow: Airflow) -> Finding:
    url = airflow.option("database", "sql_alchemy_conn") or "sqlite:"
    if url.startswith("sqlite") and not has_local_executor(airflow):
        return failed(
            f"Airflow's metadata is in SQLite, but the executor is {airflow.option(*EXECUTOR)}.",
            "Set AIRFLOW__DATABASE__SQL_ALCHEMY_CONN to a PostgreSQL database.",
        )
    return passed("Airflow's metadata database fits its executor.")


def _check_secrets(airflow: Airflow) -> Finding:
    secret = airflow.option("api_auth", "jwt_secret")
    if secret is None and not has_local_executor(airflow):
        return failed(
            "[api_auth] jwt_secret is not set, so each component makes its own and tasks are refused.",
            "Set AIRFLOW__API_AUTH__JWT_SECRET to the same 64 bytes or more everywhere.",
        )
    if secret not in {None, HIDDEN} and len(str(secret)) < _JWT_BYTES:
        return warned(
            f"[api_auth] jwt_secret has {len(str(secret))} bytes.", f"Make it {_JWT_BYTES} bytes or more (HS512)."
        )
    if airflow.option("core", "fernet_key") == "":
        return failed(
            "[core] fernet_key is empty: passwords of connections are stored unencrypted.",
            "Set AIRFLOW__CORE__FERNET_KEY.",
        )
    return passed("Tokens are signed and passwords encrypted with keys of this deployment.")


def _check_users(airflow: Airflow) -> Finding:
    manager = (airflow.option("core", "auth_manager") or "SimpleAuthManager").rpartition(".")[2]
    if manager != "SimpleAuthManager":
        return passed(f"The auth manager is {manager}.")
    if _is_on(airflow, "core", "simple_auth_manager_all_admins", "false"):
        return failed(
            "[core] simple_auth_manager_all_admins is on: everybody who reaches the UI may do everything.",
            "Switch it off, and give people roles (docs/identity.md).",
        )
    if not has_local_executor(airflow):
        return warned(
            "The auth manager is Airflow's simple one, with passwords in a file: it is for a trial only.",
            "Use FAB's or Keycloak's (docs/identity.md).",
        )
    return passed("The auth manager is Airflow's simple one, for a trial on one machine.")


def _check_execution_api(airflow: Airflow) -> Finding:
    port = airflow.option("api", "port") or _API_PORT
    if port != _API_PORT and airflow.option("core", "execution_api_server_url") is None:
        return failed(
            f"[api] port is {port}, but [core] execution_api_server_url is not set: tasks call port {_API_PORT}.",
            "Set AIRFLOW__CORE__EXECUTION_API_SERVER_URL to the API server's address with /execution/.",
        )
    return passed("Tasks find the API server.")


def _check_scheduling(airflow: Airflow) -> Finding:
    if not _is_on(airflow, "scheduler", "use_job_schedule", "true"):
        return failed("[scheduler] use_job_schedule is off: no nightly run ever starts.", "Remove the setting.")
    return passed("Airflow starts scheduled runs.")


def _check_parsing(airflow: Airflow) -> Finding:
    seconds = _number(airflow, "core", "dagbag_import_timeout", _IMPORT_SECONDS)
    if seconds < _IMPORT_SECONDS:
        return warned(
            f"[core] dagbag_import_timeout is {seconds:g}: on a busy machine a DAG file takes longer, and its DAGs "
            "vanish.",
            f"Make it {_IMPORT_SECONDS:g} or more.",
        )
    if _is_on(airflow, "core", "load_examples", "true"):
        return warned("[core] load_examples is on, with DAGs that are not yours.", "Switch it off.")
    return passed("DAG files have time to be read.")


def _check_mapping(airflow: Airflow) -> Finding:
    most = _number(airflow, "core", "max_map_length", 1_024)
    if most < _MAPPED:
        return failed(
            f"[core] max_map_length is {most:g}, but a stage may have {_MAPPED:,} tasks.", "Remove the setting."
        )
    return passed("A stage may have as many tasks as it needs.")


def _check_celery(airflow: Airflow) -> Finding:
    if "CeleryExecutor" not in (airflow.option(*EXECUTOR) or ""):
        return passed("There are no Celery workers.")
    seconds = _number(airflow, "celery_broker_transport_options", "visibility_timeout", 86_400)
    if seconds < _VISIBLE_SECONDS:
        return warned(
            f"[celery_broker_transport_options] visibility_timeout is {seconds:g} seconds: a task that runs longer is "
            "given to a second worker.",
            f"Make it {_VISIBLE_SECONDS} or more, or remove it.",
        )
    if "airlock_tasks.preload" not in (airflow.option("celery", "extra_celery_config") or ""):
        return warned(
            "The workers load Airlock anew for every task.",
            'Set AIRFLOW__CELERY__EXTRA_CELERY_CONFIG to {"imports": ["airlock_tasks.preload"]}.',
        )
    return passed("The Celery workers are set up.")


def _check_exposure(airflow: Airflow) -> Finding:
    if (airflow.option("api", "expose_config") or "false").lower() in _TRUE:
        return warned(
            "[api] expose_config is on: users see settings, secrets too.",
            "Set it to False, or non-sensitive-only.",
        )
    if not _is_on(airflow, "core", "hide_sensitive_var_conn_fields", "true"):
        return failed(
            "[core] hide_sensitive_var_conn_fields is off: logs and UI show passwords.", "Remove the setting."
        )
    return passed("Settings and passwords are not shown.")


def _check_logs(airflow: Airflow) -> Finding:
    in_pods = "KubernetesExecutor" in (airflow.option(*EXECUTOR) or "")
    if in_pods and not _is_on(airflow, "logging", "remote_logging", "false"):
        return warned(
            "[logging] remote_logging is off: the log of a task is gone with its pod.", "Let Airflow log to S3."
        )
    return passed("Logs of tasks stay.")


def _check_plugins(airflow: Airflow) -> Finding:
    named = airflow.option("core", "plugins_folder")
    folder = Path(named) if named else None
    if folder is None or not folder.is_dir():
        return not_made("[core] plugins_folder is not set, or is not a folder here.")
    there = [name for name in _PACKAGES if (folder / name).is_dir()]
    if "airlock_tasks/" not in there or "healthaws/" not in there:
        return failed(
            "[core] plugins_folder lacks airlock_tasks or healthaws: no DAG of Airlock can be read.",
            "Deploy plugins/ as a whole (docs/operations.md#deploying).",
        )
    ignored = folder / ".airflowignore"
    lines = ignored.read_text(encoding="utf-8").split() if ignored.is_file() else []
    missing = [name for name in there if name not in lines]
    if missing:
        return failed(
            f"The plugins' .airflowignore does not name {', '.join(missing)}: the plugin loader runs their modules.",
            "Deploy plugins/.airflowignore, a hidden file, as well.",
        )
    return passed("The plugins are whole, and the loader leaves their packages alone.")
