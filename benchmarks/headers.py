"""The contest of the ways to read headers: a corpus on SeaweedFS behind a counting proxy, read in interleaved turns.

Compared turns run within seconds of each other on the same machine, so only ratios within one run are meaningful. The
floor and Airlock run next to every other contestant, alternately before and after it, so that their ratio comes from
many neighbouring pairs.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections import defaultdict
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from functools import partial
from itertools import cycle, islice
from statistics import median
from typing import TYPE_CHECKING, Any

from benchmarks.contestants import BUCKET, CONTESTANTS, IN_FLIGHT, Object, Run, Task
from benchmarks.corpus import Recipe, objects, truth
from benchmarks.proxy import Dials, proxy
from benchmarks.seaweed import client, seaweed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from benchmarks.corpus import Made
    from benchmarks.proxy import Proxy

FIRST_BYTE = 0.025  # median seconds
FIGURES = ("objects_per_second", "cpu_ms_per_object", "requests_per_object", "kib_per_object", "peak_rss_mib")
_ALWAYS = ("floor", "airlock", "floor_if_match")  # fast contestants, whose ratio needs many pairs
_TIMES = 2  # readings of the corpus in one of their turns: about as many objects as a parse task has
_UPLOADS = 8  # at the same time; a few times as many objects are in memory


@dataclass(frozen=True)
class Scale:
    """The size of a contest.

    Parameters
    ----------
    recipe
        The recipe of the corpus.
    rounds
        How often each contestant reads the corpus; those of ``_ALWAYS`` read it more often.
    """

    recipe: Recipe
    rounds: int


FULL = Scale(Recipe(mixed=2400, enhanced=4), rounds=2)
QUICK = Scale(Recipe(mixed=600, enhanced=1), rounds=1)


@dataclass(frozen=True)
class _Pass:
    """A contestant's turn."""

    contestant: str
    figures: dict[str, float]  # those of FIGURES
    server_ms: dict[str, float]  # CPU per object of the server and of the proxy, meanwhile
    differing: int | None  # objects whose values are not pydicom's; None where none are read


def measure(folder: Path, scale: Scale) -> dict[str, Any]:
    """Build the corpus and let all contestants read it.

    Parameters
    ----------
    folder
        The folder for the server's log and its data, which is deleted afterwards.
    scale
        The size of the contest.

    Returns
    -------
    dict
        ``corpus`` (objects, MiB, kinds), ``first_byte_ms``, ``in_flight``, ``contestants`` (by name ``title``, the
        median of each of ``FIGURES``, ``server_ms`` and ``differing``) and ``ratios`` (by name and figure, the
        contestant's over Airlock's in the turn of Airlock that is nearest, the median).
    """
    shutil.rmtree(folder / "seaweed" / "data", ignore_errors=True)
    try:
        with seaweed(folder / "seaweed", patience=1) as server:
            corpus = _upload(server.endpoint, scale.recipe)
            with proxy(server.endpoint, folder / "proxy") as before:
                contest = _Contest(folder, before, {"seaweed": server.pid, "proxy": before.pid}, corpus)
                contest.turn("floor")  # fills the server's cache; S3 itself is no slower the first time
                passes = [contest.turn(name) for name in schedule(scale.rounds)]
    finally:
        shutil.rmtree(folder / "seaweed" / "data", ignore_errors=True)
    return corpus.facts() | {
        "first_byte_ms": 1000 * FIRST_BYTE,
        "in_flight": IN_FLIGHT,
        "contestants": {name: _summary(name, passes) for name in CONTESTANTS},
        "ratios": {name: ratios(name, passes) for name in CONTESTANTS},
    }


def schedule(rounds: int) -> list[str]:
    """Return the contestants in the order of their turns."""
    order: list[str] = []
    for number in range(rounds):
        for other in (name for name in CONTESTANTS if name not in _ALWAYS):
            around = list(_ALWAYS if (len(order) + number) % 2 else reversed(_ALWAYS))
            order += [*around, other]
    return [*order, *_ALWAYS]


# --- the corpus -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Corpus:
    """The objects on the server, and the values that pydicom reads from them."""

    listed: list[Object]
    kinds: dict[str, int]
    truths: list[dict[str, str]]

    def facts(self) -> dict[str, Any]:
        size = sum(item.size for item in self.listed)
        return {"corpus": {"objects": len(self.listed), "mib": round(size / 2**20), "kinds": self.kinds}}


def _upload(endpoint: str, recipe: Recipe) -> _Corpus:
    s3, corpus = client(endpoint, max_pool_connections=_UPLOADS), _Corpus([], defaultdict(int), [])
    s3.create_bucket(Bucket=BUCKET)
    made = objects(recipe)
    with ThreadPoolExecutor(_UPLOADS) as pool:
        while some := list(islice(made, 4 * _UPLOADS)):
            puts = pool.map(partial(_put, s3), some)
            for item in some:  # pydicom reads while the uploads run
                corpus.kinds[item.kind] += 1
                corpus.truths.append(present(truth(item.body)))
            corpus.listed.extend(puts)
    return corpus


def _put(s3: Any, made: Made) -> Object:
    reply = s3.put_object(Bucket=BUCKET, Key=made.key, Body=made.body)
    return Object(made.key, reply["ETag"].strip('"'), len(made.body), datetime.now(UTC).isoformat())


def present(values: dict[str, str]) -> dict[str, str]:
    """Return the values that are not empty, since Airlock drops empty values (records.HEADERS)."""
    return {keyword: text for keyword, text in values.items() if text}


# --- the turns --------------------------------------------------------------------------------------------------------


class _Contest:
    """A contest, in which each contestant reads the corpus in a process of its own."""

    def __init__(self, folder: Path, before: Proxy, pids: dict[str, int], corpus: _Corpus) -> None:
        self._folder, self._corpus = folder, corpus
        self._task = partial(Task, endpoint=before.endpoint, dials=str(before.dials), pids=pids)
        (folder / "index.json").write_text(json.dumps(corpus.listed), encoding="utf-8")
        Dials(before.dials).first_byte = FIRST_BYTE

    def turn(self, contestant: str) -> _Pass:
        """Run a contestant once.

        Raises
        ------
        RuntimeError
            If it fails; its error is on stderr.
        """
        rows, task = self._folder / "rows.json", self._folder / "task.json"
        asked = self._task(
            contestant,
            index=str(self._folder / "index.json"),
            rows=str(rows),
            times=_TIMES if contestant in _ALWAYS else 1,
        )
        task.write_text(json.dumps(asdict(asked)), encoding="utf-8")
        command = [sys.executable, "-m", "benchmarks.contestants", str(task)]
        reply = subprocess.run(command, check=False, stdout=subprocess.PIPE, text=True)  # noqa: S603  (ourselves)
        if reply.returncode:
            raise RuntimeError(f"contestant {contestant} failed with status {reply.returncode}: see its error above")
        differing = self._differing(json.loads(rows.read_text())) if CONTESTANTS[contestant].parses else None
        turn = _of(contestant, Run(**json.loads(reply.stdout)), differing)
        speed, cpu = (turn.figures[figure] for figure in FIGURES[:2])
        sys.stdout.write(f"  {CONTESTANTS[contestant].title:26} {speed:7,.0f} objects/s, {cpu:.2f} ms of CPU each\n")
        sys.stdout.flush()
        return turn

    def _differing(self, rows: Sequence[dict[str, str]]) -> int:
        return sum(present(row) != known for row, known in zip(rows, cycle(self._corpus.truths), strict=False))


def _of(contestant: str, run: Run, differing: int | None) -> _Pass:
    each = run.objects
    figures = {
        "objects_per_second": each / run.seconds,
        "cpu_ms_per_object": 1000 * run.cpu_seconds / each,
        "requests_per_object": run.requests / each,
        "kib_per_object": run.bytes / 1024 / each,
        "peak_rss_mib": run.peak_rss_mib,
    }
    return _Pass(
        contestant, figures, {name: 1000 * used / each for name, used in run.server_cpu_seconds.items()}, differing
    )


# --- what it comes to -------------------------------------------------------------------------------------------------


def _summary(name: str, passes: Sequence[_Pass]) -> dict[str, Any]:
    own = [turn for turn in passes if turn.contestant == name]
    return {
        "title": CONTESTANTS[name].title,
        "passes": len(own),
        **{figure: round(median(turn.figures[figure] for turn in own), 3) for figure in FIGURES},
        "server_ms": {server: round(median(turn.server_ms[server] for turn in own), 3) for server in own[0].server_ms},
        "differing": max((turn.differing for turn in own if turn.differing is not None), default=None),
    }


def ratios(name: str, passes: Sequence[_Pass]) -> dict[str, float]:
    """Return the median ratios of a contestant's figures to those of Airlock's nearest pass."""
    pairs = list(_pairs(name, passes))
    return {
        figure: round(median(other.figures[figure] / airlock.figures[figure] for other, airlock in pairs), 3)
        for figure in FIGURES
    }


def _pairs(name: str, passes: Sequence[_Pass]) -> Iterator[tuple[_Pass, _Pass]]:
    airlock = [place for place, turn in enumerate(passes) if turn.contestant == "airlock"]
    for place, turn in enumerate(passes):
        if turn.contestant == name:
            yield turn, passes[min(airlock, key=lambda other: abs(other - place))]
