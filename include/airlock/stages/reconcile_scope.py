"""What a reconciliation compares, what it will cost, and its pages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from airlock.ledger.comparisons import FOUND

if TYPE_CHECKING:
    import polars as pl

STORE, SOURCE, EVIDENCE = "store", "source", "evidence"
PARTS = (STORE, SOURCE, EVIDENCE)


class ReconcileError(RuntimeError):
    """A reconciliation cannot be done as asked; nothing was compared."""


@dataclass(frozen=True)
class Scope:
    """What is compared: everything, a sample, or one study or patient."""

    subject: str | None = None  # a study key, or Patient/<id>
    sample: int | None = None  # number of studies or resources
    parts: tuple[str, ...] = PARTS
    content: bool = False  # whether the content of each image set or resource is read
    pixels: bool = False  # whether the pixels of each instance are compared with those of its object

    @property
    def is_whole(self) -> bool:
        """Whether everything is compared."""
        return self.subject is None and self.sample is None

    def as_json(self) -> dict[str, Any]:
        """Return the scope as the ledger keeps it: an interrupted comparison goes on with the same scope only."""
        given = {"subject": self.subject, "sample": self.sample, "parts": sorted(self.parts), "content": self.content}
        given |= {"pixels": self.pixels or None}
        return {name: value for name, value in given.items() if value is not None}


@dataclass(frozen=True)
class Expected:
    """Requests that a reconciliation is going to make."""

    what: str
    number: int
    per_second: float
    cost: float | None  # None if the price is unknown


@dataclass(frozen=True)
class Estimate:
    """The requests of a reconciliation, and what to know of them."""

    requests: tuple[Expected, ...]
    currency: str
    notes: tuple[str, ...] = ()

    @property
    def seconds(self) -> float:
        """The time that the requests need at least."""
        return sum(one.number / one.per_second for one in self.requests)


@dataclass(frozen=True)
class Page:
    """A part of a comparison; when it is recorded, the comparison goes on at its position."""

    position: Any
    counts: dict[str, int]
    found: pl.DataFrame = field(default_factory=FOUND.to_frame)
    compared: tuple[str, ...] = ()  # study keys or patients of which everything was compared
    left_out: dict[str, str] = field(default_factory=dict)  # study keys or patients, with the reason
    young: tuple[str, ...] = ()  # subjects that are left to the next run; their earlier findings stay
    found_again: tuple[str, ...] = ()  # subjects that an earlier comparison missed
