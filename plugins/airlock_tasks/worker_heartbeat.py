"""The heartbeat of a Celery worker as a file, which a health check can look at without an interpreter of its own.

Celery sends a heartbeat every two seconds as long as it is connected to its broker. Importing this module has each one
touch the file that ``AIRLOCK_WORKER_HEARTBEAT`` names; without the variable nothing is done.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery.signals import heartbeat_sent

HEARTBEAT_FILE = "AIRLOCK_WORKER_HEARTBEAT"


def touch_heartbeat(**_: Any) -> None:
    """Set the file's time to now; create the file if it is not there."""
    Path(os.environ[HEARTBEAT_FILE]).touch()


if os.environ.get(HEARTBEAT_FILE):
    heartbeat_sent.connect(touch_heartbeat, weak=False)
