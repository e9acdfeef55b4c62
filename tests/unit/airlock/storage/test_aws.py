"""What AWS's client libraries log of requests stays out of the log, whatever level Airflow's has."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

SCRIPT = """
import logging
logging.basicConfig(level=logging.DEBUG)
import {}
loud = ["botocore.endpoint", "botocore.hooks", "aiobotocore.endpoint", "urllib3.connectionpool", "urllib3.connection"]
assert not [name for name in loud if logging.getLogger(name).isEnabledFor(logging.DEBUG)]
assert not logging.getLogger("urllib3.connection").isEnabledFor(logging.WARNING)
"""


@pytest.mark.parametrize("package", ["airlock.storage.aws", "healthaws"])
def test_requests_are_not_logged(package: str) -> None:
    plugins = Path(__file__).parents[4] / "plugins"
    subprocess.run([sys.executable, "-c", SCRIPT.format(package)], check=True, cwd=plugins)
