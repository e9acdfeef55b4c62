"""Histories from a seed and a number: the same two always make the same one.

Most are random. Every fourth one is small and goes without a hitch: from these `aim` makes the histories in which a run
is killed at a certain point, or is overtaken there.
"""

from __future__ import annotations

from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING

from tests.explore.history import (
    Clear,
    GiveBack,
    GiveUp,
    Go,
    History,
    Rebuild,
    Remove,
    RunPlan,
    Stall,
    Step,
    Upload,
    Wait,
)
from tests.explore.lost import lose
from tests.explore.nights import nights, nights_in_waves
from tests.explore.sweeps import swept
from tests.explore.waves import CUT, nights_of_waves, plan_waves

if TYPE_CHECKING:
    from collections.abc import Callable

MOST_POINTS = 150  # of a run; one that is over before is not killed
_SECOND = (
    "ct 1.1.2",
    "ct 1.2.1",
    "bad 1.1.2",
    "noframes 1.1.2",
    "cut 1.1.2",
    "header 1.1.1",
    "pixels 1.1.1",
    "ct 1.1.1",
)
_KINDS = ("ct",) * 14 + ("bad", "bad", "noframes", "cut", "garbage", "empty", "header", "pixels")
_REDRIVE = ("element_too_long", "study_incomplete", "sibling_unread")
_REDRIVE_RESOURCES = ("rejected", "unresolved_reference", "patient_held")
_VARIANTS = "aaabbc"
_SOME_REFUSED = "aaaabbbccd"  # HealthLake refuses d


def generate(seed: int, number: int) -> History:
    """Return a history."""
    rng = Random(f"{seed}/{number}")  # it replays, it guards nothing
    return _OF_TURNS[number % TURNS](rng)


def _small_imaging(rng: Random) -> History:
    """Two runs bring two files: at least one is good, and the other may hold its study."""
    contents = ["ct 1.1.1", rng.choice(_SECOND)]
    rng.shuffle(contents)
    uploads = [Upload(f"in/{folder}/1.dcm", content) for folder, content in zip("ab", contents, strict=True)]
    first, second = _choose_two(rng)
    runs = {"A": RunPlan(first, "in/a/"), "B": RunPlan(second, rng.choice(("in/b/", "in/b/", "")))}
    return History(f"small {_name_kind(first)}", runs, (*uploads, Go("A"), Go("B")))


def _choose_two(rng: Random) -> tuple[str, str]:
    """Return the pipelines of two runs: often the same, and in two of five histories with a publication."""
    names = ("first", "second") if rng.random() < 0.6 else ("published", "mirror")
    return names if rng.random() < 0.3 else (names[0], names[0])


def _name_kind(pipeline: str) -> str:
    return "publication" if pipeline == "published" else "imaging"


def _small_redrive(rng: Random) -> History:
    """A redrive of a study whose bad file has been mended, or not."""
    bad = Upload("in/a/1.dcm", rng.choice(("bad 1.1.1", "bad 1.1.1", "cut 1.1.1")))
    mended = [Upload(bad.key, "ct 1.1.1")] if rng.random() < 0.6 else []
    good = [Upload("in/a/2.dcm", "ct 1.1.2")] if rng.random() < 0.6 else []
    runs = {"first": RunPlan("first"), "A": RunPlan("first", reasons=_REDRIVE), "B": RunPlan("first", "in/a/")}
    return History("small redrive", runs, (bad, *good, Go("first"), Wait(24), *mended, Go("A"), Go("B")))


def _small_clinical(rng: Random) -> History:
    """Two runs bring resources of the same patients on two days."""
    runs = {"A": RunPlan("records", "fhir/a/"), "B": RunPlan("records", rng.choice(("fhir/b/", "")))}
    first, second = (Upload(f"fhir/{folder}/1.ndjson", f"fhir {_resources(rng)}") for folder in "ab")
    together = rng.random() < 0.5
    steps = (first, second, Go("A"), Go("B")) if together else (first, Go("A"), Wait(24), second, Go("B"))
    return History("small clinical", runs, steps)


def _small_refused(rng: Random) -> History:
    """A redrive of a file with resources that HealthLake refuses, and what depends on them, mended or not."""
    known = [Upload("fhir/a/1.ndjson", "fhir p1=a"), Go("zero"), Wait(24)] if rng.random() < 0.6 else []
    bad = rng.choice(("o1=a p1=d", "o1=a p1=d", "a1=a o2/p2=a p1=a p2=d", "a1=d o1=a p1=b"))
    mended = [Upload("fhir/b/1.ndjson", f"fhir {bad.replace('d', 'c')}")] if rng.random() < 0.6 else []
    later = [Upload("fhir/c/1.ndjson", f"fhir {_resources(rng)}")] if rng.random() < 0.8 else []
    runs = {name: RunPlan("records") for name in ("zero", "first")}
    runs |= {"A": RunPlan("records", reasons=_REDRIVE_RESOURCES), "B": RunPlan("records", "fhir/c/")}
    last = rng.choice((("A", "B"), ("B", "A")))
    steps = (*known, Upload("fhir/b/1.ndjson", f"fhir {bad}"), Go("first"), Wait(24), *mended, *later, *map(Go, last))
    return History("small refused", runs, steps)


def _small_late(rng: Random) -> History:
    """A resource comes a night before the one that it refers to, and a third run takes it in."""
    early = rng.choice(("o1=a", "o1/p1+v1=a", "o1=a o2/p1+v1=b", "a1=a"))
    late = rng.choice(("p1=a", "p1=a v1=a", "p1=a v1=a o1=b", "v1=a"))
    runs = {name: RunPlan("records") for name in "ABC"}
    steps = (Upload("fhir/a/1.ndjson", f"fhir {early}"), Go("A"), Wait(24))
    return History("small late", runs, (*steps, Upload("fhir/b/1.ndjson", f"fhir {late}"), Go("B"), Wait(24), Go("C")))


def _late(rng: Random) -> History:
    """Return nights on which a Patient, a visit and what refers to them come in any order, some of them changed."""
    more = ("o1/p1+v1=b", "v1=b", "p1=b", "o2=a", "p1=d", "o2=d")
    pieces = ["p1=a", "v1=a", "o1/p1+v1=a", "a1=a", *rng.sample(more, 2)]
    rng.shuffle(pieces)
    runs = {name: RunPlan("records", rng.choice(("", "", "", "fhir/0/"))) for name in "ABCD"[: rng.choice((2, 3, 4))]}
    steps: list[Step] = []
    for number, piece in enumerate(pieces):
        steps.append(Upload(f"fhir/{number % 2}/{number}.ndjson", f"fhir {piece}"))
        if rng.random() < 0.6:
            begun = rng.random()
            name = rng.choice([*runs])
            steps.append(Go(name) if begun < 0.6 else Go(name, rng.randint(1, MOST_POINTS), fatal=begun < 0.85))
            steps += [Wait(24)] if rng.random() < 0.7 else []
    for name in rng.sample([*runs], len(runs)):
        before = rng.choice(((), (), (GiveUp(name),), (GiveBack(name),)))
        steps += [*before, Clear(name), Go(name)]
    return History("late context", runs, tuple(steps))


def _small_waves(rng: Random) -> History:
    """A delivery in two waves, of which a study may have files in both."""
    other = rng.choice(("ct 1.1.2", "ct 2.1.1", "bad 1.1.2", "cut 1.1.2", "pixels 1.1.1"))
    folder = rng.choice(("", "x/"))
    contents = (("a/1", "ct 1.1.1"), ("b/1", other))
    uploads = [Upload(f"in/{folder}{key}.dcm", content) for key, content in contents]
    return History("small waves", plan_waves(rng.choice(CUT), 2), (*uploads, Go("A"), Go("A2")))


def _waves(rng: Random) -> History:
    """Return a delivery in several waves, and another run over a part of it; maybe a wave never begins."""
    pipeline = rng.choice(CUT)
    uploads = [replace(step, key=step.key.replace("in/", f"in/{rng.choice('xy')}/")) for step in _images(rng)]
    runs = plan_waves(pipeline, 3) | {"B": RunPlan(rng.choice((pipeline, "first")), rng.choice(("in/x/", "")))}
    steps = [Go("A", rng.randint(1, 40)), *_shuffle(rng, list(runs), [], uploads)]
    if rng.random() < 0.3:
        steps.insert(rng.randint(1, len(steps)), Stall(rng.choice(("A", "A2"))))
    return History("waves", runs, (*uploads, *steps))


def small(seed: int, number: int, turn: int | None = None) -> History:
    """Return a small history; its kind depends on the turn of the process, which is the number if there is one."""
    turns = sorted(_SMALL)
    return generate(seed, number * TURNS + turns[(number if turn is None else turn) % len(turns)])


def is_small(history: History) -> bool:
    """Return whether a history is one of `small`, as it was made."""
    return history.kind.startswith("small ")


def small_like(history: History, rng: Random) -> History:
    """Return another small history of the same kind, with other files."""
    while True:
        other = rng.choice(list(_SMALL.values()))(rng)
        if other.kind == history.kind:
            return other


def large(seed: int, number: int, rng: Random) -> History:
    """Return a random history of one of the other kinds."""
    return generate(seed, number * TURNS + rng.choice([turn for turn in range(TURNS) if turn not in _SMALL]))


def _overlap(rng: Random) -> History:
    """Return two or three runs over shared studies, which wait, die and go on in any order."""
    uploads = _images(rng)
    runs = _imaging_runs(rng, rng.choice((2, 2, 3)))
    first = uploads if rng.random() < 0.6 else uploads[:-1]
    later = [step for step in uploads if step not in first]
    what = "published images" if runs["A"].pipeline == "published" else "images"
    return History(f"overlapping {what}", runs, (*first, *_shuffle(rng, list(runs), later, uploads)))


def _imaging_runs(rng: Random, number: int) -> dict[str, RunPlan]:
    places = rng.choice((("in/a/", "in/b/", ""), ("in/a/", "in/b/", "in/a/"), ("", "in/b/", ""), ("", "", "")))
    one, other = _choose_two(rng)
    return {name: RunPlan((one, other, one)[at], places[at]) for at, name in enumerate("ABC"[:number])}


def _images(rng: Random) -> list[Upload]:
    """Return uploads of one or two studies into two folders; most are good."""
    studies, found = rng.choice((1, 1, 1, 2)), []
    for number in range(rng.randint(2, 5)):
        study, series, instance = rng.randint(1, studies), rng.choice((1, 1, 2)), rng.choice((number, 1, 2))
        folder = rng.choice("ab")
        found.append(Upload(f"in/{folder}/{number:03}.dcm", f"{rng.choice(_KINDS)} {study}.{series}.{instance + 1}"))
    return found


def _rebuilt(rng: Random) -> History:
    """Return another history in which the ledger is lost and rebuilt once or twice."""
    other = rng.choice((_overlap, _overlap, _clinical, _lost, _lost, *_SMALL.values()))(rng)
    steps = list(other.steps)
    for _ in range(rng.choice((1, 1, 2))):
        steps.insert(rng.randint(1, len(steps)), Rebuild())
    return replace(other, kind=f"rebuilt {other.kind}", steps=tuple(steps))


def _lost(rng: Random) -> History:
    """Return a history of images in which somebody deletes image sets."""
    return lose(rng, rng.choice((_overlap, _small_imaging))(rng))


def _uid(step: Upload) -> str:
    return step.content.partition(" ")[2] or "1.1.1"


def _clinical(rng: Random) -> History:
    """Return days on which files come, are replaced and put back, and runs that are late, cleared and killed."""
    stable = rng.random() < 0.5  # exports under the same keys, or under new ones
    runs = {name: RunPlan("records") for name in "ABC"[: rng.choice((2, 3, 3))]}
    steps: list[Step] = []
    contents: list[str] = []
    for day, name in enumerate(runs):
        for number in range(rng.choice((1, 1, 2))):
            key = f"fhir/{number}.ndjson" if stable else f"fhir/{day}/{number}.ndjson"
            content = (
                rng.choice(contents) if contents and rng.random() < 0.3 else f"fhir {_resources(rng, _SOME_REFUSED)}"
            )
            contents.append(content)
            age = 0.0 if stable or rng.random() < 0.8 else 60.0
            steps.append(Upload(key, content, age))
        begun = rng.random()
        steps.append(Go(name) if begun < 0.5 else Go(name, rng.randint(1, MOST_POINTS), fatal=begun < 0.8))
        steps.append(Wait(24))
    order = list(runs)
    rng.shuffle(order)
    for name in order:
        steps += [*([GiveUp(name)] if rng.random() < 0.3 else []), Clear(name), Go(name)]
    return History("clinical days", runs, tuple(steps))


def _resources(rng: Random, variants: str = _VARIANTS) -> str:
    names = rng.sample(("p1", "o1", "a1", "p2", "o2/p2"), rng.choice((1, 2, 3)))
    return " ".join(f"{name.partition('/')[0]}{_whose(name)}={rng.choice(variants)}" for name in sorted(names))


def _whose(name: str) -> str:
    _, cut, whose = name.partition("/")
    return cut + whose


def _shuffle(rng: Random, runs: list[str], later: list[Upload], uploads: list[Upload]) -> list[Step]:
    """Return the steps of runs that are interrupted, and of what happens meanwhile."""
    steps: list[Step] = []
    for _ in range(rng.randint(3, 9)):
        name, chance = rng.choice(runs), rng.random()
        if chance < 0.35:
            steps.append(Go(name, rng.randint(1, MOST_POINTS)))
        elif chance < 0.55:
            steps.append(Go(name))
        elif chance < 0.75:
            steps.append(Go(name, rng.randint(1, MOST_POINTS), fatal=True))
        elif chance < 0.90:
            steps.append(rng.choice((Clear(name), Clear(name), GiveUp(name), Clear(name, "audit"), GiveBack(name))))
        else:
            steps.append(_change(rng, later, uploads))
    return [*steps, *later]


def _change(rng: Random, later: list[Upload], uploads: list[Upload]) -> Step:
    """Return a change of the source: an object that comes late, is replaced, or is deleted."""
    one = rng.choice(uploads)
    chance = rng.random()
    if later and chance < 0.4:
        return later.pop()
    if chance < 0.8:
        return Upload(one.key, f"ct {_uid(one)}")
    return Remove(one.key)


_OF_TURNS: tuple[Callable[[Random], History], ...] = (
    _small_imaging,
    nights,
    _clinical,
    _overlap,
    _small_clinical,
    swept,
    _rebuilt,
    _lost,
    _small_redrive,
    nights,
    _small_refused,
    _overlap,
    _small_waves,
    _waves,
    nights_in_waves,
    nights_of_waves,
    _small_late,
    _late,
)
_SMALL = {turn: kind for turn, kind in enumerate(_OF_TURNS) if kind.__name__.startswith("_small")}
TURNS = len(_OF_TURNS)  # histories after which the kinds begin again
