"""Fixed values and patterns."""

from __future__ import annotations

from typing import Any

import pytest

from localaws.fhir.patterns import equals, matches

PATTERN = {"coding": [{"system": "s", "code": "c"}]}


@pytest.mark.parametrize(
    ("value", "does"),
    [
        (PATTERN, True),
        ({"coding": [{"system": "s", "code": "c", "display": "d"}], "text": "t"}, True),
        ({"coding": [{"system": "x", "code": "c"}, {"system": "s", "code": "c"}]}, True),
        ({"coding": [{"system": "s"}, {"code": "c"}]}, False),
        ({"coding": []}, False),
        ({"text": "t"}, False),
        ("c", False),
        (None, False),
    ],
)
def test_a_pattern_is_what_there_must_be_at_least(value: Any, does: bool) -> None:
    assert matches(value, PATTERN) is does


def test_a_fixed_value_is_all_there_may_be() -> None:
    assert equals({"code": "c"}, {"code": "c"})
    assert not equals({"code": "c", "display": "d"}, {"code": "c"})
    assert not equals(True, 1)
    assert not equals(None, "c")
