"""Conditions of a search on ``fhir_version`` and the rows of ``fhir_search``."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

    from localaws.healthlake.search_values import Span

FOUND_BY = "number IN (SELECT number FROM fhir_search WHERE parameter = ? AND ({}))"


@dataclass(frozen=True)
class Sql:
    """A condition and the values of its question marks."""

    text: str
    values: tuple[Any, ...] = ()

    @classmethod
    def any_of(cls, conditions: Iterable[Sql]) -> Sql:
        """Return the condition that holds when one of these does."""
        return cls._joined(" OR ", list(conditions), "0")

    @classmethod
    def all_of(cls, conditions: Iterable[Sql]) -> Sql:
        """Return the condition that holds when all of these do."""
        return cls._joined(" AND ", list(conditions), "1")

    @classmethod
    def _joined(cls, operator: str, conditions: list[Sql], otherwise: str) -> Sql:
        text = operator.join(f"({item.text})" for item in conditions) or otherwise
        return cls(text, tuple(value for item in conditions for value in item.values))

    @classmethod
    def one_of(cls, column: str, values: Iterable[str]) -> Sql:
        """Return the condition that a column has one of these values."""
        found = tuple(values)
        return cls(f"{column} IN ({', '.join('?' * len(found))})", found)

    def found_by(self, parameter: str) -> Sql:
        """Return the condition that one of the rows of a search parameter meets this one."""
        return Sql(FOUND_BY.format(self.text), (parameter, *self.values))

    def inverted(self) -> Sql:
        """Return the opposite."""
        return Sql(f"NOT ({self.text})", self.values)


def compare_spans(prefix: str, span: Span, low: str = "low", high: str = "high") -> Sql:
    """Return how a stored range is compared with the one that is asked for (FHIR R4, search, 3.1.1.4.3)."""
    begin, end = span
    inside = Sql(f"{low} >= ? AND {high} <= ?", (begin, end))
    above, below = Sql(f"{high} > ?", (end,)), Sql(f"{low} < ?", (begin,))
    return {
        "eq": inside,
        "ne": inside.inverted(),
        "gt": above,
        "lt": below,
        "ge": Sql.any_of([above, inside]),
        "le": Sql.any_of([below, inside]),
        "sa": Sql(f"{low} >= ?", (end,)),
        "eb": Sql(f"{high} <= ?", (begin,)),
    }[prefix]


@dataclass(frozen=True)
class Scope:
    """The versions that a search sees: one data store, as it was indexed by a moment.

    Parameters
    ----------
    datastore_id : str
        Whose resources.
    until : float
        Only versions of this moment or before, in seconds since the epoch.
    strong : bool
        Also see the version before one that is not indexed yet ("FHIR Search Consistency Levels" of HealthLake's
        developer guide); without it such a resource is not found at all, unless it was written like that.
    """

    datastore_id: str
    until: float
    strong: bool = False

    def of(self, resource_type: str, *, counted: bool = False) -> Sql:
        """Return the condition for the versions of a type that are seen; a total counts recently deleted ones, too."""
        text = "datastore_id = ? AND resource_type = ? AND NOT deleted AND updated_at <= ?"
        values = (self.datastore_id, resource_type, self.until)
        condition = "" if self.strong or counted else "kept AND "
        return Sql(f"{text} AND (superseded_at IS NULL OR ({condition}superseded_at > ?))", (*values, self.until))
