"""Patterns of EventBridge are read as its user guide documents them."""

from __future__ import annotations

from typing import Any

import pytest

from airlock.stages.doctor.event_patterns import cover_prefix, list_fields, match_value


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("archive", True),
        ("Archive", False),
        ({"equals-ignore-case": "Archive"}, True),
        ({"prefix": "arch"}, True),
        ({"prefix": "Arch"}, False),
        ({"prefix": {"equals-ignore-case": "Arch"}}, True),
        ({"suffix": "ive"}, True),
        ({"suffix": {"equals-ignore-case": "X"}}, False),
        ({"wildcard": "a*v*"}, True),
        ({"wildcard": "a*v"}, False),
        ({"wildcard": r"a\\*"}, None),
        ({"anything-but": "archive"}, False),
        ({"anything-but": ["a", "b"]}, True),
        ({"anything-but": {"prefix": ["x", "arch"]}}, False),
        ({"anything-but": {"wildcard": "x*"}}, True),
        ({"anything-but": {"cidr": "10.0.0.0/8"}}, None),
        ({"exists": True}, None),
        (None, None),
    ],
)
def test_a_condition_on_a_value(condition: Any, wanted: bool | None) -> None:
    assert match_value([condition], "archive") is wanted
    assert match_value([condition, "archive"], "archive") is True


@pytest.mark.parametrize(
    ("condition", "wanted"),
    [
        ("in/a", False),
        ({"equals-ignore-case": "in/"}, False),
        ({"prefix": "in"}, True),
        ({"prefix": "in/a"}, False),
        ({"prefix": {"equals-ignore-case": "IN/"}}, True),
        ({"suffix": ".dcm"}, None),
        ({"wildcard": "*"}, True),
        ({"wildcard": "in/*"}, True),
        ({"wildcard": "*n/*"}, True),
        ({"wildcard": "in/*.dcm"}, None),
        ({"wildcard": "in/a*"}, None),
        ({"wildcard": "out/*"}, False),
        ({"anything-but": "out"}, True),
        ({"anything-but": "in/a"}, None),
        ({"anything-but": {"prefix": "out/"}}, True),
        ({"anything-but": {"prefix": "in/a"}}, None),
        ({"anything-but": {"prefix": "i"}}, False),
        ({"anything-but": {"suffix": ".txt"}}, None),
        ({"exists": True}, None),
    ],
)
def test_a_condition_on_all_keys_below_a_prefix(condition: Any, wanted: bool | None) -> None:
    assert cover_prefix([condition], "in/") is wanted


def test_fields_are_named_by_their_path() -> None:
    pattern = {"source": ["aws.s3"], "detail": {"bucket": {"name": ["a"]}, "$or": [{"reason": ["x"]}]}}
    assert list_fields(pattern) == {
        "source": ["aws.s3"],
        "detail.bucket.name": ["a"],
        "detail.$or": [{"reason": ["x"]}],
    }
