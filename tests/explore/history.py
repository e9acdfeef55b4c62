"""A history: runs, and the steps that objects, runs, operators and time take, as data that prints and shrinks.

Every step may be left out: a step that does not apply (a run that has ended goes on) does nothing.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from typing import Any

PUBLICATION = ("fhir.normalize", "fhir.import", "fhir.audit")
STAGES = (
    "receive",
    "buffer",
    "parse",
    "validate",
    "normalize",
    "stage",
    "import",
    "audit",
    *PUBLICATION,
    "route",
)  # of a run


@dataclass(frozen=True)
class Upload:
    """An object comes under a key; a replica keeps a time that is *age* hours old."""

    key: str
    content: str
    age: float = 0.0

    def __str__(self) -> str:
        late = f", a replica of {self.age:g} hours ago" if self.age else ""
        return f"upload {self.key}: {self.content}{late}"


@dataclass(frozen=True)
class Remove:
    """An object is deleted."""

    key: str

    def __str__(self) -> str:
        return f"delete {self.key}"


@dataclass(frozen=True)
class Wait:
    """Hours pass."""

    hours: float

    def __str__(self) -> str:
        return f"{self.hours:g} hours pass"


@dataclass(frozen=True)
class Go:
    """A run goes on: to its end, for so many calls, up to a stage or a point; there it waits, or is killed."""

    run: str
    points: int | None = None
    fatal: bool = False
    until: str = ""
    at: str = ""  # a point, with the number of its line or without it

    def __str__(self) -> str:
        end = " and is killed" if self.fatal else ""
        if self.at or self.until:
            return f"{self.run} goes on up to {self.at or self.until}{end}"
        return f"{self.run} goes on for {self.points} calls{end}" if self.points else f"{self.run} goes on to its end"


@dataclass(frozen=True)
class Kill:
    """A run is killed where it waits."""

    run: str

    def __str__(self) -> str:
        return f"{self.run} is killed"


@dataclass(frozen=True)
class Clear:
    """Somebody clears a stage of a run and what follows; without a stage, the one that did not succeed."""

    run: str
    stage: str = ""
    at: str = ""  # a point, at which it is killed again, or waits
    fatal: bool = True

    def __str__(self) -> str:
        what = f"somebody clears {self.stage or 'the failed task'} of {self.run} and what follows"
        return what + _describe_stop(self.at, self.fatal)


@dataclass(frozen=True)
class GiveUp:
    """The retries of a run's killed task are used up: it counts as failed, and audit runs."""

    run: str
    at: str = ""  # a point, at which it is killed again, or waits
    fatal: bool = True

    def __str__(self) -> str:
        what = f"the killed task of {self.run} counts as failed, the DAG goes on"
        return what + _describe_stop(self.at, self.fatal)


@dataclass(frozen=True)
class GiveBack:
    """An operator gives the claims of a run back."""

    run: str

    def __str__(self) -> str:
        return f"airlock ledger release {self.run}"


@dataclass(frozen=True)
class Sweep:
    """Everything below a pipeline's source is compared with the ledger; the sweep may be killed at a call of S3."""

    pipeline: str
    calls: int = 0  # at which it is killed; 0 never

    def __str__(self) -> str:
        return f"airlock sweep {self.pipeline}{f', killed at call {self.calls} of S3' if self.calls else ''}"


@dataclass(frozen=True)
class Rebuild:
    """The ledger is lost, and rebuilt from the workspaces; runs that go on are killed before."""

    def __str__(self) -> str:
        return "the ledger is lost: airlock ledger rebuild"


@dataclass(frozen=True)
class Lose:
    """Somebody deletes an image set in the data store."""

    number: int  # of those that are there

    def __str__(self) -> str:
        return "somebody deletes an image set"


@dataclass(frozen=True)
class Reconcile:
    """The ledger is compared with the data store of a pipeline."""

    pipeline: str

    def __str__(self) -> str:
        return f"airlock reconcile {self.pipeline}"


@dataclass(frozen=True)
class Stall:
    """A run never starts the next wave: its task has failed for good, and nobody clears it."""

    run: str

    def __str__(self) -> str:
        return f"{self.run} never starts the next wave"


Step = Upload | Remove | Wait | Go | Kill | Clear | GiveUp | GiveBack | Stall | Sweep | Rebuild | Lose | Reconcile
_KINDS = (Upload, Remove, Wait, Go, Kill, Clear, GiveUp, GiveBack, Stall, Sweep, Rebuild, Lose, Reconcile)
_STEPS = {kind.__name__: kind for kind in _KINDS}


@dataclass(frozen=True)
class RunPlan:
    """A run of a history.

    Parameters
    ----------
    pipeline
        ``first`` or ``second`` of images, ``waves`` of images in runs of two objects, ``whole`` the same with
        ``hold_split``, ``published`` or ``mirror`` of images that are published as FHIR, or ``records``.
    prefix
        The folder below the source that it takes; all without one.
    reasons
        Those of a redrive.
    window
        Of a scheduled run or a backfill: start and end, ISO 8601.
    finds
        Whether it redrives what the data store has lost.
    how
        ``manual``, ``scheduled`` or ``backfill``.
    wave, wave_of
        Which part it takes of the delivery of another run, by the name of that.
    """

    pipeline: str
    prefix: str = ""
    reasons: tuple[str, ...] = ()
    window: tuple[str, str] | None = None
    how: str = "manual"
    finds: bool = False
    wave: int = 0
    wave_of: str = ""

    def __str__(self) -> str:
        what = [self.how, f"pipeline {self.pipeline}"]
        if self.window:
            what.append(f"from {self.window[0]} to {self.window[1]}")
        if self.prefix:
            what.append(f"below {self.prefix}")
        if self.reasons:
            what.append(f"redrives {', '.join(self.reasons)}")
        if self.finds:
            what.append("redrives what the data store has lost")
        if self.wave:
            what.append(f"wave {self.wave} of {self.wave_of}")
        return ", ".join(what)


@dataclass(frozen=True)
class History:
    """All that happens.

    Parameters
    ----------
    kind
        Which generator made it.
    runs
        By name.
    steps
        In their order.
    lookback_hours, key_dates
        Of the source.
    claims_only
        Whether runs end after buffer: what they would do with objects does not matter.
    """

    kind: str
    runs: dict[str, RunPlan]
    steps: tuple[Step, ...]
    zone: str = "UTC"
    lookback_hours: float = 24.0
    key_dates: bool = False
    claims_only: bool = False
    promised: tuple[str, ...] = field(default_factory=tuple)  # keys that the windows of the runs cover

    def to_json(self) -> str:
        """Return the history as a line of JSON, for `from_json`."""
        plain = {item.name: getattr(self, item.name) for item in fields(self)}
        plain["runs"] = {name: asdict(plan) for name, plan in self.runs.items()}
        plain["steps"] = [[type(step).__name__, *asdict(step).values()] for step in self.steps]
        return json.dumps(plain)

    @classmethod
    def from_json(cls, text: str) -> History:
        """Read what `to_json` wrote."""
        plain: dict[str, Any] = json.loads(text)
        plain["runs"] = {name: _read_plan(plan) for name, plan in plain["runs"].items()}
        plain["steps"] = tuple(_STEPS[name](*values) for name, *values in plain["steps"])
        plain["promised"] = tuple(plain["promised"])
        return cls(**plain)


def _describe_stop(at: str, fatal: bool) -> str:
    return f", up to {at}{' where it is killed' if fatal else ''}" if at else ""


def _read_plan(plain: dict[str, Any]) -> RunPlan:
    window = tuple(plain["window"]) if plain["window"] else None
    return RunPlan(**(plain | {"reasons": tuple(plain["reasons"]), "window": window}))
