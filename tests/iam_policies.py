"""The policies of iam/ as a test reads them: filled in, and judged as IAM judges a request.

It knows the elements and operators that the policies of iam/ use, and refuses any other: a policy that it does not
understand must not look like one that allows or refuses something. The rules are those of the IAM user guide, "Policy
evaluation logic" and "IAM JSON policy elements: Condition operators".
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

IAM = Path(__file__).parents[1] / "iam"
_ELEMENTS = {"Sid", "Effect", "Principal", "Action", "Resource", "Condition"}
_PLACEHOLDER = re.compile(r"\b[A-Z][A-Z_]*[A-Z]\b")


@dataclass(frozen=True)
class Request:
    """One right that a request to AWS needs.

    Parameters
    ----------
    action
        As in ``s3:GetObject``.
    resource
        The ARN of what it is about.
    context
        The condition keys that the request has.
    """

    action: str
    resource: str
    context: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Policy:
    """A policy document, with the name of its file."""

    name: str
    statements: tuple[dict[str, Any], ...]

    @classmethod
    def parse(cls, name: str, text: str) -> Policy:
        """Return the policy of a document; an element that nobody judges here is refused."""
        statements = tuple(json.loads(text)["Statement"])
        for statement in statements:
            if unknown := statement.keys() - _ELEMENTS:
                raise ValueError(f"{name}: a statement has {sorted(unknown)}, which these tests cannot judge")
        return cls(name, statements)

    @property
    def actions(self) -> set[str]:
        """Every action that a statement names."""
        return {action for statement in self.statements for action in listed(statement["Action"])}

    def find(self, effect: str, request: Request) -> str | None:
        """Return the Sid of the first statement with this effect that applies to a request; None if none does."""
        applying = (one["Sid"] for one in self.statements if one["Effect"] == effect and _applies(one, request))
        return next(applying, None)


def shipped(name: str, names: Mapping[str, str] | None = None) -> Policy:
    """Return a policy of iam/, with the words in capitals replaced where *names* has them."""
    return Policy.parse(name, fill((IAM / name).read_text(encoding="utf-8"), names or {}))


def fill(text: str, names: Mapping[str, str]) -> str:
    """Replace the words in capitals, as iam/README.md asks for."""
    return _PLACEHOLDER.sub(lambda word: names.get(word[0], word[0]), text)


def allow(policies: Iterable[Policy], request: Request) -> bool:
    """Return whether identity-based policies together allow a request."""
    known = list(policies)
    return any(one.find("Allow", request) for one in known) and not any(one.find("Deny", request) for one in known)


def listed(value: str | list[str]) -> list[str]:
    """Return an element's values; IAM takes a list or one text."""
    return value if isinstance(value, list) else [value]


def _applies(statement: dict[str, Any], request: Request) -> bool:
    if statement.get("Principal", "*") != "*":
        raise ValueError(f"{statement['Sid']} names a principal: these tests judge the caller's own policies")
    return (
        any(_is_like(request.action, action) for action in listed(statement["Action"]))
        and any(_is_like(request.resource, resource) for resource in listed(statement["Resource"]))
        and all(
            _holds(operator, request.context.get(key), listed(wanted))
            for operator, keys in statement.get("Condition", {}).items()
            for key, wanted in keys.items()
        )
    )


def _holds(operator: str, value: str | None, wanted: list[str]) -> bool:
    if operator == "Null":
        return (value is None) == (wanted == ["true"])
    base = operator.removesuffix("IfExists")
    plain = base.replace("Not", "")
    matches = _OPERATORS[plain]  # a KeyError is a policy that nobody judges here
    if value is None:  # a condition that is negated, or only counts if the key exists, is met without the key
        return operator != base or base != plain
    return any(matches(value, pattern) for pattern in wanted) == (base == plain)


def _is_equal(value: str, pattern: str) -> bool:
    return value == pattern


def _is_like(value: str, pattern: str) -> bool:
    return _compile(pattern).fullmatch(value) is not None


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """Return IAM's pattern as a regular expression: it has ``*`` and ``?``, and nothing else is special."""
    return re.compile(re.escape(pattern).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


_OPERATORS: dict[str, Callable[[str, str], bool]] = {
    "StringEquals": _is_equal,
    "StringLike": _is_like,
    "Bool": _is_equal,
    "ArnEquals": _is_like,  # IAM user guide: ArnEquals and ArnLike behave identically
}
