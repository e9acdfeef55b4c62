"""The scanner alone against ``pydicom.dcmread``, both on bytes in memory: CPU per object, and whether the values agree.

The scanner has the prefix of each object that the ranged reader would fetch, pydicom the whole object, of which it
reads no pixels. Both end with the same attributes as text, RequestedProcedureID within Request Attributes Sequence
included. The two take turns within one process, so that what else the machine does meets both; the ratio is the median
of those of the rounds. An object is read several times in a row: in a task its bytes have just come in, and are in the
processor's cache.

``pydicom`` skips a sequence of defined length at once and walks through one of undefined length, so that of enhanced
multi-frame objects both kinds are told apart; the corpus has as many of either.
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
    mix = [_sample(instance(kinds[number % len(kinds)], number)) for number in range(ct)]
    read = [sample for sample in mix if scanned(sample) is not None]
    both = [_sample(enhanced(number, FRAMES)) for number in range(2)]
    found = {
        "ct_mix": _compare(scanned, read, rounds, reads=20) | {"left_to_pydicom": len(mix) - len(read)},
        "ct_mix_all": _compare(found_in, mix, rounds, reads=5),
        "enhanced": _compare(scanned, both, rounds, reads=400),
        "enhanced_defined_lengths": _compare(scanned, both[:1], rounds, reads=400),
        "enhanced_undefined_lengths": _compare(scanned, both[1:], rounds, reads=400),
    }
    for name, bar in BARS.items():
        found[name] |= {"bar": bar, "met": found[name]["ratio"] >= bar}
    return found


def _sample(body: bytes) -> Sample:
    source = Recorded(body)
    read_header(source)
    return Sample(body, body[: source.reached])


def _compare(ours: Reader, samples: Sequence[Sample], rounds: int, reads: int) -> dict[str, Any]:
    """Compare a reader with pydicom; it reads so many times as often, since it takes so much less."""
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
    """Return the CPU seconds that one object takes."""
    started = time.thread_time()
    for sample in samples:
        for _ in range(times):
            read(sample)
    return (time.thread_time() - started) / (times * len(samples))


def scanned(sample: Sample) -> dict[str, str] | None:
    """Return what the scanner finds; None if it left the object to pydicom."""
    file = BlockFile(len(sample.body))
    file.add(0, sample.prefix)
    return Scanner(file).values()


def found_in(sample: Sample) -> dict[str, str]:
    """Return what Airlock finds: the scanner, and pydicom where the scanner doubts."""
    plan = header_plan(len(sample.body), first_range=len(sample.prefix))
    next(plan)
    try:
        plan.send(sample.prefix)
    except StopIteration as done:
        return cast("Header", done.value).values
    raise AssertionError("the prefix is what was read before")


def parsed(sample: Sample) -> dict[str, str]:
    """Return what pydicom finds."""
    return texts(pydicom.dcmread(BytesIO(sample.body), stop_before_pixels=True, specific_tags=TAGS))


if __name__ == "__main__":
    with quiet_pydicom():
        json.dump(measure(), sys.stdout, indent=2)
    sys.stdout.write("\n")
