"""The events that a pattern of EventBridge takes, by its documented operators; None is an answer that is not known.

The operators are those of "Comparison operators for use in event patterns" in EventBridge's user guide.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from airlock.stages.doctor.policies import as_list, matches

Judge = Callable[[str, str, str], bool | None]  # by operator and its text, about a value or about a prefix


def list_fields(pattern: Mapping[str, Any]) -> dict[str, list[Any]]:
    """Return the conditions of a pattern by the path of their field, for example ``detail.bucket.name``."""
    return dict(_walk(pattern, ""))


def _walk(node: Mapping[str, Any], path: str) -> Iterator[tuple[str, list[Any]]]:
    for name, value in node.items():
        if isinstance(value, Mapping):
            yield from _walk(value, f"{path}{name}.")
        else:
            yield f"{path}{name}", as_list(value)


def match_value(conditions: Iterable[Any], value: str) -> bool | None:
    """Return whether one of the conditions of a field holds for a value."""
    return _any(_judge_condition(one, value, _match_operator) for one in conditions)


def cover_prefix(conditions: Iterable[Any], prefix: str) -> bool | None:
    """Return whether one of the conditions of a field holds for all values that begin with a prefix."""
    return _any(_judge_condition(one, prefix, _cover_operator) for one in conditions)


def _any(answers: Iterable[bool | None]) -> bool | None:
    known = set(answers)
    if True in known:
        return True
    return None if None in known else False


def _judge_condition(condition: Any, value: str, judge: Judge) -> bool | None:
    if isinstance(condition, str):
        return judge("equals", condition, value)
    if not isinstance(condition, Mapping) or len(condition) != 1:
        return None
    ((operator, given),) = condition.items()
    if operator == "anything-but":
        return _judge_exception(given, value, judge)
    if isinstance(given, Mapping) and set(given) == {"equals-ignore-case"}:  # a prefix or a suffix in any case
        given, value = str(given["equals-ignore-case"]).lower(), value.lower()
    return judge(operator, given, value) if isinstance(given, str) else None


def _judge_exception(given: Any, value: str, judge: Judge) -> bool | None:
    """Return whether ``anything-but`` holds: of values, or of one operator with one or more texts."""
    ((operator, texts),) = given.items() if isinstance(given, Mapping) and len(given) == 1 else (("equals", given),)
    excepted = [judge(operator, one, value) if isinstance(one, str) else None for one in as_list(texts)]
    if judge is _cover_operator and True not in excepted:  # part of the values may be left out
        apart = all(_is_apart(operator, one, value) for one in as_list(texts))
        return True if apart else None
    held = _any(excepted)
    return None if held is None else not held


def _is_apart(operator: str, text: Any, prefix: str) -> bool:
    """Return whether an operator is known to hold for no value that begins with a prefix."""
    if operator not in {"equals", "prefix"} or not isinstance(text, str):
        return False
    return not text.startswith(prefix) and not (operator == "prefix" and prefix.startswith(text))


def _match_operator(operator: str, text: str, value: str) -> bool | None:
    if operator == "equals":
        return value == text
    if operator == "prefix":
        return value.startswith(text)
    if operator == "suffix":
        return value.endswith(text)
    if operator == "equals-ignore-case":
        return value.lower() == text.lower()
    if operator == "wildcard":
        return _match_wildcard(text, value)
    return None


def _match_wildcard(text: str, value: str) -> bool | None:
    if "\\" in text or "?" in text:  # an escaped star; a question mark stands for itself, unlike in a policy
        return None
    return matches(text, value)


def _cover_operator(operator: str, text: str, prefix: str) -> bool | None:
    if operator == "prefix":
        return prefix.startswith(text)
    if operator in {"equals", "equals-ignore-case"}:
        return False  # one value is not all
    if operator == "wildcard" and "\\" not in text:
        head = text.partition("*")[0]
        if not head.startswith(prefix) and not prefix.startswith(head):
            return False
        return True if text.endswith("*") and _match_wildcard(text, prefix) else None
    return None
