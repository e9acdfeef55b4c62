"""Command sets: pynetdicom reads ours, and broken ones are refused."""

from __future__ import annotations

import contextlib
from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pynetdicom.dsutils import decode

from airlock_edge.dimse import Command, CommandError, CommandSet, Field, encode_command, encode_response

STORE = {
    Field.AFFECTED_CLASS: "1.2.840.10008.5.1.4.1.1.2",
    Field.COMMAND: Command.C_STORE,
    Field.MESSAGE_ID: 7,
    Field.AFFECTED_INSTANCE: "1.2.3",
}


def test_a_library_reads_a_response() -> None:
    request = CommandSet(encode_command(STORE, data_set=True))
    found = decode(BytesIO(encode_response(request, 0xA700, "the disk is full")), True, True)
    assert (found.CommandField, found.MessageIDBeingRespondedTo, found.Status) == (0x8001, 7, 0xA700)
    assert (found.AffectedSOPClassUID, found.AffectedSOPInstanceUID) == ("1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    assert (found.CommandDataSetType, found.ErrorComment) == (0x0101, "the disk is full")
    assert found.CommandGroupLength == len(encode_response(request, 0xA700, "the disk is full")) - 12


def test_a_response_to_an_action_names_its_type_and_what_was_requested() -> None:
    values = {
        Field.REQUESTED_CLASS: "1.2.840.10008.1.20.1",
        Field.COMMAND: Command.N_ACTION,
        Field.MESSAGE_ID: 1,
        Field.REQUESTED_INSTANCE: "1.2.840.10008.1.20.1.1",
        Field.ACTION_TYPE: 1,
    }
    response = CommandSet(encode_response(CommandSet(encode_command(values, data_set=True)), 0))
    assert response.uid(Field.AFFECTED_CLASS) == "1.2.840.10008.1.20.1"
    assert response.number(Field.ACTION_TYPE) == 1
    assert not response.has_data_set


def test_what_is_encoded_is_read() -> None:
    found = CommandSet(encode_command(STORE, data_set=True))
    assert found.command == Command.C_STORE
    assert found.has_data_set
    assert found.uid(Field.AFFECTED_INSTANCE) == "1.2.3"
    assert found.uid(Field.REQUESTED_INSTANCE) == ""
    with pytest.raises(CommandError, match="no valid element"):
        found.number(Field.STATUS)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_set_or_an_error(encoded: bytes) -> None:
    with contextlib.suppress(CommandError):
        CommandSet(encoded)


def test_a_command_set_that_is_cut_within_an_element_is_refused() -> None:
    whole = encode_command(STORE)
    for length in (0, 3, 8, 13, len(whole) - 1):
        with pytest.raises(CommandError):
            CommandSet(whole[:length])
