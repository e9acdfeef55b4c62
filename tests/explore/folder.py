"""The folder of the explorer's files: in memory where the system has such a folder."""

from __future__ import annotations

import atexit
import shutil
import tempfile
from pathlib import Path

_MEMORY = Path("/dev/shm")  # Linux's folder in memory
FOLDER = Path(tempfile.mkdtemp(prefix="airlock-explore-", dir=_MEMORY if _MEMORY.is_dir() else None))
atexit.register(shutil.rmtree, FOLDER, ignore_errors=True)
