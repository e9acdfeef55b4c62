"""How people decide: who answers reviews how often, how fast and with what result, and what all have decided."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import median
from typing import TYPE_CHECKING

from airlock.ledger.decision_counts import DecisionCount

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from airlock.ledger.answers import GivenAnswer


@dataclass(frozen=True)
class Reviewer:
    """The answers of a person."""

    name: str
    answers: int
    approved: int
    unopened: int  # answered without having opened them, with others of the same reason and site
    seconds: float | None  # from opening a review to its answer, the median; None if none was opened
    asked_again: int  # of the approved ones, those whose subject was asked about again later


def list_reviewers(answers: Iterable[GivenAnswer]) -> list[Reviewer]:
    """Return the people who have answered, who did most of it first."""
    by_person: dict[str, list[GivenAnswer]] = {}
    for one in answers:
        by_person.setdefault(one.person, []).append(one)
    found = [_describe(name, given) for name, given in by_person.items()]
    return sorted(found, key=lambda one: (-one.answers, one.name))


def sum_decisions(counts: Sequence[DecisionCount]) -> DecisionCount:
    """Return the decisions of all people, who are not named."""
    return DecisionCount("all", sum(one.overrides for one in counts), sum(one.write_offs for one in counts))


def _describe(name: str, given: list[GivenAnswer]) -> Reviewer:
    waits = [(one.decided_at - one.opened_at).total_seconds() for one in given if one.opened_at is not None]
    return Reviewer(
        name=name,
        answers=len(given),
        approved=sum(one.approved for one in given),
        unopened=len(given) - len(waits),
        seconds=median(waits) if waits else None,
        asked_again=sum(one.approved and one.asked_again for one in given),
    )
