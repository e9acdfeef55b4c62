"""The primitive types of FHIR R4 in JSON (https://hl7.org/fhir/R4/datatypes.html#primitive)."""

from __future__ import annotations

import math
import re
from datetime import date
from decimal import Decimal
from functools import cache

from localaws.fhir.narrative import find_narrative_fault
from localaws.fhir.schema import schema

LONGEST_STRING = 1 << 20
LARGEST_INTEGER = (1 << 31) - 1
LOWEST = {"integer": -LARGEST_INTEGER - 1, "unsignedInt": 0, "positiveInt": 1}
DATES = frozenset({"date", "dateTime", "instant"})
EXAMPLES = {
    "date": "a date: YYYY, YYYY-MM or YYYY-MM-DD",
    "dateTime": "a dateTime: YYYY, YYYY-MM, YYYY-MM-DD or YYYY-MM-DDThh:mm:ss+zz:zz",
    "instant": "an instant: YYYY-MM-DDThh:mm:ss+zz:zz",
    "time": "a time: hh:mm:ss",
    "id": "an id: 1 to 64 letters, digits, '-' and '.'",
    "code": "a code: no blanks at the ends, and single ones inside",
}
CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")
BASE64 = re.compile(r"[0-9A-Za-z+/]*={0,2}")


def find_primitive_fault(primitive: str, value: object) -> str | None:
    """Return the fault of `value` as a primitive type, without quoting it; None if it has none."""
    if primitive == "boolean":
        return None if isinstance(value, bool) else "must be true or false, without quotes"
    if primitive == "decimal":
        return _decimal(value)
    if primitive in LOWEST:
        return _integer(primitive, value)
    if not isinstance(value, str):
        return f"must be a JSON string ({primitive})"
    if not value:
        return "must not be an empty string; leave the element out"
    return _text(primitive, value)


def _decimal(value: object) -> str | None:
    whole = isinstance(value, int) and not isinstance(value, bool)
    finite = isinstance(value, float | Decimal) and math.isfinite(value)
    return None if whole or finite else "must be a JSON number (decimal)"


def _integer(primitive: str, value: object) -> str | None:
    if not isinstance(value, int) or isinstance(value, bool):
        return f"must be a JSON number without a fraction ({primitive})"
    if not LOWEST[primitive] <= value <= LARGEST_INTEGER:
        return f"must be between {LOWEST[primitive]} and {LARGEST_INTEGER} ({primitive})"
    return None


def _text(primitive: str, value: str) -> str | None:
    if CONTROL_CHARACTER.search(value):
        return f"must not hold a control character below 32 other than tab, CR and LF ({primitive})"
    if primitive == "xhtml":
        return find_narrative_fault(value)
    if primitive == "base64Binary":
        return None if _is_base64(value) else "must be base64 (base64Binary)"
    if primitive in {"string", "markdown"} and len(value) > LONGEST_STRING:
        return f"must not be longer than {LONGEST_STRING} characters ({primitive})"
    if not _pattern(primitive).fullmatch(value) or (primitive in DATES and not _is_in_the_calendar(value)):
        return f"must be {EXAMPLES.get(primitive, f'of the form that {primitive} has in FHIR R4')}"
    return None


@cache
def _pattern(primitive: str) -> re.Pattern[str]:
    # XML Schema's \s, which the published expressions mean, is the four ASCII blanks.
    return re.compile(schema().regex(primitive), re.ASCII)


def _is_base64(value: str) -> bool:
    # The published expression backtracks without end on long runs of blanks.
    packed = "".join(value.split())
    return len(packed) % 4 == 0 and BASE64.fullmatch(packed) is not None


def _is_in_the_calendar(value: str) -> bool:
    day = value[:10]
    if len(day) < 10:
        return True
    try:
        date.fromisoformat(day)
    except ValueError:
        return False
    return True
