"""The scanner against ``pydicom.dcmread``, both on bytes in memory: CPU per object, and whether the values agree.

The scanner gets the prefix of each object that the ranged reader would fetch; pydicom gets the whole object but reads
no pixels. Both return the same attributes as text, including RequestedProcedureID in Request Attributes Sequence. The
two take turns in one process, so that other load affects both; the ratio is the median of the rounds' ratios. An
object is read several times in a row, because in a task its bytes have just arrived and are in the processor's cache.

``pydicom`` skips a sequence of defined length at once but walks through one of undefined length. Enhanced multi-frame
objects of both kinds are therefore measured separately; the corpus has equal numbers of them.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from io import BytesIO
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, cast

import pydicom
from tests.unit.airlock.dicom.objects import read_header

from airlock.dicom.header import header_plan, quiet_pydicom
from airlock.dicom.ranged import BlockFile
from airlock.dicom.scanner import Scanner
from airlock.records import ATTRIBUTES
from benchmarks.corpus import Recipe, enhanced, instance, spread_kinds, texts

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from airlock.dicom.header import Header

    Reader: TypeAlias = Callable[["Sample"], Mapping[str, str] | None]

TAGS = [*ATTRIBUTES, "RequestAttributesSequence"]
FRAMES = Recipe(mixed=0, enhanced=0).frames


class Sample(NamedTuple):
    """One object of a corpus, and the prefix that the scanner gets."""

    body: bytes
    prefix: bytes


class Recorded:
    """An object in memory that records how far it was read."""

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
        Turns of each reader.
    """
    kinds = spread_kinds()
    mix = [_sample(instance(kinds[number % len(kinds)], number)) for number in range(ct)]
    read = [sample for sample in mix if scanned(sample) is not None]
    both = [_sample(enhanced(number, FRAMES)) for number in range(2)]
    return {
        "ct_mix": _compare(scanned, read, rounds, reads=20) | {"left_to_pydicom": len(mix) - len(read)},
        "ct_mix_all": _compare(found_in, mix, rounds, reads=5),
        "enhanced": _compare(scanned, both, rounds, reads=400),
        "enhanced_defined_lengths": _compare(scanned, both[:1], rounds, reads=400),
        "enhanced_undefined_lengths": _compare(scanned, both[1:], rounds, reads=400),
    }


def _sample(body: bytes) -> Sample:
    source = Recorded(body)
    read_header(source)
    return Sample(body, body[: source.reached])


def _compare(ours: Reader, samples: Sequence[Sample], rounds: int, reads: int) -> dict[str, Any]:
    """Return a reader's figures beside pydicom's; it reads ``reads`` times per turn, since it is much faster."""
    times = [(_seconds(ours, samples, reads), _seconds(parsed, samples, 2)) for _ in range(rounds)]
    scanner, parser = (statistics.median(column) for column in zip(*times, strict=True))
    return {
        "objects": len(samples),
        "scanner_us": round(scanner * 1e6, 1),
        "pydicom_us": round(parser * 1e6, 1),
        "ratio": round(statistics.median(parser / scanner for scanner, parser in times), 1),
        "differences": sum(ours(sample) != parsed(sample) for sample in samples),
    }


def _seconds(read: Reader, samples: Sequence[Sample], times: int) -> float:
    """Return the CPU seconds per object."""
    started = time.thread_time()
    for sample in samples:
        for _ in range(times):
            read(sample)
    return (time.thread_time() - started) / (times * len(samples))


def scanned(sample: Sample) -> dict[str, str] | None:
    """Return the values that the scanner finds; None if it leaves the object to pydicom."""
    file = BlockFile(len(sample.body))
    file.add(0, sample.prefix)
    return Scanner(file).values()


def found_in(sample: Sample) -> dict[str, str]:
    """Return the values that Airlock finds: with the scanner, or with pydicom if the scanner doubts."""
    plan = header_plan(len(sample.body), first_range=len(sample.prefix))
    next(plan)
    try:
        plan.send(sample.prefix)
    except StopIteration as done:
        return cast("Header", done.value).values
    raise AssertionError("the prefix has all bytes that were read before")


def parsed(sample: Sample) -> dict[str, str]:
    """Return the values that pydicom finds."""
    return texts(pydicom.dcmread(BytesIO(sample.body), stop_before_pixels=True, specific_tags=TAGS))


if __name__ == "__main__":
    with quiet_pydicom():
        json.dump(measure(), sys.stdout, indent=2)
    sys.stdout.write("\n")
