"""FHIR documents as JSON: a decimal is written with the digits with which it was read.

FHIR R4, "Datatypes", decimal: the precision has a meaning, 0.010 is not 0.01; binary floating point does not keep it.
"""

from __future__ import annotations

import json
import math
import re
import secrets
from decimal import Decimal
from typing import Any, NoReturn

# The json module cannot write a number in its own spelling: it writes a marked text, whose mark is removed.
_MARK = f"number:{secrets.token_hex(8)}:"
_MARKED = re.compile(rf'"{_MARK}([^"]*)"')


class Number(Decimal):
    """A number with a fraction or an exponent; its text is the one that was read, as 1e2."""

    _text: str

    def __new__(cls, text: str) -> Number:
        """Read a number; raise ValueError for one that is out of range."""
        if not math.isfinite(float(text)):
            raise ValueError("the number is too large")
        try:
            number = super().__new__(cls, text)
        except ArithmeticError:
            raise ValueError("the number has too many digits behind the point") from None
        number._text = text
        return number

    def __str__(self) -> str:
        """Return the text that was read."""
        return self._text


def read_document(text: bytes | str) -> Any:
    """Parse a document, as JSON has it: no NaN, no Infinity, no number beyond a double.

    Raises
    ------
    ValueError
        Not JSON.
    RecursionError
        Nested too deeply.
    """
    return json.loads(text, parse_float=Number, parse_constant=_no_number)


def write_document(document: Any) -> str:
    """Return a document as JSON without blanks, in ASCII."""
    return _MARKED.sub(r"\1", json.dumps(document, separators=(",", ":"), default=_marked))


def _marked(value: object) -> str:
    if isinstance(value, Decimal):
        return _MARK + str(value)
    raise TypeError(f"JSON has no {type(value).__name__}")


def _no_number(_name: str) -> NoReturn:
    """Refuse NaN and Infinity, which Python reads and JSON does not know."""
    raise ValueError("the number is not one of JSON")
