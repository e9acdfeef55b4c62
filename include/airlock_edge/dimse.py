"""Command sets of DIMSE messages: group 0000 in implicit VR little endian (PS3.7 section 6.3 and annex E)."""

from __future__ import annotations

import struct
from enum import IntEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping

_ELEMENT = struct.Struct("<HHI")
_US = struct.Struct("<H")
_NO_DATA_SET = 0x0101  # of CommandDataSetType; any other value announces one
_A_DATA_SET = 0x0001
RESPONSE = 0x8000  # the bit that makes a response of a request's command field


class CommandError(ValueError):
    """A command set cannot be read, or lacks what its service needs."""


class Field(IntEnum):
    """The element numbers of group 0000 that the edge uses."""

    GROUP_LENGTH = 0x0000
    AFFECTED_CLASS = 0x0002
    REQUESTED_CLASS = 0x0003
    COMMAND = 0x0100
    MESSAGE_ID = 0x0110
    RESPONDED_ID = 0x0120
    DATA_SET_TYPE = 0x0800
    STATUS = 0x0900
    ERROR_COMMENT = 0x0902
    AFFECTED_INSTANCE = 0x1000
    REQUESTED_INSTANCE = 0x1001
    EVENT_TYPE = 0x1002
    ACTION_TYPE = 0x1008


class Command(IntEnum):
    """The requests that the edge answers or sends; CANCEL has no response."""

    C_STORE = 0x0001
    C_ECHO = 0x0030
    N_EVENT_REPORT = 0x0100
    N_ACTION = 0x0130
    C_CANCEL = 0x0FFF


class CommandSet:
    """A command set that was received.

    Parameters
    ----------
    encoded
        Its bytes.

    Raises
    ------
    CommandError
        If they are not a command set, or it lacks what the answer needs.
    """

    def __init__(self, encoded: bytes) -> None:
        self._values: dict[int, bytes] = {}
        at, end = 0, len(encoded)
        while at < end:
            if end - at < _ELEMENT.size:
                raise CommandError("a command set ends within an element")
            group, number, length = _ELEMENT.unpack_from(encoded, at)
            at += _ELEMENT.size
            if group or length > end - at:
                raise CommandError("a command set has an element of another group, or one that is longer than the rest")
            self._values[number] = encoded[at : at + length]
            at += length
        self.command = self.number(Field.COMMAND)
        self.has_data_set = self.number(Field.DATA_SET_TYPE) != _NO_DATA_SET
        for field in self._needed():
            self.number(field)

    def _needed(self) -> tuple[Field, ...]:
        """Return what an answer needs, so that nothing is done for a request that cannot be answered."""
        if self.command & RESPONSE:
            return Field.RESPONDED_ID, Field.STATUS
        if self.command == Command.C_CANCEL:
            return ()
        action = (Field.ACTION_TYPE,) if self.command == Command.N_ACTION else ()
        return Field.MESSAGE_ID, *action

    def number(self, field: Field) -> int:
        """Return the value of an element of VR US.

        Raises
        ------
        CommandError
            If it is not there.
        """
        value = self._values.get(field, b"")
        if len(value) != _US.size:
            raise CommandError(f"a command set has no valid element (0000,{field:04X})")
        return int(_US.unpack(value)[0])

    def uid(self, field: Field) -> str:
        """Return the value of an element of VR UI without its padding, "" if it is not there."""
        return self._values.get(field, b"").rstrip(b"\0 ").decode("ascii", "replace").strip()


def encode_command(values: Mapping[Field, int | str], *, data_set: bool = False) -> bytes:
    """Return an encoded command set with its group length, its elements in order."""
    whole = dict(values) | {Field.DATA_SET_TYPE: _A_DATA_SET if data_set else _NO_DATA_SET}
    elements = b"".join(_encode_element(field, whole[field]) for field in sorted(whole))
    return _ELEMENT.pack(0, Field.GROUP_LENGTH, 4) + struct.pack("<I", len(elements)) + elements


def _encode_element(field: Field, value: int | str) -> bytes:
    if isinstance(value, int):
        raw = _US.pack(value)
    else:
        padding = b" " if field is Field.ERROR_COMMENT else b"\0"
        raw = value.encode("ascii", "replace")
        raw += padding * (len(raw) % 2)
    return _ELEMENT.pack(0, field, len(raw)) + raw


def encode_response(request: CommandSet, status: int, comment: str = "") -> bytes:
    """Return the encoded response to a request (PS3.7 section 9.3 and 10.3).

    Parameters
    ----------
    request
        The command set of the request.
    status
        The status code.
    comment
        A text of at most 64 characters for the peer's log, without identifiers; "" for none.
    """
    values: dict[Field, int | str] = {
        Field.COMMAND: request.command | RESPONSE,
        Field.RESPONDED_ID: request.number(Field.MESSAGE_ID),
        Field.STATUS: status,
    }
    affected_class = request.uid(Field.AFFECTED_CLASS) or request.uid(Field.REQUESTED_CLASS)
    affected_instance = request.uid(Field.AFFECTED_INSTANCE) or request.uid(Field.REQUESTED_INSTANCE)
    if affected_class:
        values[Field.AFFECTED_CLASS] = affected_class
    if affected_instance:
        values[Field.AFFECTED_INSTANCE] = affected_instance
    if request.command == Command.N_ACTION:
        values[Field.ACTION_TYPE] = request.number(Field.ACTION_TYPE)
    if comment:
        values[Field.ERROR_COMMENT] = comment[:64]
    return encode_command(values)
