"""The same messages, read and written by the edge's upper layer and by pynetdicom's."""

from __future__ import annotations

import socket
from io import BytesIO
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from pynetdicom import dimse_messages, dimse_primitives
from pynetdicom.pdu import P_DATA_TF

from airlock_edge.dimse import CommandSet, Field, encode_response
from airlock_edge.pdus import PduReader, PduType, encode_message, read_fragments

UIDS = st.lists(st.integers(0, 10**9), min_size=2, max_size=6).map(lambda parts: ".".join(map(str, parts)))
NAMES = st.tuples(st.integers(0, 0xFFFF), UIDS, UIDS)  # message id, class and instance
CONTENTS = st.binary(min_size=1, max_size=3000)
MOST = st.integers(32, 1000)
CONTEXTS = st.integers(0, 127).map(lambda number: 2 * number + 1)
STATUSES = st.sampled_from([0x0000, 0xA700, 0xC000, 0x0110, 0x0211])


def send_store(message: int, class_uid: str, instance_uid: str, content: bytes) -> Any:
    primitive = dimse_primitives.C_STORE()
    primitive.MessageID, primitive.Priority = message, 2
    primitive.AffectedSOPClassUID, primitive.AffectedSOPInstanceUID = class_uid, instance_uid
    primitive.DataSet = BytesIO(content)
    return primitive, dimse_messages.C_STORE_RQ()


def send_action(message: int, class_uid: str, instance_uid: str, content: bytes) -> Any:
    primitive = dimse_primitives.N_ACTION()
    primitive.MessageID, primitive.ActionTypeID = message, 1
    primitive.RequestedSOPClassUID, primitive.RequestedSOPInstanceUID = class_uid, instance_uid
    primitive.ActionInformation = BytesIO(content)
    return primitive, dimse_messages.N_ACTION_RQ()


def encode_by_pynetdicom(made: Any, context: int, most: int) -> bytes:
    """Return the PDUs of a message."""
    primitive, message = made
    message.primitive_to_message(primitive)
    pdus = []
    for part in message.encode_msg(context, most):
        pdu = P_DATA_TF()
        pdu.from_primitive(part)
        pdus.append(pdu.encode())
    return b"".join(pdus)


def read_by_edge(sent: bytes) -> tuple[set[int], bytes, bytes]:
    """Return the presentation contexts, the command set and the data set of one message."""
    parts: dict[bool, bytes] = {True: b"", False: b""}
    contexts = set()
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(sent)
        theirs.close()
        reader = PduReader(ours, lambda _: None)
        left = len(sent)
        while left:
            kind, length = reader.read_head()
            assert kind == PduType.DATA
            left -= 6 + length
            for fragment in read_fragments(reader, length):
                contexts.add(fragment.context)
                parts[fragment.is_command] += reader.take(fragment.size)
    return contexts, parts[True], parts[False]


@settings(max_examples=60)
@given(st.sampled_from([send_store, send_action]), NAMES, CONTENTS, CONTEXTS, MOST)
def test_the_edge_reads_what_pynetdicom_writes(make, names, content, context, most):
    contexts, encoded, data_set = read_by_edge(encode_by_pynetdicom(make(*names, content), context, most))
    command = CommandSet(encoded)
    asks = make is send_action
    class_uid = command.uid(Field.REQUESTED_CLASS if asks else Field.AFFECTED_CLASS)
    instance_uid = command.uid(Field.REQUESTED_INSTANCE if asks else Field.AFFECTED_INSTANCE)
    assert (command.number(Field.MESSAGE_ID), class_uid, instance_uid) == names
    assert (contexts, command.has_data_set, data_set) == ({context}, True, content)


@settings(max_examples=60)
@given(st.sampled_from([send_store, send_action]), NAMES, STATUSES, CONTEXTS, MOST)
def test_pynetdicom_reads_what_the_edge_answers(make, names, status, context, most):
    sent = encode_by_pynetdicom(make(*names, b"xx"), context, most)
    response = encode_response(CommandSet(read_by_edge(sent)[1]), status)
    decoder, pdu = dimse_messages.DIMSEMessage(), P_DATA_TF()
    for one in split(encode_message(context, response, None, most)):
        assert len(one) <= most + 6
        pdu.decode(one)
        done = decoder.decode_msg(pdu.to_primitive())
    assert done
    found: Any = decoder.message_to_primitive()
    assert (decoder.context_id, found.Status) == (context, status)
    assert (found.MessageIDBeingRespondedTo, found.AffectedSOPClassUID, found.AffectedSOPInstanceUID) == names


def split(sent: bytes) -> list[bytes]:
    """Return the PDUs one by one."""
    pdus = []
    while sent:
        end = 6 + int.from_bytes(sent[2:6])
        pdus.append(sent[:end])
        sent = sent[end:]
    return pdus
