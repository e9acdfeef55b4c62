"""The scanner alone against ``pydicom.dcmread``, both on bytes in memory: CPU per object, and whether the values agree.

The scanner has the prefix of each object that the ranged reader would fetch, pydicom the whole object, of which it
reads no pixels. Both end with the same attributes as text, RequestedProcedureID within Request Attributes Sequence
included. The two take turns within one process, so that what else the machine does meets both; the ratio is the median
of those of the rounds.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
import warnings
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple

import pydicom

from airlock.dicom.header import read_header
from airlock.dicom.ranged import BlockFile
from airlock.dicom.scanner import Scanner
from airlock.records import ATTRIBUTES
from benchmarks.corpus import Recipe, ct_like, enhanced, spread_kinds, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

TAGS = [*ATTRIBUTES, "RequestAttributesSequence"]
FRAMES = Recipe(ct=0, enhanced=0).frames
BARS = {"ct_mix": 12, "enhanced": 300}


class Sample(NamedTuple):
    """One object of a corpus, and what the scanner gets of it."""

    body: bytes
    prefix: bytes


class Recorded:
    """An object in memory that knows how far it was read."""

    def __init__(self, body: bytes) -> None:
        self._body = body
        self.size = len(body)
        self.reached = 0

    def read(self, start: int, end: int) -> bytes:
        """Return the bytes from ``start`` up to, not including, ``end``."""
        self.reached = max(self.reached, end)
        return self._body[start:end]


def measure(*, ct: int = 100, rounds: int = 9) -> dict[str, Any]:
    """Return CPU microseconds per object of both readers, their ratio and the differences, by corpus.

    Parameters
    ----------
    ct
        Objects of the CT mix; a hundred have every kind in its share.
    rounds
        Turns that the readers take.
    """
    kinds = spread_kinds()
    mix = [_sample(ct_like(kinds[number % len(kinds)], number)) for number in range(ct)]
    found = {"ct_mix": _compare(mix, rounds, scans=20)}
    both = [_sample(enhanced(number, FRAMES)) for number in range(2)]
    found["enhanced"] = _compare(both, rounds, scans=400)
    found["enhanced_defined_lengths"] = _compare(both[:1], rounds, scans=400)
    found["enhanced_undefined_lengths"] = _compare(both[1:], rounds, scans=400)
    for name, bar in BARS.items():
        found[name] |= {"bar": bar, "met": found[name]["ratio"] >= bar}
    return found


def _sample(body: bytes) -> Sample:
    source = Recorded(body)
    read_header(source)
    return Sample(body, body[: source.reached])


def _compare(samples: Sequence[Sample], rounds: int, scans: int) -> dict[str, Any]:
    times = [(_seconds(scanned, samples, scans), _seconds(parsed, samples, 1)) for _ in range(rounds)]
    scanner, parser = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "objects": len(samples),
        "scanner_us": round(scanner * 1e6, 1),
        "pydicom_us": round(parser * 1e6, 1),
        "ratio": round(statistics.median(parser / scanner for scanner, parser in times), 1),
        "differences": sum(scanned(sample) != parsed(sample) for sample in samples),
    }


def _seconds(read: Callable[[Sample], object], samples: Sequence[Sample], times: int) -> float:
    """Return the CPU seconds that one object takes."""
    started = time.thread_time()
    for _ in range(times):
        for sample in samples:
            read(sample)
    return (time.thread_time() - started) / (times * len(samples))


def scanned(sample: Sample) -> dict[str, str] | None:
    """Return what the scanner finds; None if it left the object to pydicom."""
    file = BlockFile(len(sample.body))
    file.add(0, sample.prefix)
    return Scanner(file).values()


def parsed(sample: Sample) -> dict[str, str]:
    """Return what pydicom finds."""
    return texts(pydicom.dcmread(BytesIO(sample.body), stop_before_pixels=True, specific_tags=TAGS))


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    json.dump(measure(), sys.stdout, indent=2)
    sys.stdout.write("\n")
