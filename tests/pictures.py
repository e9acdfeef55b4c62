"""Take docs/run.png: the log of the last audit of pipeline sample, in the UI of the stack that ``make run`` leaves up.

``make run``, then ``python -m tests.pictures``.
"""

from __future__ import annotations

import os
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


if __name__ == "__main__":
    take_run_picture()
