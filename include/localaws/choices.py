"""The emulator's choices where AWS is silent or contradicts itself, each with its alternatives."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True)
class Choice:
    """One question that AWS leaves open.

    ``aws`` quotes AWS and ``source`` names the page; ``alternatives`` has a sentence for each possible answer;
    ``default`` applies unless ``--choices id=answer`` names another one.
    """

    id: str
    aws: str
    source: str
    alternatives: Mapping[str, str]
    default: str

    @classmethod
    def read(cls, entry: dict[str, Any]) -> Choice:
        """Read an entry of ``choices.json``; raises ValueError if its default is not one of its alternatives."""
        choice = cls(**entry)
        choice.check(choice.default)
        return choice

    def check(self, answer: str) -> None:
        """Raise ValueError that names the alternatives if the answer is not one of them."""
        if answer not in self.alternatives:
            raise ValueError(f"{self.id} cannot be {answer!r}: write one of {', '.join(self.alternatives)}")


@cache
def all_choices() -> Mapping[str, Choice]:
    """Return every choice by its id, in the order of ``choices.json``."""
    entries = json.loads(resources.files(__package__).joinpath("choices.json").read_text(encoding="utf-8"))
    return {choice.id: choice for choice in map(Choice.read, entries)}


def check_choices(answers: Mapping[str, str]) -> None:
    """Raise ValueError for an id that no choice has, and for an answer that is not one of its alternatives."""
    for identifier, answer in answers.items():
        if identifier not in all_choices():
            raise ValueError(f"there is no choice {identifier!r}: the choices are {', '.join(all_choices())}")
        all_choices()[identifier].check(answer)
