"""Primitive types: what FHIR R4 allows in JSON."""

from __future__ import annotations

import math
import time
from decimal import Decimal
from typing import Any

import pytest

from localaws.fhir.primitives import find_primitive_fault

GOOD: list[tuple[str, Any]] = [
    ("boolean", False),
    ("integer", -2147483648),
    ("unsignedInt", 0),
    ("positiveInt", 2147483647),
    ("decimal", 1),
    ("decimal", 1e-300),
    ("decimal", Decimal("1.00")),
    ("decimal", 10**400),
    ("date", "2024"),
    ("date", "2024-02-29"),
    ("dateTime", "2024-01"),
    ("dateTime", "2024-01-02T03:04:05.123456789+14:00"),
    ("dateTime", "2016-12-31T23:59:60Z"),
    ("instant", "2024-01-02T03:04:05Z"),
    ("time", "23:59:59.9"),
    ("id", "A-1." + "x" * 60),
    ("code", "a b"),
    ("oid", "urn:oid:1.2.840.10008"),
    ("uuid", "urn:uuid:c757873d-ec9a-4326-a141-556f43239520"),
    ("uri", "urn:oid:1.2"),
    ("string", "no-break\u00a0space, tab\t, newline\n"),
    ("base64Binary", "QUJD RA=="),
]
BAD: list[tuple[str, Any]] = [
    ("boolean", "yes"),
    ("boolean", 1),
    ("integer", True),
    ("integer", 1.0),
    ("integer", 2147483648),
    ("unsignedInt", -1),
    ("positiveInt", 0),
    ("decimal", "1"),
    ("decimal", True),
    ("decimal", math.nan),
    ("decimal", math.inf),
    ("date", "2023-02-29"),
    ("date", "2024-13-45"),
    ("date", "20240102"),
    ("date", "2024-01-02T03:04:05Z"),
    ("date", "0000"),
    ("dateTime", "2024-01-02T03:04:05"),
    ("dateTime", "2024-04-31T03:04:05Z"),
    ("dateTime", "2024-01-02T24:00:00Z"),
    ("instant", "2024-01-02"),
    ("time", "3:04"),
    ("id", "x" * 65),
    ("id", "a_b"),
    ("id", "a\n"),
    ("code", " a"),
    ("code", "a  b"),
    ("oid", "1.2.840"),
    ("uuid", "urn:uuid:1"),
    ("url", "https://x.example/a b"),
    ("string", ""),
    ("string", 5),
    ("string", "a\x00b"),
    ("string", "a\x1bb"),
    ("markdown", "a\fb"),
    ("uri", "urn:\x01"),
    ("code", "a\x08"),
    ("xhtml", "<div xmlns='http://www.w3.org/1999/xhtml'>\x0b</div>"),
    ("string", "x" * (1 << 20) + "x"),
    ("base64Binary", "abc"),
    ("base64Binary", "ab=c"),
]


@pytest.mark.parametrize(("primitive", "value"), GOOD)
def test_good(primitive: str, value: Any) -> None:
    assert find_primitive_fault(primitive, value) is None


@pytest.mark.parametrize(("primitive", "value"), BAD)
def test_bad_and_not_quoted(primitive: str, value: Any) -> None:
    said = find_primitive_fault(primitive, value)
    assert said
    assert not isinstance(value, str) or len(value) < 3 or value not in said


def test_hostile_blanks_take_no_time() -> None:
    """The published expression of base64Binary backtracks for ever on this."""
    started = time.perf_counter()
    assert find_primitive_fault("base64Binary", ("AAAA" + " " * 50) * 200 + "!")
    assert time.perf_counter() - started < 1
