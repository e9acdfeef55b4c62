"""FHIR documents as JSON: a decimal goes out with the digits that it came in with."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from localaws.healthlake.documents import read_document, write_document

DIGITS = ["100000000000000000000.5", "1.10", "1.1", "1e2", "1E+2", "0.0000001", "-0.00", "12345678901234567890"]


@pytest.mark.parametrize("digits", DIGITS)
def test_digits_stay(digits: str) -> None:
    text = f'{{"a":[{digits},{{"b":{digits}}}],"c":"{digits}"}}'
    assert write_document(read_document(text)) == text
    assert read_document(text)["a"][0] == Decimal(digits)


@pytest.mark.parametrize(
    "text", ["NaN", "-Infinity", "1e999", "-1e999", "1e-99999999999999999999", "1e99999999999999999999", "01.5", "1."]
)
def test_what_is_no_number_of_json_or_beyond_a_double_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"number|delimiter"):
        read_document(f"[{text}]")


def test_numbers_of_python_are_written_too() -> None:
    assert json.loads(write_document([1, 1.5, Decimal("2.50")])) == [1, 1.5, 2.5]
    assert write_document([Decimal("2.50")]) == "[2.50]"


def test_what_json_does_not_know_is_not_written() -> None:
    with pytest.raises(TypeError):
        write_document([object()])
