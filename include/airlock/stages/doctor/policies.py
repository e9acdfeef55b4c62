"""What one resource policy says about one request: a trust policy, or that of a bucket, a queue or a key.

The order is IAM's ("Policy evaluation logic" in its user guide): a Deny that applies wins, then an Allow. Conditions
about values that the doctor does not know leave the answer open.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Any, Final

Document = Mapping[str, Any]


class Answer(Enum):
    """What a policy says."""

    ALLOWED = "allowed"
    DENIED = "denied"
    SILENT = "silent"
    OPEN = "open"  # it depends on what the doctor does not know


@dataclass(frozen=True)
class Request:
    """A request as a policy sees it.

    Parameters
    ----------
    principals
        The caller as each element of a policy may name it: ``AWS:<ARN>`` or ``Service:<name>``.
    action
        The action, for example ``sqs:SendMessage``.
    resource
        The resource's ARN; empty where the policy has no resources.
    context
        Values of condition keys; None says that the request does not have the key. Other keys are unknown.
    """

    principals: frozenset[str]
    action: str
    resource: str = ""
    context: Mapping[str, str | None] = field(default_factory=dict)


def ask(document: Document, request: Request) -> Answer:
    """Return what a policy says about a request."""
    held = [(one["Effect"], _applies(one, request)) for one in as_list(document.get("Statement", []))]
    if ("Deny", True) in held:
        return Answer.DENIED
    if ("Allow", True) in held:
        return Answer.OPEN if ("Deny", None) in held else Answer.ALLOWED
    return Answer.OPEN if ("Allow", None) in held else Answer.SILENT


def as_list(value: Any) -> list[Any]:
    """Return an element of a policy as a list: one value may stand without brackets."""
    return list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]


def has_condition(document: Document, principal: str, key: str) -> bool:
    """Return whether each Allow for a principal has a condition about a key."""
    allows = [one for one in as_list(document.get("Statement", [])) if one["Effect"] == "Allow"]
    concerned = [one for one in allows if _names(one, frozenset({principal}))]
    return bool(concerned) and all(key.lower() in _condition_keys(one) for one in concerned)


def names_anybody(document: Document) -> bool:
    """Return whether an Allow without conditions is for every principal."""
    allows = [one for one in as_list(document.get("Statement", [])) if one["Effect"] == "Allow"]
    return any(not one.get("Condition") and "*" in _principals(one) for one in allows)


def _condition_keys(statement: Document) -> set[str]:
    return {key.lower() for tests in statement.get("Condition", {}).values() for key in tests}


def _applies(statement: Document, request: Request) -> bool | None:
    """Return whether a statement is about a request; None if that depends on something unknown."""
    if not _names(statement, request.principals) or not _is_about_action(statement, request.action):
        return False
    if request.resource and not _is_about_resource(statement, request.resource):
        return False
    tests = statement.get("Condition", {})
    held = [_holds(operator, key, values, request) for operator in tests for key, values in tests[operator].items()]
    if False in held:
        return False
    return None if None in held else True


def _principals(statement: Document) -> set[str]:
    named = statement.get("Principal", {})
    if named == "*":
        return {"*"}
    if not isinstance(named, Mapping):
        return set()
    found = {f"{kind}:{one}" for kind, values in named.items() for one in as_list(values)}
    return found | ({"*"} if "AWS:*" in found else set())


def _names(statement: Document, principals: frozenset[str]) -> bool:
    if "NotPrincipal" in statement:
        others = {f"{kind}:{one}" for kind, values in statement["NotPrincipal"].items() for one in as_list(values)}
        return not others & principals
    named = _principals(statement)
    return "*" in named or bool(named & principals)


def _is_about_action(statement: Document, action: str) -> bool:
    if "NotAction" in statement:
        return not any(matches(one.lower(), action.lower()) for one in as_list(statement["NotAction"]))
    return any(matches(one.lower(), action.lower()) for one in as_list(statement.get("Action", [])))


def _is_about_resource(statement: Document, resource: str) -> bool:
    if "NotResource" in statement:
        return not any(matches(one, resource) for one in as_list(statement["NotResource"]))
    return any(matches(one, resource) for one in as_list(statement.get("Resource", "*")))


def matches(pattern: str, text: str) -> bool:
    """Return whether a text matches a pattern of a policy, in which ``*`` and ``?`` stand for any characters."""
    regular = re.escape(pattern).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(regular, text, re.DOTALL) is not None


_IF_EXISTS: Final = "IfExists"
_NEGATED: Final = {
    "StringNotEquals",
    "StringNotLike",
    "ArnNotEquals",
    "ArnNotLike",
    "StringNotEqualsIgnoreCase",
    "NotIpAddress",
}
_OF_ADDRESSES: Final = {"IpAddress", "NotIpAddress"}
_KNOWN: Final = _NEGATED | {"StringEquals", "StringLike", "ArnEquals", "ArnLike", "Bool", "StringEqualsIgnoreCase"}


def _holds(operator: str, key: str, values: Any, request: Request) -> bool | None:
    """Return whether one condition holds for a request; None if that is not known."""
    context = {name.lower(): value for name, value in request.context.items()}
    if key.lower() not in context:
        return None
    value, wanted = context[key.lower()], [str(one) for one in as_list(values)]
    if operator == "Null":
        return (value is None) == (wanted[0].lower() == "true")
    plain = operator.removesuffix(_IF_EXISTS)
    if value is None and plain in _OF_ADDRESSES:
        return plain in _NEGATED or operator.endswith(_IF_EXISTS)
    if plain not in _KNOWN:
        return None
    if value is None:  # IAM: a negated operator and ...IfExists hold for a key that the request does not have
        return plain in _NEGATED or operator.endswith(_IF_EXISTS)
    if plain == "Bool" or plain.endswith("IgnoreCase"):
        value, wanted = value.lower(), [one.lower() for one in wanted]
    return any(matches(one, value) for one in wanted) != (plain in _NEGATED)
