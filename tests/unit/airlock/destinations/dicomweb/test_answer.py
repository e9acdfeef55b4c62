"""A server's answer is read for what it says of each instance; whatever is not of the module's form says nothing."""

from __future__ import annotations

import json
from typing import Any

import pytest

from airlock.destinations.dicomweb import StoreAnswer, is_for_good, may_be_there, read_answer
from tests.servers.dicomweb import module

XML = """\ufeff<?xml version="1.0" encoding="utf-8"?>
<NativeDicomModel xmlns="http://dicom.nema.org/PS3.19/models/NativeDICOM">
  <DicomAttribute tag="00081199" vr="SQ" keyword="ReferencedSOPSequence">
    <Item number="1">
      <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.1</Value></DicomAttribute>
      <DicomAttribute tag="00081196" vr="US"><Value number="1">45056</Value></DicomAttribute>
    </Item>
    <Item number="2"><DicomAttribute tag="00081155" vr="UI"><Value number="1">1.2</Value></DicomAttribute></Item>
  </DicomAttribute>
  <DicomAttribute tag="00081198" vr="SQ" keyword="FailedSOPSequence">
    <Item number="1">
      <DicomAttribute tag="00081155" vr="UI"><Value number="1">1.3</Value></DicomAttribute>
      <DicomAttribute tag="00081197" vr="US"><Value number="1">43264</Value></DicomAttribute>
    </Item>
  </DicomAttribute>
</NativeDicomModel>"""
ANSWER = StoreAnswer({"1.1": 0xB000, "1.2": None}, {"1.3": 0xA900})


def test_json_and_xml_say_the_same() -> None:
    assert read_answer(module(ANSWER.stored, ANSWER.failed)) == ANSWER
    assert read_answer(XML.encode()) == ANSWER


def test_a_module_in_a_list_is_one() -> None:
    assert read_answer(b"[" + module(ANSWER.stored, ANSWER.failed) + b"]") == ANSWER


def test_an_instance_that_is_named_as_both_has_failed() -> None:
    assert read_answer(module({"1.1": None}, {"1.1": 0xA700})) == StoreAnswer({}, {"1.1": 0xA700})


@pytest.mark.parametrize("reason", ["no number", None, [], {}, "A700", -1, 0x10000, 10**4000])
def test_a_reason_that_is_no_status_is_none(reason: Any) -> None:
    assert read_answer(module(failed={"1.1": reason})) == StoreAnswer({}, {"1.1": None})


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"stored",
        b"{",
        b"{}",
        b"[[]]",
        b"[" * 200_000,
        b'{"00081199": []}',
        b'{"00081199": {"vr": "SQ", "Value": 5}}',
        b'{"00081199": {"vr": "SQ", "Value": [5, null, {}]}}',
        json.dumps({"00081199": {"Value": [{"00081155": {"Value": [7]}}]}}).encode(),
        b"\xff\xfe{",
        b"<html><body>stored</body></html>",
        b"<a><b></a>",
        b'<!DOCTYPE a [<!ENTITY e "x">]><a>&e;</a>',
    ],
)
def test_what_is_no_answer_says_nothing(body: bytes) -> None:
    assert read_answer(body) is None


@pytest.mark.parametrize("reason", [0x0122, 0xA900, 0xA9FF, 0xC000, 0xC122, 0xCFFF])
def test_what_concerns_the_instance_is_for_good(reason: int) -> None:
    assert is_for_good(reason)
    assert not may_be_there(reason)


@pytest.mark.parametrize("reason", [None, 0x0110, 0x0111, 0xA700, 0xA7FF, 0xB000])
def test_what_concerns_the_server_is_not(reason: int | None) -> None:
    assert not is_for_good(reason)
