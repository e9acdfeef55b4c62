"""Labels: what the rules under ``classify`` call a study or a series, for routes and receivers.

A label describes and decides on nothing: neither the verdicts nor the gate read it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from airlock.pipelines import Classify

_LABELS = "labels"


def set_labels(contract: Mapping[str, Any], rules: Sequence[Classify]) -> dict[str, Any]:
    """Return a contract with the labels that these rules set, in place of earlier ones.

    A rule about series is asked about each one by itself, together with the fields of its study.
    """
    series = [_with(item, _find({**contract, "series": [item]}, rules, "series")) for item in contract["series"]]
    return _with(contract, _find(contract, rules, "study")) | {"series": series}


def keep_labels(contract: Mapping[str, Any], earlier: Mapping[str, Any]) -> dict[str, Any]:
    """Return a contract with the study's earlier labels: a pipeline without rules says nothing about them."""
    return _with(contract, earlier.get(_LABELS, ()))


def _find(content: Mapping[str, Any], rules: Sequence[Classify], of: str) -> list[str]:
    return sorted({rule.label for rule in rules if rule.of == of and rule.match.matches(content)})


def _with(content: Mapping[str, Any], labels: Sequence[str]) -> dict[str, Any]:
    bare = {name: value for name, value in content.items() if name != _LABELS}
    return bare | ({_LABELS: list(labels)} if labels else {})
