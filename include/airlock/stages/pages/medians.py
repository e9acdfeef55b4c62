"""What is usual: the median shares of reasons and dispositions in a pipeline's last nights."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from datetime import timedelta
from statistics import median
from typing import TYPE_CHECKING

from airlock.records import Disposition

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from airlock.ledger.nights import NightTotal

NIGHTS = 14
ONE_NIGHT = timedelta(hours=12)
LEAST_NIGHTS = 5  # below which a median says nothing
REJECTED = (Disposition.QUARANTINED.value, Disposition.FAILED.value)


@dataclass(frozen=True)
class Night:
    """A run in numbers."""

    pipeline: str
    run_key: str
    started_at: datetime
    arrivals: int
    by_disposition: Counter[str]
    by_reason: Counter[str]
    bytes: int

    @property
    def rejected(self) -> int:
        """The arrivals that were rejected before import, by the service, or failed."""
        return sum(self.by_disposition[word] for word in REJECTED)

    @property
    def reject_share(self) -> float:
        """The share of the arrivals that were rejected."""
        return self.rejected / self.arrivals if self.arrivals else 0.0


def count_nights(totals: Iterable[NightTotal]) -> list[Night]:
    """Return the runs of these totals that had arrivals, the earliest first."""
    rows: dict[str, list[NightTotal]] = {}
    for total in totals:
        rows.setdefault(total.run_key, []).append(total)
    nights = [_count_night(of_run) for of_run in rows.values()]
    return sorted((night for night in nights if night.arrivals > 0), key=lambda night: night.started_at)


def _count_night(totals: Sequence[NightTotal]) -> Night:
    first = totals[0]
    dispositions, reasons = Counter[str](), Counter[str]()
    for total in totals:
        dispositions[total.disposition] += total.arrivals
        if total.reason is not None:
            reasons[total.reason] += total.arrivals
    size = sum(total.bytes for total in totals)
    arrivals = sum(dispositions.values())
    return Night(first.pipeline, first.run_key, first.started_at, arrivals, dispositions, reasons, size)


def last_nights(nights: Iterable[Night], pipeline: str, before: datetime) -> list[Night]:
    """Return the last `NIGHTS` runs with arrivals of a pipeline that started before the night of a moment.

    The waves of one delivery are runs of the same night: what they have in common is not usual for that.
    """
    earlier = before - ONE_NIGHT
    return [night for night in nights if night.pipeline == pipeline and night.started_at < earlier][-NIGHTS:]


def median_reject_share(nights: Sequence[Night]) -> float | None:
    """Return the median share of rejected arrivals; None if there are too few nights."""
    return median(night.reject_share for night in nights) if len(nights) >= LEAST_NIGHTS else None


def median_arrivals(nights: Sequence[Night]) -> float | None:
    """Return the median number of arrivals; None if there are too few nights."""
    return median(night.arrivals for night in nights) if len(nights) >= LEAST_NIGHTS else None


def median_reasons(nights: Sequence[Night]) -> dict[str, float] | None:
    """Return the median share of each reason, above zero; None if there are too few nights."""
    if len(nights) < LEAST_NIGHTS:
        return None
    codes = {code for night in nights for code in night.by_reason}
    shares = {code: median(night.by_reason[code] / night.arrivals for night in nights) for code in codes}
    return {code: share for code, share in shares.items() if share > 0}
