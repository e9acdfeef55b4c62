"""FHIR's JSON with all digits of decimals kept (FHIR R4, "Datatypes", decimal: the precision has a meaning)."""

from __future__ import annotations

import json
import re
import secrets
from decimal import Decimal
from typing import Any

# json cannot write a Decimal, so dump first writes it as a marked text.
_MARK = f"decimal:{secrets.token_hex(8)}:"
_MARKED = re.compile(rf'"{_MARK}([^"]*)"')


def load(text: str | bytes) -> Any:
    """
    Read JSON; numbers with a fraction or an exponent become :class:`decimal.Decimal`.

    Parameters
    ----------
    text : str or bytes
        The JSON.

    Raises
    ------
    ValueError
        If the text is not JSON, or a number is out of range.
    """
    try:
        return json.loads(text, parse_float=Decimal)
    except ArithmeticError:
        raise ValueError("A number is out of range.") from None


def dump(content: Any) -> str:
    """
    Write JSON, each :class:`decimal.Decimal` with its digits; 1e2 is written as 1E+2, which is the same number.

    Parameters
    ----------
    content : Any
        A value as :func:`load` returns it.
    """
    return _MARKED.sub(r"\1", json.dumps(content, ensure_ascii=False, default=_marked))


def _marked(value: object) -> str:
    if isinstance(value, Decimal):
        return _MARK + str(value)
    raise TypeError(f"JSON has no {type(value).__name__}")
