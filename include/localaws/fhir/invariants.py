"""The invariants of FHIR R4 (https://hl7.org/fhir/R4/conformance-rules.html#constraints), evaluated by fhirpathpy."""

from __future__ import annotations

import threading
from decimal import Decimal
from functools import cache
from typing import TYPE_CHECKING, Any

import fhirpathpy
from fhirpathpy.engine.nodes import ResourceNode
from fhirpathpy.models import models

from localaws.fhir.findings import Issue
from localaws.fhir.native_rules import native

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from localaws.fhir.schema import Rule
    from localaws.fhir.structure import RuledElement, Scope

# dom-6 (a resource should have a narrative) is best practice: AWS's own examples of valid resources have none.
# txt-1 and txt-2 are what `localaws.fhir.narrative` checks.
NOT_EVALUATED = frozenset({"dom-6", "txt-1", "txt-2"})
# Expressions that fhirpathpy cannot evaluate: it has no resolve(). Nothing is said about them.
BEYOND_FHIRPATHPY = frozenset({"ctm-1"})
LARGEST = 20_000
_compiling = threading.Lock()


def _has_value(inputs: list[Any]) -> list[bool]:
    return [len(inputs) == 1 and isinstance(inputs[0], str | int | float | Decimal)]


OPTIONS = {
    # Without a function of ours, trace() prints parts of the resource.
    "traceFn": lambda *_: None,
    "userInvocationTable": {"hasValue": {"fn": _has_value, "arity": {0: []}}},
}


@cache
def _compiled(expression: str) -> Callable[[Any, dict[str, Any]], list[Any]]:
    with _compiling:
        compiled: Callable[[Any, dict[str, Any]], list[Any]] = fhirpathpy.compile(expression, models["r4"], OPTIONS)
    return compiled


def broken_rules(scope: Scope) -> Iterator[Issue]:
    """Yield the invariants that a resource breaks; nothing if its structure is not sound."""
    if not scope.sound:
        return
    for element in scope.ruled:
        for rule in element.rules:
            if issue := broken_rule(rule, element, scope):
                yield issue


def broken_rule(rule: Rule, element: RuledElement, scope: Scope) -> Issue | None:
    """Return the issue of a rule on an element: it is broken, or could not be evaluated.

    An empty result keeps the rule: it comes of comparing dates of different precision.
    """
    if rule.key in NOT_EVALUATED or rule.key in BEYOND_FHIRPATHPY:
        return None
    at = (element.location,)
    if in_python := native(rule):
        holds = in_python(element.value, scope)
    elif _is_large(element.value):
        return Issue("information", "too-costly", f"{rule.key} was not evaluated: there is too much here", at)
    else:
        try:
            holds = _evaluated(rule.expression, element, scope) != [False]
        except RecursionError:
            raise
        except Exception as error:  # noqa: BLE001 (fhirpathpy raises bare Exceptions)
            return Issue("information", "not-supported", f"{rule.key} was not evaluated: {type(error).__name__}", at)
    return None if holds else Issue(rule.severity, "invariant", f"{rule.key}: {rule.human}", at)


def _evaluated(expression: str, element: RuledElement, scope: Scope) -> list[Any]:
    node = ResourceNode(element.value, element.definition)  # type: ignore[no-untyped-call]
    return _compiled(expression)(node, {"resource": scope.resource, "rootResource": scope.root})


def _is_large(value: Any) -> bool:
    """Return whether a value has more parts than an expression is evaluated on: some take quadratic time."""
    waiting, count = [value], 0
    while waiting and count <= LARGEST:
        item = waiting.pop()
        count += 1
        if isinstance(item, dict):
            waiting.extend(item.values())
        elif isinstance(item, list):
            waiting.extend(item)
    return count > LARGEST
