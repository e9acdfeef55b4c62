"""Requests are read whatever is in them, and results have the complete set."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.dataset import Dataset
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ExplicitVRLittleEndian
from pydicom.uid import ImplicitVRLittleEndian as Implicit
from pynetdicom.dsutils import decode

from airlock_edge.commitment.information import (
    InformationError,
    Reference,
    Request,
    decode_request,
    describe_result,
    encode_information,
)

CT = "1.2.840.10008.5.1.4.1.1.2"
GOOD, BAD = Reference(CT, "1.1"), Reference(CT, "1.2", 0x0110)


def action(transaction: str | None = "1.9", *instances: str) -> Dataset:
    content = Dataset()
    if transaction is not None:
        content.TransactionUID = transaction
    content.ReferencedSOPSequence = []
    for uid in instances:
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = CT, uid
        content.ReferencedSOPSequence.append(item)
    return content


@pytest.mark.parametrize(
    "syntax", [Implicit, ExplicitVRLittleEndian, ExplicitVRBigEndian, DeflatedExplicitVRLittleEndian]
)
def test_a_request_is_read_in_every_transfer_syntax(syntax):
    encoded = encode_information(action("1.9", "1.1", "1.2"), syntax)
    assert decode_request(encoded, syntax) == Request("1.9", (Reference(CT, "1.1"), Reference(CT, "1.2")))


@pytest.mark.parametrize("content", [action(None, "1.1"), action("1.9"), action("1.9", "MUELLER^HANS"), Dataset()])
def test_a_request_without_what_it_must_have_is_refused_without_quoting_it(content):
    with pytest.raises(InformationError) as refused:
        decode_request(encode_information(content, Implicit), Implicit)
    assert "MUELLER" not in str(refused.value)


@given(st.binary(max_size=300))
def test_bytes_that_are_no_data_set_are_refused(encoded):
    with pytest.raises(InformationError):
        decode_request(encoded, Implicit)


def test_a_result_without_failures_is_of_type_1_and_has_no_failed_instances():
    kind, content = describe_result("1.9", [GOOD])
    assert (kind, content.TransactionUID) == (1, "1.9")
    assert [one.ReferencedSOPInstanceUID for one in content.ReferencedSOPSequence] == ["1.1"]
    assert "FailedSOPSequence" not in content


def test_a_result_with_failures_is_of_type_2_and_has_the_complete_set():
    kind, content = describe_result("1.9", [GOOD, BAD])
    assert kind == 2
    assert [one.ReferencedSOPInstanceUID for one in content.ReferencedSOPSequence] == ["1.1"]
    (failed,) = content.FailedSOPSequence
    assert (failed.ReferencedSOPInstanceUID, failed.FailureReason) == ("1.2", 0x0110)
    assert "ReferencedSOPSequence" not in describe_result("1.9", [BAD])[1]


def test_an_encoded_result_is_read_back():
    _, content = describe_result("1.9", [GOOD, BAD])
    assert decode(io.BytesIO(encode_information(content, Implicit)), True, True) == content
