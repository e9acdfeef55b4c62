"""The memory that `benchmarks.edge` reports is the peak within a turn, not that of the moment or of earlier turns."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import psutil
from benchmarks.dicom_receivers import Receiver

if TYPE_CHECKING:
    from pathlib import Path

TAKES_MEMORY = """
import sys
for line in sys.stdin:
    taken = bytearray(int(line) * 1024 ** 2)
    del taken
    print("done", flush=True)
"""


def test_the_peak_of_a_turn_is_that_of_its_own_objects(tmp_path: Path) -> None:
    command = [sys.executable, "-c", TAKES_MEMORY]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        receiver, peaks = Receiver(0, (psutil.Process(process.pid),), tmp_path), []
        for mib in (100, 1):
            with receiver.watch_memory() as found:
                process.stdin.write(f"{mib}\n")
                process.stdin.flush()
                process.stdout.readline()
            peaks.append(found[process.pid])
        process.stdin.close()
    assert peaks[0] > 100
    assert peaks[1] < 100
