"""The texts of header values, decoded by the character set that the data set declares (PS3.5 section 6.1)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pydicom.charset import decode_bytes, default_encoding
from pydicom.valuerep import TEXT_VR_DELIMS

if TYPE_CHECKING:
    from collections.abc import Sequence

_ESCAPE = "\x1b"  # remains of a code extension (ISO 2022) that could not be decoded
_REPLACEMENT = "\ufffd"


def decode(raw: bytes, encodings: Sequence[str]) -> tuple[str, bool]:
    """Return the text of a value, and whether its bytes fit the declared character set.

    Parameters
    ----------
    raw
        The stored value, of a VR that SpecificCharacterSet governs.
    encodings
        Python's names of the declared character sets, as pydicom translates them.

    Notes
    -----
    Bytes that do not fit become replacement characters. Without a declared character set, bytes outside ASCII are read
    as Latin 1, as by pydicom, but do not fit either.
    """
    if raw.isascii() and b"\x1b" not in raw:
        return strip(raw.decode("ascii")), True
    text = strip(decode_bytes(raw, encodings, TEXT_VR_DELIMS))
    text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")  # replaces half surrogate pairs
    declared = any(encoding != default_encoding for encoding in encodings)
    return text, declared and _REPLACEMENT not in text and _ESCAPE not in text


def decode_default(raw: bytes) -> str:
    """Return the text of a value whose VR has only the default repertoire: a UID, a code, a date, a number."""
    return strip(raw.decode("latin-1"))


def strip(text: str) -> str:
    """Return a text with the padding removed from each of its values, separated by backslashes; leading spaces stay.

    A NUL within a value becomes U+FFFD: PostgreSQL cannot store it, and the ledger must recognize the value later.
    """
    return "\\".join(value.rstrip("\0 ") for value in text.split("\\")).replace("\0", _REPLACEMENT)
