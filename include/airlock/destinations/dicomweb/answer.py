"""A server's answer per instance: the Store Instances Response Module (PS3.18 annex I), as JSON or as XML.

Answers are not trusted: malformed parts are ignored, and an instance that is not named counts as neither stored nor
refused.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, NamedTuple

from defusedxml import DefusedXmlException
from defusedxml.ElementTree import ParseError, fromstring

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from xml.etree.ElementTree import Element

_FAILED_SOP_SEQUENCE = "00081198"
_REFERENCED_SOP_SEQUENCE = "00081199"
_REFERENCED_SOP_INSTANCE_UID = "00081155"
_WARNING_REASON = "00081196"
_FAILURE_REASON = "00081197"

PROCESSING_FAILURE = 0x0110
DUPLICATE_SOP_INSTANCE = 0x0111
SOP_CLASS_NOT_SUPPORTED = 0x0122


class StoreAnswer(NamedTuple):
    """The result of each instance of one request, by SOPInstanceUID.

    Parameters
    ----------
    stored
        WarningReason (0008,1196), None without a warning.
    failed
        FailureReason (0008,1197), None if the server gives none.
    """

    stored: dict[str, int | None]
    failed: dict[str, int | None]


def is_for_good(reason: int | None) -> bool:
    """Return whether a FailureReason is about the instance, so that it will be refused again (PS3.18 table I.2-2)."""
    if reason is None:
        return False
    return reason == SOP_CLASS_NOT_SUPPORTED or 0xA900 <= reason <= 0xA9FF or 0xC000 <= reason <= 0xCFFF


def may_be_there(reason: int | None) -> bool:
    """Return whether a server that gives this FailureReason, or none, may hold the instance from an earlier request."""
    return reason in {None, PROCESSING_FAILURE, DUPLICATE_SOP_INSTANCE}


def read_answer(body: bytes) -> StoreAnswer | None:
    """Return the results in an answer's body, None if it is not a Store Instances Response Module."""
    start = body.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    try:
        if start in {b"{", b"["}:
            return _answer(json.loads(body), _json_items, _json_value)
        if start == b"<":
            return _answer(fromstring(body), _xml_items, _xml_value)
    except (ValueError, RecursionError, ParseError, DefusedXmlException):
        return None
    return None


def _answer(
    module: Any, items: Callable[[Any, str], Iterator[Any]], value: Callable[[Any, str], Any]
) -> StoreAnswer | None:
    def read(sequence: str, reason: str) -> dict[str, int | None]:
        found = ((value(item, _REFERENCED_SOP_INSTANCE_UID), value(item, reason)) for item in items(module, sequence))
        return {uid: _status(code) for uid, code in found if isinstance(uid, str)}

    failed = read(_FAILED_SOP_SEQUENCE, _FAILURE_REASON)
    stored = read(_REFERENCED_SOP_SEQUENCE, _WARNING_REASON)
    if not failed and not stored:
        return None
    return StoreAnswer({uid: code for uid, code in stored.items() if uid not in failed}, failed)


def _status(value: Any) -> int | None:
    """Return a DICOM status, None if the value has more than its 16 bits (VR US) and so may be too long to store."""
    try:
        status = int(value)
    except (TypeError, ValueError, OverflowError):
        return None
    return status if 0 <= status <= 0xFFFF else None


def _json_items(module: Any, tag: str) -> Iterator[Any]:
    """Yield a sequence's items (PS3.18 annex F.2); some servers wrap the module in a list."""
    for one in module if isinstance(module, list) else [module]:
        yield from _json_values(one, tag)


def _json_value(item: Any, tag: str) -> Any:
    return next(iter(_json_values(item, tag)), None)


def _json_values(item: Any, tag: str) -> list[Any]:
    attribute = item.get(tag) if isinstance(item, dict) else None
    values = attribute.get("Value") if isinstance(attribute, dict) else None
    return values if isinstance(values, list) else []


def _xml_items(module: Element, tag: str) -> Iterator[Element]:
    """Yield a sequence's items in the Native DICOM Model (PS3.19 annex A.1)."""
    yield from module.iterfind(f"{{*}}DicomAttribute[@tag='{tag}']/{{*}}Item")


def _xml_value(item: Element, tag: str) -> str | None:
    return item.findtext(f"{{*}}DicomAttribute[@tag='{tag}']/{{*}}Value")
