"""Waves: a delivery that is too large for one run is listed once, and cut at folder borders into runs of its own.

The run that lists is the first wave. It freezes the listing of each wave in its workspace as ``waves/<number>``, and
then ``waves/index.json``, which makes them count. Each wave claims its part, and then starts the next one: several are
active at the same time, and a window counts as taken when the last wave has claimed. What a wave has not read is not
known of: a study in two waves is released as in two deliveries, or waits (`airlock.stages.split_studies`).
"""

from __future__ import annotations

import json
from collections import Counter
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from itertools import chain, takewhile
from typing import TYPE_CHECKING, Any, NamedTuple

import polars as pl

from airlock.ledger.arrivals import LISTED
from airlock.ledger.runs import name_wave
from airlock.run import run_key
from airlock.stages.sites import first_folder
from airlock.storage.spool import Partitions

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from airlock.pipelines import Pipeline
    from airlock.run import Run
    from airlock.storage.spool import FrameFile, Spool
    from airlock.storage.workspace import Workspace

INDEX = "waves/index.json"
_SAMPLE_EVERY = 500  # keys of a listing, to sort it in pieces
_STEPS_PER_WAVE = 100  # places to cut a folder that is larger than a wave, by objects and by bytes
_EARLIEST_CUT = 0.75  # of a wave: behind it the border of the largest folders is taken
PARAMS = ("wave", "wave_of")  # of a run that is not the first wave
_TIMES = ("since", "until", "owed_due", "owed_at")


class WaveError(RuntimeError):
    """A wave cannot be taken: it does not exist, or its turn has not come."""


class Border(NamedTuple):
    """A place between two objects, in the order of keys, at which a delivery may be cut."""

    position: int  # the objects before it
    bytes: int  # their size
    folders: int  # that the objects on both sides have in common
    within: bool = False  # a folder: both sides lie in the same one


class WaveLimits(NamedTuple):
    """The most objects and bytes of a wave."""

    objects: int
    bytes: int

    def share(self, first: Border, end: Border) -> float:
        """Return how much of a wave the objects between two borders fill."""
        return max((end.position - first.position) / self.objects, (end.bytes - first.bytes) / self.bytes)


@dataclass(frozen=True)
class Wave:
    """A part of a delivery."""

    objects: int
    bytes: int
    # Folders right below the run's prefix of which another wave has objects too; "" stands for objects beside them.
    folders: tuple[str, ...] = ()


@dataclass(frozen=True)
class Waves:
    """All waves of a delivery."""

    lead: str  # Airflow's id of the run that listed, which is the first wave
    since: datetime | None  # where the window of the listing begins, before any look-back; None without a window
    until: datetime  # when the listing began, or the end of the window
    owed_due: datetime  # owed objects come again if their next attempt is at or before this time
    waves: tuple[Wave, ...]
    owed_at: datetime | None = None  # when the listing began, if it takes what is owed; else None
    undated: int = 0  # as in `buffer.Buffered`

    def run_id(self, number: int) -> str:
        """Return Airflow's id of the run of a wave, counted from 1."""
        return name_wave(self.lead, number)

    def find_sharing(self, number: int) -> dict[str, list[int]]:
        """Return the numbers of the other waves that have objects in the same folders as a wave, by folder."""
        numbered = [(other, wave.folders) for other, wave in enumerate(self.waves, 1) if other != number]
        return {
            folder: [other for other, folders in numbered if folder in folders]
            for folder in self.waves[number - 1].folders
        }

    def taken_until(self, number: int) -> datetime:
        """Return the time up to which what was listed is taken once a wave has claimed.

        Before the last wave that is where the window begins, so that a later night lists all of it again.
        """
        return self.until if number == len(self.waves) or self.since is None else self.since

    def to_json(self) -> dict[str, Any]:
        """Return the JSON of the index."""
        times = {name: getattr(self, name) for name in _TIMES}
        return asdict(self) | {name: time and time.isoformat() for name, time in times.items()}

    @classmethod
    def of_json(cls, content: dict[str, Any]) -> Waves:
        """Return the waves of an index."""
        known = {"owed_at": None} | content  # an earlier version did not know it
        times = {name: known[name] and datetime.fromisoformat(known[name]) for name in _TIMES}
        waves = tuple(Wave(**wave | {"folders": tuple(wave["folders"])}) for wave in content["waves"])
        return cls(**known | times | {"waves": waves})


def find_waves(run: Run[Pipeline]) -> Waves | None:
    """Return the waves of the delivery that a run is part of; None if it has a delivery of its own.

    Raises
    ------
    WaveError
        If the run was started as a wave that does not exist.
    """
    try:
        content = json.loads(run.s3.get(_workspace(run).root.join(INDEX)))
    except FileNotFoundError:
        if run.wave is None:
            return None
        raise WaveError(f"run {run.wave.of!r} has no waves. Start a run without wave and wave_of.") from None
    waves = Waves.of_json(content)
    if run.wave is not None and not 1 < run.wave.number <= len(waves.waves):
        raise WaveError(f"run {run.wave.of!r} has {len(waves.waves)} waves, not a wave {run.wave.number}.")
    return waves


def cut_waves(run: Run[Pipeline], listing: FrameFile, limits: WaveLimits) -> tuple[Wave, ...]:
    """Cut a listing, freeze the listing of each wave and return the waves; they count once `write_waves` has ended.

    Parameters
    ----------
    run
        The run that listed.
    listing
        Frames of ``ledger.arrivals.LISTED``, in any order.
    limits
        The most objects and bytes of a wave.
    """
    with _cut_listing(listing, limits) as (ordered, ends):
        waves = list(_write_parts(run, ordered, ends))
    number = Counter(folder for wave in waves for folder in wave.folders)
    return tuple(replace(wave, folders=tuple(one for one in wave.folders if number[one] > 1)) for wave in waves)


def write_waves(run: Run[Pipeline], waves: Waves) -> None:
    """Write the index of a delivery's waves, whose listings `cut_waves` has frozen."""
    run.workspace.write_json(INDEX, waves.to_json())


def count_waves(listing: FrameFile, limits: WaveLimits | None) -> int:
    """Return how many runs take a listing; frames as for `cut_waves`."""
    if limits is None or fits(listing, limits):
        return 1
    with _cut_listing(listing, limits) as (_, ends):
        return len(ends)


def fits(listing: FrameFile, limits: WaveLimits) -> bool:
    """Return whether one run takes a listing."""
    return limits.share(Border(0, 0, 0), _measure(listing)) <= 1


def read_wave(run: Run[Pipeline], number: int) -> Iterator[pl.DataFrame]:
    """Yield the listing of a wave of the run's delivery, by key."""
    yield from _workspace(run).parts(_dataset(number), LISTED)


def limits_of(pipeline: Pipeline) -> WaveLimits | None:
    """Return the limits of a pipeline's waves; None if it takes each delivery in one run."""
    return None if pipeline.wave_limits is None else WaveLimits(*pipeline.wave_limits)


def number_of(run: Run[Pipeline]) -> int:
    """Return which wave of its delivery a run is."""
    return 1 if run.wave is None else run.wave.number


def check_turn(run: Run[Pipeline], waves: Waves) -> None:
    """Refuse a wave whose predecessor has not claimed: a window would count as taken that is not.

    Raises
    ------
    WaveError
        With the run to look at.
    """
    if run.wave is None:
        return
    before = waves.run_id(run.wave.number - 1)
    known = run.ledger.run(run_key(run.pipeline.name, before))
    if known is None or known.listed_until is None:
        raise WaveError(f"Wave {run.wave.number - 1} has not claimed its objects: see the task buffer of run {before}.")


def find_next_wave(run: Run[Pipeline]) -> tuple[str, dict[str, Any]] | None:
    """Return the id and the params of the run that is to follow; None behind the last wave."""
    waves = find_waves(run)
    following = number_of(run) + 1
    if waves is None or following > len(waves.waves):
        return None
    return waves.run_id(following), dict(zip(PARAMS, (following, waves.lead), strict=True))


def describe_wave(run: Run[Pipeline]) -> dict[str, Any]:
    """Return the field of report.json about a run that is a wave; nothing if it has a delivery of its own.

    ``split_studies`` counts the studies of which another wave has a file too, as far as it has read its files by now.
    """
    waves = find_waves(run)
    if waves is None:
        return {}
    keys = {run_key(run.pipeline.name, waves.run_id(number + 1)) for number in range(len(waves.waves))}
    split = run.ledger.count_shared_studies(run.pipeline.name, run.key, keys - {run.key})
    return {"wave": {"number": number_of(run), "of": len(waves.waves), "run": waves.lead, "split_studies": split}}


def find_borders(ordered: Iterable[pl.DataFrame], limits: WaveLimits) -> Iterator[Border]:
    """Yield where objects in the order of their keys may be cut: between folders, and within them in steps.

    A step is a hundredth of the objects or of the bytes of a wave.
    """
    step, step_bytes = (max(1, limit // _STEPS_PER_WAVE) for limit in limits)
    position, size, last = 0, 0, ""
    for rows in ordered:
        folders = rows["key"].str.replace(r"[^/]*$", "")
        before, ends = folders.shift(1, fill_value=last), size + rows["size"].cum_sum()
        begins = ends - rows["size"]
        steps = (pl.int_range(position, position + rows.height, eager=True) % step) == 0
        steps |= begins // step_bytes != ends // step_bytes  # before the object that reaches the next step
        for index in ((folders != before) | steps).arg_true().to_list():
            if position + index:
                one, other = before[index], folders[index]
                yield Border(position + index, int(begins[index]), _count_shared(one, other), one == other)
        position, size, last = position + rows.height, int(ends[-1]), folders[-1]


def choose_cuts(borders: Iterable[Border], total: Border, limits: WaveLimits) -> list[int]:
    """Return the positions at which a delivery is cut, so that each part keeps to the limits.

    A part ends between two folders: between the largest ones in its last quarter, else behind its last whole folder.
    Only a folder that is larger than a part is cut within. An object that is larger than a part is one.
    """
    cuts: list[int] = []
    first = Border(0, 0, 0)
    reached: list[Border] = []
    for border in chain(borders, [total]):
        while reached and limits.share(first, border) > 1:
            first = _choose(first, [one for one in reached if not one.within] or reached, limits)
            cuts.append(first.position)
            reached = [one for one in reached if one.position > first.position]
        reached.append(border)
    return cuts


@contextmanager
def _cut_listing(listing: FrameFile, limits: WaveLimits) -> Iterator[tuple[Spool, list[int]]]:
    """Yield the objects of a listing in pieces by key, which `_sorted` sorts, and where its parts end."""
    sample = pl.concat([rows["key"].gather_every(_SAMPLE_EVERY) for rows in listing])
    with Partitions(listing.rows) as partitions:
        ordered = partitions.sorted_spool(pl.col("key"), sample, LISTED, listing)
        cuts = choose_cuts(find_borders(_sorted(ordered), limits), _measure(listing), limits)
        yield ordered, [*cuts, listing.rows]


def _measure(listing: FrameFile) -> Border:
    """Return the end of a listing."""
    return Border(listing.rows, sum(int(rows["size"].sum()) for rows in listing), 0)


def _choose(first: Border, reached: Sequence[Border], limits: WaveLimits) -> Border:
    """Return where a part ends that begins at *first*."""
    late = [one for one in reached if limits.share(first, one) > _EARLIEST_CUT] or reached[-1:]
    return min(late, key=lambda one: (one.folders, -one.position))


def _count_shared(one: str, other: str) -> int:
    """Return how many folders two paths have in common; both end in ``/``, or are empty."""
    pairs = zip(one.split("/")[:-1], other.split("/")[:-1], strict=False)
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


def _sorted(ordered: Spool) -> Iterator[pl.DataFrame]:
    return (rows.sort("key") for rows in ordered)


def _write_parts(run: Run[Pipeline], ordered: Spool, ends: Sequence[int]) -> Iterator[Wave]:
    """Write each part of the sorted rows as a dataset, and yield it as a wave."""
    pieces = _cut(_sorted(ordered), ends)
    following = next(pieces, None)
    for number in range(1, len(ends) + 1):
        objects = size = 0
        folders: set[str] = set()
        with run.workspace.writer(_dataset(number), LISTED) as writer:
            while following is not None and following[0] == number:
                rows = following[1]
                writer.add(rows)
                objects, size = objects + rows.height, size + int(rows["size"].sum())
                folders |= _find_open_folders(run, rows)
                following = next(pieces, None)
        yield Wave(objects, size, tuple(sorted(folders)))


def _cut(frames: Iterator[pl.DataFrame], ends: Sequence[int]) -> Iterator[tuple[int, pl.DataFrame]]:
    """Yield rows with the number of their part, from 1; a part ends before each of these positions."""
    number = position = 0
    for rows in frames:
        taken = 0
        while taken < rows.height:
            piece = rows.slice(taken, ends[number] - position)
            yield number + 1, piece
            taken, position = taken + piece.height, position + piece.height
            number += position == ends[number]


def _find_open_folders(run: Run[Pipeline], rows: pl.DataFrame) -> set[str]:
    """Return the folders of `Wave` of which there may be objects before or behind these rows, which are sorted."""
    is_beside = ~pl.col("key").str.strip_prefix(run.prefix.key).str.contains("/", literal=True)
    open_ended = pl.concat([rows.head(1), rows.tail(1), rows.filter(is_beside).head(1)])
    return set(open_ended.select(first_folder(run.prefix))["folder"])


def _workspace(run: Run[Pipeline]) -> Workspace:
    """Return the workspace of the run that listed the delivery."""
    if run.wave is None:
        return run.workspace
    return run.workspace_of(run_key(run.pipeline.name, run.wave.of), run.folder)


def _dataset(number: int) -> str:
    return f"waves/{number:04}"
