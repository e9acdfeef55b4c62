"""Counters and gauges of one edge, in Prometheus's text format."""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

PREFIX: Final = "airlock_edge_"
_MOST_TITLES = 200  # distinct AE titles of strangers; a scan of ports may bring any number
_OTHER = "(other)"
_Key = tuple[str, tuple[tuple[str, str], ...]]


class Metrics:
    """The numbers of one edge; any thread may change them."""

    def __init__(self) -> None:
        self._lock = Lock()
        self._values: dict[_Key, float] = {}
        self._strangers: set[str] = set()

    def count(self, name: str, number: float = 1, /, **labels: str) -> None:
        """Add to a counter; its name ends in ``_total``."""
        key = name, tuple(labels.items())
        with self._lock:
            self._values[key] = self._values.get(key, 0) + number

    def put(self, name: str, value: float, /, **labels: str) -> None:
        """Set a gauge."""
        with self._lock:
            self._values[name, tuple(labels.items())] = value

    def count_refusal(self, ae_title: str, why: str) -> None:
        """Count a refused association by its calling AE title."""
        with self._lock:
            if ae_title not in self._strangers and len(self._strangers) >= _MOST_TITLES:
                ae_title = _OTHER
            self._strangers.add(ae_title)
        self.count("refused_associations_total", ae_title=ae_title, why=why)

    def values(self) -> Mapping[str, float]:
        """Return every number by its name and labels, as Prometheus spells them."""
        with self._lock:
            return {_spell(name, labels): value for (name, labels), value in sorted(self._values.items())}

    def page(self) -> str:
        """Return the page that Prometheus reads."""
        return "".join(f"{PREFIX}{name} {value:g}\n" for name, value in self.values().items())


def _spell(name: str, labels: tuple[tuple[str, str], ...]) -> str:
    if not labels:
        return name
    pairs = ",".join(f'{key}="{_escape(value)}"' for key, value in labels)
    return f"{name}{{{pairs}}}"


def _escape(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
