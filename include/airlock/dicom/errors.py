"""The errors of reading a header, and the scanner's doubts, with which it leaves a header to pydicom."""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

    from airlock.reasons import Reason


class Doubt(StrEnum):
    """The cause for which the scanner leaves a header to pydicom; ``sentence`` describes it for people.

    A doubt is not a reason against a file: pydicom reads most of these files.
    """

    sentence: str

    def __new__(cls, code: str, sentence: str) -> Doubt:
        """Make a member whose value is the code and which carries its sentence."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        return member

    NO_PREAMBLE = "no_preamble", "No Part 10 preamble and prefix stand before the data set."
    FILE_META = "file_meta", "The file meta group is absent, too long, or ends elsewhere than its length says."
    DICOMDIR = "dicomdir", "It is a media directory, not an instance."
    ENCODING = "encoding", "The first element looks as if it had another encoding than the transfer syntax says."
    UNKNOWN_VR = "unknown_vr", "An element has a VR that DICOM does not know."
    OTHER_VR = "other_vr", "A wanted element has another VR than the dictionary gives it."
    OUT_OF_ORDER = "out_of_order", "The tags do not ascend."
    UNDEFINED_LENGTH = "undefined_length", "An element has an undefined length that its VR or its place does not allow."
    NOT_AN_ITEM = "not_an_item", "A sequence holds something other than items, or a delimiter stands where none may be."
    NESTED_TOO_DEEP = "nested_too_deep", "Sequences are nested deeper than in any real object."
    TOO_MANY_ELEMENTS = "too_many_elements", "The data set or a sequence has more elements than any real object."
    LONG_VALUE = "long_value", "A wanted value, or the Request Attributes Sequence, is longer than any real one."
    OBJECT_ENDS = "object_ends", "The object ends inside an element, or an element declares more than it holds."
    MISSING_UID = "missing_uid", "One of the UIDs that every instance has is absent or empty."
    ODD_UID = "odd_uid", "A UID has bytes other than digits and points."
    CHARACTER_SET = "character_set", "The character set is unknown, has code extensions, or stands within an item."
    TEXT = "text", "A text has bytes that the declared character set does not give, a NUL, or an escape sequence."
    DEFLATE = "deflate", "The deflated stream is damaged or inflates to too much."


class DoubtError(Exception):
    """The scanner does not understand the object.

    Parameters
    ----------
    doubt
        The cause.
    """

    def __init__(self, doubt: Doubt) -> None:
        super().__init__(doubt.value)
        self.doubt = doubt


class HeaderError(Exception):
    """An object has no header that can be trusted.

    Parameters
    ----------
    reason
        The reason code for the arrival.
    detail
        A few words of detail; they never hold a value of the header or a key.
    values
        The values that were read before the error, by keyword: often enough to find the study that misses the file.

    Attributes
    ----------
    doubt
        The doubt for which the scanner left the header to pydicom, which then failed too; None if neither read it.
    """

    def __init__(self, reason: Reason, detail: str = "", values: Mapping[str, str] | None = None) -> None:
        super().__init__(reason, detail)
        self.reason = reason
        self.detail = detail
        self.values = dict(values or {})
        self.doubt: Doubt | None = None

    def __str__(self) -> str:
        return f"{self.reason.value}: {self.detail}"
