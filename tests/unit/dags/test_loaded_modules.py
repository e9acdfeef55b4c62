"""Which heavy modules a task has loaded when its stage begins: whatever is loaded, every task of the stage pays for."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[3]
# Without numpy: pydicom loads it where it is there, which it is in no deployment of ours.
HEAVY = ("aiohttp", "boto3", "fhirkit", "obstore", "polars", "pyarrow", "pydicom", "sqlalchemy")
OPEN_RUN = ("airlock.ledger", "airlock.run", "airlock.stages.journal", "airlock.storage.s3")
OF_EVERY_RUN = {"boto3", "polars", "sqlalchemy"}  # S3, the datasets, the ledger
DICOM = {"pydicom"}

# What is loaded besides, by the module of the library that an operator calls.
STAGES: dict[str, set[str]] = {
    "airlock.stages.receive": set(),
    "airlock.stages.buffer": set(),
    "airlock.imaging.parse": DICOM | {"obstore"},
    "airlock.imaging.validate": DICOM,
    "airlock.imaging.normalize": DICOM,
    "airlock.imaging.stage": {"aiohttp"},
    "airlock.imaging.import_": set(),
    "airlock.imaging.audit": DICOM | {"aiohttp", "fhirkit"},
    "airlock.stages.route": set(),
    "airlock.clinical.parse": {"fhirkit"},
    "airlock.clinical.validate": {"fhirkit"},
    "airlock.clinical.import_": set(),
    "airlock.ccda.parse": set(),
}
_CODE = """
import importlib, json, os, sys
import imaging, clinical, ccda
stages, always, heavy = json.loads(sys.argv[1])
for stage in stages:
    child = os.fork()
    if not child:
        for module in (*always, stage):
            importlib.import_module(module)
        print(json.dumps([stage, [name for name in heavy if name in sys.modules]]), flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, stage
"""


@pytest.fixture(scope="module")
def loaded() -> dict[str, set[str]]:
    """Return the heavy modules that are loaded after the DAG files, the modules that open a run, and one stage."""
    environment = os.environ | {"PYTHONPATH": f"{ROOT / 'plugins'}{os.pathsep}{ROOT / 'dags'}"}
    command = [sys.executable, "-W", "ignore", "-c", _CODE, json.dumps([list(STAGES), OPEN_RUN, HEAVY])]
    said = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    lines = [json.loads(line) for line in said.splitlines() if line.startswith('["airlock')]
    return {stage: set(names) for stage, names in lines}


@pytest.mark.parametrize("stage", STAGES)
def test_a_task_loads_what_its_stage_needs(loaded: dict[str, set[str]], stage: str) -> None:
    assert loaded[stage] == OF_EVERY_RUN | STAGES[stage]
