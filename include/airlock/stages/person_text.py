"""The check of a text that a person gives, a name or a reason: whether ledger, report and contract can store it."""

from __future__ import annotations

import unicodedata

LONGEST = 2000  # characters; every contract repeats the text, and SQS and SNS refuse large messages
_LAYOUT = "\n\r\t"


def has_letter_or_digit(text: str) -> bool:
    """Return whether a text has a letter or a digit, so that it is more than blanks that nobody sees."""
    return any(map(str.isalnum, text))


def find_text_fault(text: str) -> str | None:
    """Return why a text cannot be stored and how to correct it, without the text itself; None if it can be stored."""
    if len(text) > LONGEST:
        return f"has {len(text)} characters: write {LONGEST} at most"
    # PostgreSQL refuses NUL, and no encoding accepts half a surrogate pair.
    if any(unicodedata.category(one) in {"Cc", "Cs"} and one not in _LAYOUT for one in text):
        return "has characters that cannot be stored: write it without them"
    return None
