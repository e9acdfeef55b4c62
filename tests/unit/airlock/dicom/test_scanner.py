"""What the scanner reads by itself, what it asks for, and every doubt for which it leaves an object to pydicom."""

from __future__ import annotations

import struct
import tracemalloc
import zlib
from typing import TYPE_CHECKING

import pytest

from airlock.dicom import header
from airlock.dicom.elements import ELEMENT_LIMIT
from airlock.dicom.errors import Doubt, HeaderError
from airlock.dicom.header import parse
from airlock.dicom.ranged import BlockFile, NeedBytes
from airlock.dicom.scanner import Scanner
from tests.fuzz.headers import in_pieces
from tests.unit.airlock.dicom.objects import (
    BIG_ENDIAN,
    CT_VALUES,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    UNDEFINED,
    Memory,
    ct,
    element,
    elements,
    item,
    meta,
    read_header,
    sequence,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

REQUEST_ATTRIBUTES, PIXEL_DATA = 0x00400275, 0x7FE00010
SYNTAXES = [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED]
Changes = dict[int, tuple[str, bytes] | bytes | None]


def file_of(data: bytes, *, here: int | None = None) -> BlockFile:
    """Return an object of which the first bytes are here, or all."""
    file = BlockFile(len(data))
    file.add(0, data[:here])
    return file


def scanned(data: bytes) -> dict[str, str]:
    """Return what the scanner reads of a whole object, which is what pydicom reads of it."""
    scanner = Scanner(file_of(data))
    values = scanner.values()
    assert scanner.doubt is None
    assert values == parse(file_of(data)).values
    return values


def doubt(data: bytes) -> Doubt | None:
    scanner = Scanner(file_of(data))
    assert scanner.values() is None
    return scanner.doubt


def deflated(data_set: bytes) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return meta(DEFLATED) + packer.compress(data_set) + packer.flush()


def rich(syntax: str = EXPLICIT, *, undefined: bool = True) -> bytes:
    """Return a CT with sequences before, behind and of the wanted attributes, and private elements."""
    inner = EXPLICIT if syntax == DEFLATED else syntax
    code = item(element(0x00080100, "SH", b"X ", inner), inner, undefined=undefined)
    request = element(0x00400008, "SQ", b"", inner) + element(0x00401001, "SH", b"RP-1", inner)
    changes: Changes = {
        0x00081140: sequence(0x00081140, [code, code], inner, undefined=undefined),
        0x00090010: ("LO", b"ACME 1"),
        0x00091010: ("OB", bytes(40)),
        0x00291020: ("UN", bytes(30)),
        REQUEST_ATTRIBUTES: sequence(REQUEST_ATTRIBUTES, [item(request, inner, undefined=undefined)], inner,
                                     undefined=undefined),
        0x00540220: sequence(0x00540220, [code], inner, undefined=undefined),
    }  # fmt: skip
    data_set = b"".join(elements(changes, inner))
    return deflated(data_set) if syntax == DEFLATED else meta(syntax) + data_set


def rich_values(syntax: str) -> dict[str, str]:
    return CT_VALUES | {"TransferSyntaxUID": syntax, "RequestedProcedureID": "RP-1"}


class TestReading:
    @pytest.mark.parametrize("undefined", [True, False])
    @pytest.mark.parametrize("syntax", SYNTAXES)
    def test_every_encoding_with_sequences_of_both_kinds(self, syntax: str, undefined: bool) -> None:
        assert scanned(rich(syntax, undefined=undefined)) == rich_values(syntax)

    def test_encapsulated_pixels_and_an_icon_of_them(self) -> None:
        fragments = item(b"", undefined=False) + item(bytes(90), undefined=False)
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        pixels = element(PIXEL_DATA, "OB", fragments + end, length=UNDEFINED)
        icon = sequence(0x00091110, [item(pixels)])
        assert scanned(ct({0x00091110: icon, PIXEL_DATA: pixels}, JPEG))["RequestedProcedureID"] == "RP-TOP"

    def test_a_private_transfer_syntax_is_explicit_little_endian(self) -> None:
        data = meta("1.2.840.113619.5.99") + b"".join(elements())
        assert scanned(data)["TransferSyntaxUID"] == "1.2.840.113619.5.99"

    def test_an_object_without_a_character_set_in_plain_ascii(self) -> None:
        changes: Changes = {0x00080005: None, 0x00080080: None, 0x00100010: ("PN", b"Doe^Jane==")}
        assert scanned(ct(changes))["PatientName"] == "Doe^Jane"

    @pytest.mark.parametrize(
        ("declared", "encoding", "text"),
        [
            ("ISO_IR 100", "latin-1", "Müller"),
            ("ISO_IR 192", "utf-8", "山田=やまだ"),
            ("ISO_IR 144", "iso8859-5", "Иванов"),
            ("GB18030", "gb18030", "王"),
            ("ISO_IR 13", "shift_jis", "ﾔﾏﾀﾞ"),
        ],
    )
    def test_text_of_the_character_sets_that_stand_alone(self, declared: str, encoding: str, text: str) -> None:
        changes: Changes = {
            0x00080005: ("CS", declared.encode()), 0x00080080: None, 0x00100010: ("PN", text.encode(encoding)),
        }  # fmt: skip
        assert scanned(ct(changes))["PatientName"] == text

    def test_several_values_lose_their_padding_each(self) -> None:
        assert scanned(ct({0x00100020: ("LO", b"A  \\ B \\C ")}))["PatientID"] == "A\\ B\\C"

    def test_the_end_of_the_object_behind_a_whole_element_is_an_end(self) -> None:
        values = scanned(ct({0x00401001: None, PIXEL_DATA: None}))
        assert values == {name: text for name, text in CT_VALUES.items() if name != "RequestedProcedureID"}

    def test_what_follows_the_pixels_is_not_looked_at(self) -> None:
        assert scanned(ct() + element(0x00100020, "LO", b"PID-2 ") + b"\0\0\0") == CT_VALUES


class TestRanges:
    @pytest.mark.parametrize("syntax", SYNTAXES)
    def test_it_goes_on_after_every_cut(self, syntax: str) -> None:
        data = rich(syntax)
        for cut in range(1, len(data)):
            assert in_pieces(data, cut, len(data)) == rich_values(syntax)

    @pytest.mark.parametrize("syntax", SYNTAXES)
    def test_it_goes_on_over_many_small_ranges(self, syntax: str) -> None:
        data = rich(syntax)
        for step in (1, 3, 8, 50):
            assert in_pieces(data, 1, step) == rich_values(syntax)

    def test_it_stops_behind_the_last_wanted_tag_and_asks_for_nothing_more(self) -> None:
        data = ct({0x00420010: ("ST", b"Report"), PIXEL_DATA: ("OW", bytes(100))})
        behind = data.index(struct.pack("<HH", 0x0042, 0x0010))
        assert Scanner(file_of(data, here=behind + 8)).values() == CT_VALUES
        with pytest.raises(NeedBytes) as need:
            Scanner(file_of(data, here=behind + 7)).values()
        assert need.value.span == (behind, behind + 8)

    def test_a_value_that_is_not_wanted_is_never_asked_for(self) -> None:
        data = ct({0x00091010: ("OB", bytes(100_000)), PIXEL_DATA: ("OW", bytes(100_000))})
        with pytest.raises(NeedBytes) as need:
            Scanner(file_of(data, here=4096)).values()
        assert need.value.span.start > 100_000

    def test_functional_groups_behind_are_not_inflated(self) -> None:
        groups = sequence(0x52009230, [item(element(0x00209111, "OB", bytes(20 << 20)))])
        assert scanned(deflated(b"".join(elements({0x52009230: groups})))) == CT_VALUES | {
            "TransferSyntaxUID": DEFLATED
        }

    @pytest.mark.parametrize("first_range", [1024, 4096, 16384])
    def test_requests_are_those_of_pydicom(self, first_range: int, monkeypatch: pytest.MonkeyPatch) -> None:
        objects = list(self._objects())
        ours = [self._spans(data, first_range) for data in objects]

        class Doubting(Scanner):
            def __init__(self, file: BlockFile) -> None:
                super().__init__(file)
                self.doubt = Doubt.TEXT

        monkeypatch.setattr(header, "Scanner", Doubting)
        assert ours == [self._spans(data, first_range) for data in objects]
        assert max(map(len, ours)) > 1

    @staticmethod
    def _objects() -> Iterator[bytes]:
        many = b"".join(element(0x00110000 + n, "LO", b"x" * 60) for n in range(0x1000, 0x1200))
        blob = sequence(0x00091010, [item(element(0x00091011, "OB", bytes(70_000)))])
        for syntax in SYNTAXES:
            yield rich(syntax)
        yield ct({0x00091010: ("OB", bytes(70_000)), 0x00291010: ("OB", bytes(20_000))})
        yield ct({0x00091010: blob})
        yield ct({0x00111000: many})

    @staticmethod
    def _spans(data: bytes, first_range: int) -> list[tuple[int, int]]:
        source = Memory(data)
        read_header(source, first_range=first_range)
        return source.spans


def nested(levels: int) -> bytes:
    value = b""
    for _ in range(levels):
        value = sequence(0x00091010, [item(value)])
    return value


def many(first_group: int) -> bytes:
    """Return more elements than any real object has, from a group on."""
    heads = (struct.pack("<HH2sH", first_group + (n >> 15), n & 0x7FFF, b"CS", 0) for n in range(ELEMENT_LIMIT + 1))
    return b"".join(heads)


ELSEWHERE = {Doubt.NO_PREAMBLE, Doubt.TOO_MANY_ELEMENTS}  # tested apart
ODD_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 4)
ITEM_END = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
DOUBTFUL = [
    (Doubt.FILE_META, meta()[:140] + b"\xff\0\0\0" + ct()[144:]),
    (Doubt.FILE_META, meta()),
    (Doubt.FILE_META, b"\0" * 128 + b"DICM" + element(0x00020002, "UI", b"1.2\0") + b"".join(elements())),
    (Doubt.FILE_META, b"\0" * 128 + b"DICM" + element(0x00020000, "UL", struct.pack("<I", 1 << 20)) + bytes(2000)),
    (Doubt.DICOMDIR, meta(sop_class=b"1.2.840.10008.1.3.10") + b"".join(elements())),
    (Doubt.DICOMDIR, ct({0x00041130: ("CS", b"SET1")})),
    (Doubt.ENCODING, meta(IMPLICIT) + b"".join(elements(syntax=EXPLICIT))),
    (Doubt.UNKNOWN_VR, meta(EXPLICIT) + b"".join(elements(syntax=IMPLICIT))),
    (Doubt.UNKNOWN_VR, ct({0x00091010: ("ZZ", b"x")})),
    (Doubt.UNKNOWN_VR, ct({0x00091010: sequence(0x00091010, [item(element(0x00091011, "ZZ", b"x"))])})),
    (Doubt.UNKNOWN_VR, ct({0x00421010: ("ZZ", b"x")})),
    (Doubt.OTHER_VR, ct({0x00100020: ("ST", b"PID-1")})),
    (Doubt.OTHER_VR, ct({0x00100020: ("UN", b"PID-1")})),
    (Doubt.OTHER_VR, ct({REQUEST_ATTRIBUTES: ("LO", b"RP")})),
    (Doubt.OUT_OF_ORDER, ct({0x00080021: element(0x00080018, "UI", b"1.2")})),
    (Doubt.OUT_OF_ORDER, ct({0x00080006: element(0x00060001, "LO", b"x")})),
    (Doubt.OUT_OF_ORDER, ct({0x00420010: element(0x00420010, "ST", b"x") + element(0x00100020, "LO", b"x")})),
    (Doubt.OUT_OF_ORDER, ct({0x00540220: sequence(0x00540220, [item(b"")]) + element(0x00100020, "LO", b"x")})),
    (Doubt.UNDEFINED_LENGTH, ct({0x00091010: element(0x00091010, "UN", b"", length=UNDEFINED)})),
    (Doubt.UNDEFINED_LENGTH, ct({0x00100020: element(0x00100020, "LO", b"", IMPLICIT, UNDEFINED)}, IMPLICIT)),
    (Doubt.UNDEFINED_LENGTH,
     ct({0x00091010: sequence(0x00091010, [item(element(0x00091011, "UT", b"", length=UNDEFINED))])})),
    (Doubt.NOT_AN_ITEM, ct({0x00091010: element(0x00091010, "SQ", b"".join(elements()), length=UNDEFINED)})),
    (Doubt.NOT_AN_ITEM, ct({0x00091010: sequence(0x00091010, [item(item(b""))])})),
    (Doubt.NOT_AN_ITEM, ct({0x00091010: sequence(0x00091010, [item(b"")[:8] + ODD_END])})),
    (Doubt.NOT_AN_ITEM, ct({REQUEST_ATTRIBUTES: element(REQUEST_ATTRIBUTES, "SQ", b"RP-1")})),
    (Doubt.NOT_AN_ITEM, ct({REQUEST_ATTRIBUTES: element(REQUEST_ATTRIBUTES, "SQ", item(b"")[:8] + ODD_END)})),
    (Doubt.NOT_AN_ITEM, ct({REQUEST_ATTRIBUTES: element(REQUEST_ATTRIBUTES, "SQ", item(b"", undefined=False)[:4])})),
    (Doubt.NOT_AN_ITEM, ct({REQUEST_ATTRIBUTES: element(REQUEST_ATTRIBUTES, "SQ", b"\xfe\xff\0\xe0\x40\0\0\0")})),
    (Doubt.NOT_AN_ITEM, ct({0x00420013: element(0x00420013, "SQ", ITEM_END, length=UNDEFINED)})),
    (Doubt.NOT_AN_ITEM, ct({0x00420010: element(0xFFFEE000, "", b"", IMPLICIT)}, IMPLICIT)),
    (Doubt.NESTED_TOO_DEEP, ct({0x00091010: nested(40)})),
    (Doubt.LONG_VALUE, ct({0x00100020: ("LO", b"X" * 70_000)}, IMPLICIT)),
    (Doubt.LONG_VALUE, ct({REQUEST_ATTRIBUTES: sequence(REQUEST_ATTRIBUTES, [item(b"")] * 5000)})),
    (Doubt.OBJECT_ENDS, ct()[:400]),
    (Doubt.OBJECT_ENDS, ct()[:-50]),
    (Doubt.OBJECT_ENDS, ct({PIXEL_DATA: None}) + b"\0" * 4),
    (Doubt.OBJECT_ENDS, ct({0x00401001: None, PIXEL_DATA: None}) + b"\0" * 4),
    (Doubt.OBJECT_ENDS, ct({0x00091010: element(0x00091010, "UN", b"", length=0x7FFFFFF0)})),
    (Doubt.MISSING_UID, ct({0x0020000D: None})),
    (Doubt.MISSING_UID, ct({0x00080018: ("UI", b"")})),
    (Doubt.ODD_UID, ct({0x0020000D: ("UI", b"1.2.x")})),
    (Doubt.ODD_UID, ct({0x0020000D: ("UI", b"1.2.3 \0\0")})),
    (Doubt.ODD_UID, ct({0x00080016: ("UI", b"1.2\\1.3 ")})),
    (Doubt.CHARACTER_SET, ct({0x00080005: ("CS", b"ISO 2022 IR 87")})),
    (Doubt.CHARACTER_SET, ct({0x00080005: ("CS", b"ISO_IR 100\\ISO 2022 IR 126")})),
    (Doubt.CHARACTER_SET, ct({0x00080005: ("CS", b"ISO_IR 999")})),
    (Doubt.CHARACTER_SET,
     ct({REQUEST_ATTRIBUTES: sequence(REQUEST_ATTRIBUTES, [item(element(0x00080005, "CS", b"ISO_IR 192"))])})),
    (Doubt.TEXT, ct({0x00080005: None})),
    (Doubt.TEXT, ct({0x00080005: ("CS", b"ISO_IR 192")})),
    (Doubt.TEXT, ct({0x00080005: ("CS", b"ISO_IR 192"), 0x00080080: None, 0x00100010: ("PN", "\ufffd".encode())})),
    (Doubt.TEXT, ct({0x00100020: ("LO", b"\x1b$B;3ED\x1b(B")})),
    (Doubt.TEXT, ct({0x00100020: ("LO", b"P\0ID")})),
    (Doubt.TEXT, ct({0x00080060: ("CS", b"C\xd6")})),
    (Doubt.DEFLATE, meta(DEFLATED) + b"\xff" * 500),
]  # fmt: skip


class TestDoubts:
    @pytest.mark.parametrize(("expected", "data"), DOUBTFUL, ids=[str(expected) for expected, _ in DOUBTFUL])
    def test_what_is_not_plain_is_left_to_pydicom(self, expected: Doubt, data: bytes) -> None:
        assert doubt(data) is expected

    @pytest.mark.parametrize("group", [0x0011, 0x0043])
    def test_a_flood_of_elements_before_and_behind_the_last_wanted_one(self, group: int) -> None:
        assert doubt(ct({group << 16: many(group)})) is Doubt.TOO_MANY_ELEMENTS

    def test_a_flood_of_items(self) -> None:
        items = [item(b"", undefined=False)] * (ELEMENT_LIMIT + 1)
        assert doubt(ct({0x00091010: sequence(0x00091010, items)})) is Doubt.TOO_MANY_ELEMENTS

    @pytest.mark.parametrize("first_range", [16384, 1 << 20])
    def test_a_deflated_data_set_that_inflates_to_too_much(self, first_range: int) -> None:
        data = deflated(b"".join(elements({0x00091010: ("OB", bytes(20 << 20))})))
        with pytest.raises(HeaderError) as caught:
            read_header(Memory(data), first_range=first_range)
        assert caught.value.doubt is Doubt.DEFLATE

    def test_there_is_no_other_doubt_and_each_says_what_it_is(self) -> None:
        assert {expected for expected, _ in DOUBTFUL} == set(Doubt) - ELSEWHERE
        assert all(each.sentence.endswith(".") for each in Doubt)

    def test_without_a_preamble_the_scanner_is_not_asked(self) -> None:
        with pytest.raises(HeaderError) as caught:
            read_header(Memory(ct()[132:]))
        assert caught.value.doubt is Doubt.NO_PREAMBLE

    def test_the_header_says_what_made_pydicom_read_it(self) -> None:
        assert read_header(Memory(ct())).doubt is None
        found = read_header(Memory(ct({0x00100020: ("ST", b"PID-1")})))
        assert (found.doubt, found.values) == (Doubt.OTHER_VR, CT_VALUES)


def test_no_declared_length_costs_memory() -> None:
    broken = [
        ct({tag: element(tag, vr, b"", syntax, length=length)}, syntax)
        for tag in (0x00091010, 0x00100020, REQUEST_ATTRIBUTES, 0x00420010)
        for vr in ("SQ", "UN", "OB")
        for length in (0x7FFFFFF0, 0xFFFFFFFE, UNDEFINED)
        for syntax in (EXPLICIT, IMPLICIT, BIG_ENDIAN)
    ]
    tracemalloc.start()
    try:
        for data in broken:
            Scanner(file_of(data)).values()
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 1 << 20
