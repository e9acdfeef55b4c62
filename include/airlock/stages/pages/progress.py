"""How far a run is: of each of its tasks, how many instances have ended."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

from airlock.stages.pages.charts import Part

if TYPE_CHECKING:
    from collections.abc import Iterable

# Airflow's states of a task instance; any other one waits.
_ENDED = {"success", "skipped", "removed"}
_FAILED = {"failed", "upstream_failed"}
_RUNNING = {"running", "deferred", "awaiting_input", "queued", "restarting", "up_for_retry", "up_for_reschedule"}
# The tasks in the order of a run; tasks of other names come after them.
_ORDER = (
    *(
        "receive",
        "buffer",
        "next_wave",
        "parse",
        "validate",
        "normalize",
        "stage",
        "import",
        "audit",
    ),
    *("fhir.parse", "fhir.validate", "fhir.normalize", "fhir.import", "fhir.audit", "route"),
)


@dataclass(frozen=True)
class TaskProgress:
    """The instances of a task."""

    task: str
    ended: int
    running: int
    failed: int
    waiting: int

    @property
    def total(self) -> int:
        """The number of instances."""
        return self.ended + self.running + self.failed + self.waiting

    @property
    def parts(self) -> list[Part]:
        """The parts of its bar."""
        numbers = (("ended", self.ended, "released"), ("running", self.running, "accepted"))
        return [
            *(Part(*one) for one in numbers),
            Part("failed", self.failed, "failed"),
            Part("waiting", self.waiting, "left"),
        ]


def count_tasks(instances: Iterable[tuple[str, str | None, int]]) -> list[TaskProgress]:
    """Return the progress of each task from the numbers of its instances by state, in the order of a run."""
    counts: dict[str, Counter[str]] = {}
    for task, state, number in instances:
        counts.setdefault(task, Counter())[_kind(state)] += number
    places = {name: place for place, name in enumerate(_ORDER)}
    names = sorted(counts, key=lambda name: (places.get(name, len(places)), name))
    return [
        TaskProgress(name, **{kind: counts[name][kind] for kind in ("ended", "running", "failed", "waiting")})
        for name in names
    ]


def _kind(state: str | None) -> str:
    for states, kind in ((_ENDED, "ended"), (_FAILED, "failed"), (_RUNNING, "running")):
        if state in states:
            return kind
    return "waiting"
