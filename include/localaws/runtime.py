"""The parts of a running emulator that every module of a service uses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from localaws.events import Events
    from localaws.faults import FaultBoard
    from localaws.schedule import Schedule
    from localaws.settings import Settings
    from localaws.state import State


@dataclass(frozen=True)
class Runtime:
    """Settings, database, to-do list, fault switches and events of one running emulator."""

    settings: Settings
    state: State
    schedule: Schedule
    faults: FaultBoard
    events: Events
