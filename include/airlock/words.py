"""A person's words, which are kept with their name in the ledger, the report and the contract: what can be kept."""

from __future__ import annotations

import unicodedata

LONGEST = 2000  # characters; every contract repeats them, and SQS and SNS refuse large messages
_LAYOUT = "\n\r\t"


def says_something(text: str) -> bool:
    """Say whether a text has a letter or a digit: blanks that nobody sees are no words."""
    return any(map(str.isalnum, text))


def unfit(text: str) -> str | None:
    """Say what is wrong with a text and how to mend it, None where it can be kept; the text is not repeated."""
    if len(text) > LONGEST:
        return f"has {len(text)} characters: write {LONGEST} at most"
    # PostgreSQL refuses NUL, and no encoding takes half a character.
    if any(unicodedata.category(one) in {"Cc", "Cs"} and one not in _LAYOUT for one in text):
        return "has characters that are no text: write it without them"
    return None
