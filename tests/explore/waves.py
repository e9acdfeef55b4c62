"""Histories of deliveries in waves: what each wave is to take, and which studies wait for it.

What counts is invariant 11 as ``waves.hold_split`` promises it: no study is released while a wave that has objects in
its folder has not read its files, unless somebody has given that wave up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airlock.pipelines import ImagingPipeline
from airlock.run import run_key
from airlock.stages.waves import find_waves, read_wave
from tests.explore import contents
from tests.explore.facts import Violation
from tests.explore.history import (
    Clear,
    GiveBack,
    GiveUp,
    Go,
    History,
    Kill,
    Rebuild,
    RunPlan,
    Stall,
    Upload,
    Wait,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from random import Random
    from typing import Any

    from airlock.run import Run
    from tests.explore.books import ArrivalRow, Books
    from tests.explore.facts import Facts
    from tests.explore.history import Step
    from tests.explore.memory_s3 import MemoryS3
    from tests.explore.play import Player

CUT = ("waves", "whole")  # pipelines whose deliveries are cut; with the second, studies wait for waves
_DISTURBING = (Clear, GiveBack, GiveUp, Kill, Rebuild, Stall)
_DAYS = [f"2026-10-{day}T02:00:00+00:00" for day in (21, 22, 23, 24)]
_MOST_WAVES = 4
_UNTIL_MORNING, _DAY = 38.5, 24.0  # hours: from the clock's start to half an hour after the end of the first window


@dataclass(frozen=True)
class Part:
    """The part of a delivery that a wave is to take."""

    lead: str  # the key of the run that listed
    objects: dict[str, frozenset[tuple[str, str]]]  # keys with etags, by folder right below the source


def plan_waves(pipeline: str, number: int, lead: str = "A", **given: Any) -> dict[str, RunPlan]:
    """Return a run whose delivery is cut, and the runs of its further waves."""
    further = {f"{lead}{wave}": RunPlan(pipeline, wave=wave, wave_of=lead) for wave in range(2, number + 1)}
    return {lead: RunPlan(pipeline, **given)} | further


def nights_of_waves(rng: Random) -> History:
    """Return nights whose deliveries are cut; of some nights the later waves never begin, and the next night comes."""
    pipeline = rng.choice(("waves", "whole", "whole"))
    nights = "ABC"[: rng.choice((2, 2, 3))]
    runs: dict[str, RunPlan] = {}
    steps: list[Step] = [Wait(_UNTIL_MORNING - _DAY)]
    for day, name in enumerate(nights):
        plans = plan_waves(pipeline, _MOST_WAVES, name, window=(_DAYS[day], _DAYS[day + 1]), how="scheduled")
        runs |= plans
        steps += [_upload(rng, day, number) for number in range(rng.randint(2, 5))]
        steps += [Wait(_DAY), *_night(rng, list(plans))]
    return History("nights of waves", runs, tuple(steps), lookback_hours=rng.choice((0.0, 0.0, 24.0)))


def _upload(rng: Random, day: int, number: int) -> Upload:
    folder = rng.choice(("x/a/", "x/b/", "x/b/", "y/", ""))
    kind = rng.choice(("ct",) * 8 + ("bad", "cut"))
    return Upload(f"in/{folder}{day}{number}.dcm", f"{kind} {rng.randint(1, 2)}.1.{10 * day + number + 1}")


def _night(rng: Random, waves: list[str]) -> list[Step]:
    """Return a night: its waves run to their ends, one after the other or at the same time, or some never begin."""
    begin = rng.randint(1, len(waves))
    end: list[Step] = [Stall(waves[begin - 1])] if rng.random() < 0.5 else []
    waves = waves[:begin] if end else waves
    if rng.random() < 0.4:
        return [*map(Go, waves), *end]
    shuffled = rng.sample(waves, len(waves))
    first = [Go(name, until=rng.choice(("parse", "normalize", "audit"))) for name in waves]
    killed = [Go(rng.choice(waves), rng.randint(1, 60), fatal=True)] if rng.random() < 0.3 else []
    return [*first, *killed, *end, *map(Go, shuffled), *map(Clear, shuffled if killed else [])]


def read_parts(run: Run[Any]) -> dict[str, Part]:
    """Return the parts of a delivery by the keys of their runs; none of a pipeline that lets no study wait."""
    pipeline = run.pipeline
    if not isinstance(pipeline, ImagingPipeline) or not pipeline.waves.hold_split or run.wave is not None:
        return {}
    waves = find_waves(run)
    numbers = range(1, 1 + (0 if waves is None else len(waves.waves)))
    keys = {} if waves is None else {number: run_key(pipeline.name, waves.run_id(number)) for number in numbers}
    return {keys[number]: Part(run.key, _by_folder(run, number)) for number in numbers}


def _by_folder(run: Run[Any], number: int) -> dict[str, frozenset[tuple[str, str]]]:
    found: dict[str, set[tuple[str, str]]] = {}
    for rows in read_wave(run, number):
        for key, etag in rows.select("key", "etag").iter_rows():
            found.setdefault(_folder(run.prefix.key, key), set()).add((key, etag))
    return {folder: frozenset(objects) for folder, objects in found.items()}


def _folder(prefix: str, key: str) -> str:
    folder, slash, _ = key.removeprefix(prefix).partition("/")
    return folder if slash else ""


def released_before_its_waves(facts: Facts, s3: MemoryS3, before: Books, now: Books) -> Iterator[Violation]:
    """11: a study is not released while a wave that may have a file of it has not been read."""
    if not facts.parts:
        return
    earlier = {(row.pipeline, row.arrival_id) for row in before.arrivals if row.disposition == "released"}
    holders = {(row.key, row.etag): row.run_key for row in now.arrivals}
    for row in now.arrivals:
        is_new = row.disposition == "released" and (row.pipeline, row.arrival_id) not in earlier
        for wave, objects in _awaited_parts(facts, row) if is_new else ():
            unread = (key for key, etag in sorted(objects) if holders.get((key, etag), wave) == wave)
            lacking = [key for key in unread if _has_file_of(facts, key, facts.study(row))]
            if lacking:
                name = facts.names.get(wave, "a wave that has not begun")
                yield Violation(11, f"{facts.describe(row)}, but {lacking[0]} of {name} has not been read")


def _awaited_parts(facts: Facts, row: ArrivalRow) -> Iterator[tuple[str, frozenset[tuple[str, str]]]]:
    """Yield the other waves that have not validated and were not given up, with their objects in a row's folder."""
    own = facts.parts.get(row.run_key)
    if own is None:
        return
    folder = next((one for one, objects in own.objects.items() if (row.key, row.etag) in objects), None)
    for wave, part in facts.parts.items():
        is_awaited = wave != row.run_key and part.lead == own.lead and wave not in facts.validated | facts.given_back
        if is_awaited and folder in part.objects:
            yield wave, part.objects[folder]


def _has_file_of(facts: Facts, key: str, study: str | None) -> bool:
    """Return whether a readable file of a study is under a key."""
    content = next((one.content for one in facts.puts if one.key == key and one.gone_at is None), "")
    image = contents.image_of(content)
    return image is not None and image.is_read and image.study == study


def split_studies_are_released_once(player: Player) -> list[Violation]:
    """11: where nothing goes wrong, a study in one folder is released once, also from several waves of a delivery."""
    history = player.history
    if len({step.key.split("/")[1] for step in history.steps if isinstance(step, Upload)}) > 1:
        return []
    alone = {plan.pipeline for plan in history.runs.values()} == {"whole"} and "small waves" in history.kind
    if not alone or any(isinstance(step, _DISTURBING) for step in history.steps):
        return []
    if any("killed" in line for line in player.played.timeline):
        return []
    sent = Counter(one.subject_key for one in player.reader.read().queued if one.destination)
    return [Violation(11, f"study {key} was released {one} times") for key, one in sorted(sent.items()) if one > 1]
