"""DICOM values as FHIR R4 data types. A value that does not fit is left out, never invented.

The values are those of a study contract: stored text without padding (PS3.5 section 6.2). FHIR's rules are those of
hl7.org/fhir/R4/datatypes.html.
"""

from __future__ import annotations

import re
from datetime import date, datetime
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

if TYPE_CHECKING:
    from collections.abc import Iterator

LONGEST_TEXT = 1024  # characters; LO, PN and SH hold 64 (PS3.5 table 6.2-1), so longer values are damaged
# control characters, white space other than the space, and code points that are not characters
_NO_TEXT = re.compile(r"[^\S ]|[\x00-\x1f\x7f-\x9f\ud800-\udfff\ufeff\ufffe\uffff]")
_UNDECODABLE = "\ufffd"
_DATE = re.compile(r"([0-9]{4})(\.?)([0-9]{2})\2([0-9]{2})")  # with dots before DICOM 3.0
_TIME = re.compile(r"([0-9]{2})(:?)([0-9]{2})(?:\2([0-9]{2})(\.[0-9]{1,6})?)?")  # with colons before DICOM 3.0
_ZONE = re.compile(r"[+-](?:(?:0[0-9]|1[0-3])[0-5][0-9]|1400)")  # TimezoneOffsetFromUTC that FHIR's dateTime can hold
_INTEGER = re.compile(r"\+?[0-9]{1,12}")  # IS
_OID = re.compile(r"[0-2](\.(0|[1-9][0-9]*))+")  # the FHIR type oid without its urn:oid:
_ID = re.compile(r"[A-Za-z0-9.-]{1,64}")
_DEFINED_TERM = re.compile(r"[A-Z0-9_]+( [A-Z0-9_]+)*")  # CS without runs of spaces, which a FHIR code must not have
_LARGEST_INTEGER = 2**31 - 1
_FARTHEST_ZONE = "1400"  # the largest offset from UTC in FHIR's dateTime

_GENDERS = {"M": "male", "F": "female", "O": "other"}
_REPRESENTATION = "http://hl7.org/fhir/StructureDefinition/iso21090-EN-representation"
_REPRESENTATIONS = (None, "IDE", "SYL")  # of PN's component groups; the first one, alphabetic, has no code


def filled(element: dict[str, Any]) -> dict[str, Any]:
    """Return an element without the parts that have no value: FHIR's JSON has no nulls and no empty values."""
    return {name: value for name, value in element.items() if value not in (None, "", [], {})}


def text(value: str | None) -> str | None:
    """Return a value for people to read: control characters and white space as single spaces, long values cut."""
    words = _NO_TEXT.sub(" ", value or "").split()
    return " ".join(words)[:LONGEST_TEXT].strip() or None


def exact(value: str | None) -> str | None:
    """Return an identifier or another exact value as stored; None if FHIR cannot hold it unchanged.

    A changed identifier would be another one. The same holds for one with a replacement character: the bytes in the
    file are unknown, and other bytes may have become the same text.
    """
    stripped = (value or "").strip(" ")
    if len(stripped) > LONGEST_TEXT or _UNDECODABLE in stripped or _NO_TEXT.search(stripped):
        return None
    return stripped or None


def is_blank(value: str | None) -> bool:
    """Return whether a value is absent, empty or has only spaces."""
    return not (value or "").strip(" ")


def is_oid(value: str) -> bool:
    """Return whether a UID may follow ``urn:oid:``."""
    return _OID.fullmatch(value) is not None


def is_id(value: str) -> bool:
    """Return whether a value is valid for FHIR's type id, which ImagingStudy's series and instance UIDs have."""
    return _ID.fullmatch(value) is not None


def defined_term(value: str | None) -> str | None:
    """Return a CS value that is valid in DICOM and as a FHIR code, else None."""
    stripped = (value or "").strip(" ")
    return stripped if _DEFINED_TERM.fullmatch(stripped) else None


def unsigned(value: str | None) -> int | None:
    """Return an IS value that fits FHIR's unsignedInt, else None: SeriesNumber and InstanceNumber may be negative."""
    stripped = (value or "").strip(" ")
    if not _INTEGER.fullmatch(stripped) or int(stripped) > _LARGEST_INTEGER:
        return None
    return int(stripped)


def gender(value: str | None) -> str | None:
    """Return PatientSex as AdministrativeGender; None if it is not one of DICOM's three values."""
    return _GENDERS.get((value or "").strip(" "))


def day(value: str | None) -> str | None:
    """Return a DA value as a FHIR date; None if it is partial or impossible."""
    match = _DATE.fullmatch((value or "").strip(" "))
    if match is None:
        return None
    try:
        return date(int(match[1]), int(match[3]), int(match[4])).isoformat()
    except ValueError:
        return None


def moment(
    date_value: str | None, time_value: str | None, timezone: str | None, offset: str | None = None
) -> str | None:
    """Return DA and TM as a FHIR dateTime.

    A FHIR time needs a time zone, which DICOM's times do not have themselves. Without *offset* and *timezone*, or
    without at least hours and minutes, the result is only the date.

    Parameters
    ----------
    date_value, time_value
        For example StudyDate and StudyTime.
    timezone
        IANA name of the time zone of the time, where the header says nothing.
    offset
        TimezoneOffsetFromUTC (0008,0201) of the header, which goes before *timezone*; one that is not valid is ignored.
    """
    on = day(date_value)
    match = _TIME.fullmatch((time_value or "").strip(" "))
    written = _written_offset(offset)
    if on is None or match is None or not (written or timezone):
        return on
    seconds = match[4] or "00"  # FHIR: may be zero-filled
    if not (match[1] < "24" and match[3] < "60" and seconds <= "60"):
        return on
    clock = f"{on}T{match[1]}:{match[3]}"
    zone = written or (timezone and _offset(clock, timezone))
    return f"{clock}:{seconds}{match[5] or ''}{zone}" if zone else on


def _written_offset(stored: str | None) -> str | None:
    """Return TimezoneOffsetFromUTC (PS3.3 section C.12.1.1.8) as FHIR writes it; None if it is not valid."""
    value = (stored or "").strip(" ")
    return f"{value[:3]}:{value[3:]}" if _ZONE.fullmatch(value) else None


def _offset(minute: str, timezone: str) -> str | None:
    """Return the zone's offset at a minute of local time; None if FHIR cannot hold it, as those with seconds."""
    zone = datetime.fromisoformat(minute).replace(tzinfo=ZoneInfo(timezone)).strftime("%z")
    return f"{zone[:3]}:{zone[3:]}" if len(zone) == len("+0000") and zone[1:] <= _FARTHEST_ZONE else None


def human_names(value: str | None) -> list[dict[str, Any]]:
    """Return a PN value as HumanNames: one for each component group that is not empty (PS3.5 section 6.2.1)."""
    groups = (value or "").split("\\")[0].split("=")
    names = (_human_name(group, code) for group, code in zip(groups, _REPRESENTATIONS, strict=False))
    return [name for name in names if name]


def _human_name(group: str, representation: str | None) -> dict[str, Any]:
    family, given, middle, prefix, suffix = _components(group)
    name = filled(
        {
            "family": family,
            "given": [part for part in (given, middle) if part],
            "prefix": [prefix] if prefix else [],
            "suffix": [suffix] if suffix else [],
        }
    )
    if not name or representation is None:
        return name
    return {"extension": [{"url": _REPRESENTATION, "valueCode": representation}]} | name


def _components(group: str) -> Iterator[str | None]:
    """Yield family, given, middle, prefix and suffix; further components are ignored."""
    parts = group.split("^")
    return (text(parts[index]) if index < len(parts) else None for index in range(5))


def spoken_name(value: str | None) -> str | None:
    """Return a PN value as one line of text, in spoken order: prefix, given names, family, suffix."""
    for name in human_names(value):
        parts = (*name.get("prefix", ()), *name.get("given", ()), name.get("family"), *name.get("suffix", ()))
        return " ".join(part for part in parts if part)
    return None
