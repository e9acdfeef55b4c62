"""``python -m airlock_local run|deliver|demo-…|stop|status|airflow|cli``; make calls it."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from airlock_local.progress import say
from airlock_local.settings import SettingsError, read_settings

if TYPE_CHECKING:
    from collections.abc import Callable

    from airlock_local.settings import Settings

WRONG_REQUEST = 2  # exit status: nothing was started
FAILED = 1
INTERRUPTED = 130


def main() -> int:
    """Carry out one command and return its exit status."""
    parser = argparse.ArgumentParser(prog="airlock_local", description="The one-machine stack.")
    parser.add_argument("command", choices=(*_COMMANDS, "airflow", "cli"))
    given = parser.parse_args(sys.argv[1:2])
    command: str = given.command
    arguments = sys.argv[2:]  # those of airflow and cli are theirs, options included
    if arguments and command in _COMMANDS:
        parser.error(f"{command} takes no arguments")
    os.umask(0o077)  # only their owner may read the ledger, the reports and the logs of a delivery
    try:
        settings = read_settings(os.environ)
    except SettingsError as error:
        return _refuse(error, WRONG_REQUEST)
    try:
        if command in {"airflow", "cli"}:
            return _command_line(settings, "airflow" if command == "airflow" else "airlock_cli", arguments)
        return _COMMANDS[command](settings)
    except OSError as error:
        if not _is_of(error, settings.var):
            raise
        why = f"{error.filename} cannot be used ({error.strerror})"
        return _refuse(
            SettingsError(f"{why}. Give it to your user, or set AIRLOCK_VAR to another folder."), WRONG_REQUEST
        )


def _is_of(error: OSError, folder: Path) -> bool:
    """Return whether an error is about a folder, a file in it, or one of its parents."""
    if not isinstance(error.filename, str | os.PathLike):
        return False
    path = Path(error.filename)
    return path.is_relative_to(folder) or folder.is_relative_to(path)


def _refuse(error: Exception, status: int) -> int:
    sys.stderr.write(f"{error}\n")
    return status


def _run(settings: Settings) -> int:
    # This import takes a second, and stop and status do not need it.
    from airlock_local.run import run  # noqa: PLC0415

    pipeline, source = os.environ.get("PIPELINE") or "sample", os.environ.get("SOURCE") or ""
    return _report_errors(lambda: run(settings, pipeline, source, os.environ))


def _deliver(settings: Settings) -> int:
    from airlock_local.run import deliver  # noqa: PLC0415  # as above

    pipeline, source = os.environ.get("PIPELINE") or "sample", os.environ.get("SOURCE") or ""
    return _report_errors(lambda: deliver(settings, pipeline, source, os.environ))


def _show_arrivals(settings: Settings) -> int:
    from airlock_local.arrivals import demonstrate  # noqa: PLC0415

    return _report_errors(lambda: demonstrate(settings, os.environ.get("SOURCE") or "", os.environ))


def _show_edge(settings: Settings) -> int:
    from airlock_local.edge import demonstrate  # noqa: PLC0415

    return _report_errors(lambda: demonstrate(settings, os.environ))


def _show_one_patient(settings: Settings) -> int:
    from airlock_local.one_patient import demonstrate  # noqa: PLC0415

    return _report_errors(lambda: demonstrate(settings, os.environ))


def _report_errors(carry_out: Callable[[], int]) -> int:
    """Carry out a request; report each expected error by its message and an exit status."""
    from airlock.pipelines import PipelineError  # noqa: PLC0415
    from airlock_cli.airflow_api import ApiError  # noqa: PLC0415
    from airlock_cli.watch import StalledError  # noqa: PLC0415
    from airlock_local.deliver import SourceError  # noqa: PLC0415
    from airlock_local.run import RunError  # noqa: PLC0415
    from airlock_local.stack import PortInUseError, StackError  # noqa: PLC0415

    try:
        return carry_out()
    except (PipelineError, SourceError, PortInUseError) as error:
        return _refuse(error, WRONG_REQUEST)
    except (StackError, RunError, ApiError, StalledError) as error:
        return _refuse(error, FAILED)
    except KeyboardInterrupt:
        say("\nStopped watching. The run continues; make stop shuts everything down.")
        return INTERRUPTED


def _command_line(settings: Settings, program: str, arguments: list[str]) -> int:
    """Call Airflow's command line, or Airlock's, as part of the stack."""
    from airlock_local.components import API_SERVER, S3  # noqa: PLC0415
    from airlock_local.environment import (  # noqa: PLC0415
        airflow_variables,
        backfill_variables,
        cli_variables,
        inherited,
        read_secrets,
    )
    from airlock_local.stack import PortInUseError, Stack  # noqa: PLC0415

    needs_stack = program == "airflow" or not ("--help" in arguments or arguments[:1] == ["pipelines"])
    if needs_stack and not settings.metadata_marker.exists():
        return _refuse(SettingsError("There is no local Airflow yet. Call make run first."), WRONG_REQUEST)
    known = read_secrets(settings)
    environment = (
        inherited(os.environ, account=False) | airflow_variables(settings, known) | backfill_variables(settings)
    )
    if program != "airflow" and needs_stack:  # Airflow finds S3 by its connections
        try:
            Stack(settings).check_own({API_SERVER: settings.api_port, S3: settings.s3_port})
        except PortInUseError as error:
            return _refuse(error, WRONG_REQUEST)
        environment |= cli_variables(settings, known)
    command = [sys.executable, "-m", program, *arguments]
    return subprocess.run(command, env=environment, check=False).returncode  # noqa: S603  # the user's own command


def _stop(settings: Settings) -> int:
    from airlock_local.stack import Stack  # noqa: PLC0415

    ended = Stack(settings).down()
    say(f"Stopped: {', '.join(ended)}." if ended else "Nothing to stop.")
    return 0


def _status(settings: Settings) -> int:
    from airlock_local.stack import Stack  # noqa: PLC0415

    found = Stack(settings).status()
    for name, alive in found.items():
        say(f"{name:<14} {'up' if alive else 'ended unexpectedly'}")
    if not found:
        say("Nothing is running. make run starts the stack.")
    return 0 if all(found.values()) else FAILED


_COMMANDS = {
    "run": _run,
    "deliver": _deliver,
    "demo-arrivals": _show_arrivals,
    "demo-edge": _show_edge,
    "demo-one-patient": _show_one_patient,
    "stop": _stop,
    "status": _status,
}

if __name__ == "__main__":
    sys.exit(main())
