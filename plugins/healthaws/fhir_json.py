"""JSON of FHIR, whose decimals keep their digits (FHIR R4, "Datatypes", decimal: the precision has a meaning)."""

from __future__ import annotations

import json
import re
import secrets
from decimal import Decimal
from typing import Any

# What json cannot write, a Decimal, it writes as a marked text.
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
        If it is no JSON, or a number is beyond all range.
    """
    try:
        return json.loads(text, parse_float=Decimal)
    except ArithmeticError:
        raise ValueError("a number is beyond all range") from None


def dump(content: Any) -> str:
    """
    Write JSON, each :class:`decimal.Decimal` with its digits; 1e2 is written as 1E+2, which is the same number.

    Parameters
    ----------
    content : Any
        What :func:`load` returns, or the like.
    """
    return _MARKED.sub(r"\1", json.dumps(content, ensure_ascii=False, default=_marked))


def _marked(value: object) -> str:
    if isinstance(value, Decimal):
        return _MARK + str(value)
    raise TypeError(f"JSON has no {type(value).__name__}")
