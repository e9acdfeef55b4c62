"""Take pictures for docs of the stack that ``make run`` or ``make demo-one-patient`` leaves up.

``make run``, then ``python -m tests.pictures run``: docs/run.png, the log of pipeline sample's last audit in the UI.
``make demo-one-patient``, then ``python -m tests.pictures one-patient``: docs/one-patient.png, what who answers sees.
"""

from __future__ import annotations

import html
import os
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory
from urllib.parse import quote

from airlock_cli.airflow_api import AirflowApi
from airlock_local.environment import USER, read_secrets
from airlock_local.settings import read_settings
from tests.browser import open_browser
from tests.markdown import ROOT

DAG, TASK = "sample", "fhir.audit"  # its log has the run's final numbers
PICTURE = ROOT / "docs/run.png"
QUESTIONS = ("patient questions", "patient show 1")
TERMINAL = "<meta charset=utf-8><style>body{margin:16px;background:#1e1e1e;color:#ddd}</style><pre>"


def take_run_picture(target: Path = PICTURE) -> None:
    """Write the picture of the newest run to a file."""
    settings = read_settings(os.environ)
    password = read_secrets(settings).password
    api = AirflowApi(settings.api_url, USER, password)
    api.log_in()
    newest = max(api.runs(DAG), key=lambda run: str(run["run_after"]))
    run = quote(newest["dag_run_id"], safe="")
    with TemporaryDirectory() as folder, open_browser(Path(folder), width=1400, height=760) as page:
        page.log_in(settings.api_url, USER, password)
        page.open(f"{settings.api_url}/dags/{DAG}/runs/{run}/tasks/{TASK}")
        page.shows("The books balance")
        page.screenshot(target)


def take_questions_picture(target: Path = ROOT / "docs/one-patient.png") -> None:
    """Write the picture of what the command line says to who answers, with the output of the commands as it is."""
    shown = "\n".join(f"$ airlock {command}\n{_call(command)}" for command in QUESTIONS)
    with TemporaryDirectory() as folder, open_browser(Path(folder), width=1560, height=460) as page:
        terminal = Path(folder, "terminal.html")
        terminal.write_text(TERMINAL + html.escape(shown), encoding="utf-8")
        page.open(terminal.as_uri())
        page.shows(QUESTIONS[-1])
        page.screenshot(target)


def _call(command: str) -> str:
    """Return what Airlock's command line prints on the local stack."""
    program = [sys.executable, "-m", "airlock_local", "cli", *command.split()]
    return subprocess.run(program, check=True, cwd=ROOT, capture_output=True, text=True).stdout


if __name__ == "__main__":
    {"run": take_run_picture, "one-patient": take_questions_picture}[sys.argv[1]]()
