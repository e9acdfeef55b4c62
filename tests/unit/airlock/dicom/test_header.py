"""What one object's header gives, or why it gives none."""

from __future__ import annotations

import gzip
import logging
import random
import struct
import tracemalloc
import warnings
import zlib
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from airlock.dicom.errors import HeaderError
from airlock.reasons import Reason
from tests.unit.airlock.dicom.objects import (
    BIG_ENDIAN,
    CT_VALUES,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    UNDEFINED,
    Huge,
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
    from airlock.dicom.header import Header

KIB = 1024
REQUEST_ATTRIBUTES, PIXEL_DATA = 0x00400275, 0x7FE00010
PROCEDURE_CODE = 0x00081032


def read(data: bytes, **limits: int) -> Header:
    return read_header(Memory(data), **limits)


def code_item(code: bytes, scheme: bytes, meaning: bytes, syntax: str = EXPLICIT, *, undefined: bool = True) -> bytes:
    values = ((0x00080100, "SH", code), (0x00080102, "SH", scheme), (0x00080104, "LO", meaning))
    return item(b"".join(element(*value, syntax) for value in values), syntax, undefined=undefined)


def refusal(data: bytes, **limits: int) -> HeaderError:
    with pytest.raises(HeaderError) as caught:
        read(data, **limits)
    return caught.value


def deflated(changes: dict[int, tuple[str, bytes] | bytes | None] | None = None) -> bytes:
    packer = zlib.compressobj(wbits=-15)
    return meta(DEFLATED) + packer.compress(b"".join(elements(changes))) + packer.flush()


class TestValues:
    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, JPEG])
    def test_every_encoding_gives_the_same_text(self, syntax: str) -> None:
        assert read(ct(syntax=syntax)).values == CT_VALUES | {"TransferSyntaxUID": syntax}

    def test_a_deflated_data_set_gives_it_too(self) -> None:
        assert read(deflated()).values == CT_VALUES | {"TransferSyntaxUID": DEFLATED}

    def test_absent_is_left_out_and_empty_is_empty(self) -> None:
        values = read(ct({0x00100020: None, 0x00080050: ("SH", b"")})).values
        assert "PatientID" not in values
        assert values["AccessionNumber"] == ""

    def test_numbers_stay_as_stored_even_when_they_are_none(self) -> None:
        assert read(ct({0x00200011: ("IS", b"1.5e3x")})).values["SeriesNumber"] == "1.5e3x"

    def test_several_values_are_joined_and_each_is_stripped(self) -> None:
        assert read(ct({0x00100020: ("LO", b"A  \\ B \\C ")})).values["PatientID"] == "A\\ B\\C"

    def test_a_person_name_keeps_its_component_groups(self) -> None:
        name = "Yamada^Tarou=山田^太郎=やまだ^たろう".encode()
        values = read(ct({0x00080005: ("CS", b"ISO_IR 192"), 0x00100010: ("PN", name)})).values
        assert values["PatientName"] == "Yamada^Tarou=山田^太郎=やまだ^たろう"

    def test_a_uid_loses_its_padding_only(self) -> None:
        assert read(ct({0x0020000D: ("UI", b"1.2.3 \0\0")})).values["StudyInstanceUID"] == "1.2.3"

    def test_a_missing_transfer_syntax_is_absent_and_the_rest_is_read(self) -> None:
        body = b"".join(elements())
        bare = b"\0" * 128 + b"DICM" + element(0x00020002, "UI", b"1.2\0") + body
        assert read(bare).values == {k: v for k, v in CT_VALUES.items() if k != "TransferSyntaxUID"}

    def test_a_value_of_any_length_is_kept_up_to_64_kib(self) -> None:
        values = read(ct({0x00100020: ("LO", b"X" * 300_000)}, IMPLICIT)).values
        assert values["PatientID"] == "X" * 65536
        assert values["RequestedProcedureID"] == "RP-TOP"


class TestRequestedProcedure:
    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    @pytest.mark.parametrize("undefined", [True, False])
    def test_the_first_request_that_has_it_goes_before_the_top_level(self, syntax: str, undefined: bool) -> None:
        items = [
            item(element(0x00321060, "LO", b"CT ", syntax), syntax, undefined=undefined),
            item(element(0x00401001, "SH", b"RP-1", syntax), syntax, undefined=undefined),
            item(element(0x00401001, "SH", b"RP-2", syntax), syntax, undefined=undefined),
        ]
        nested = sequence(REQUEST_ATTRIBUTES, items, syntax, undefined=undefined)
        assert read(ct({REQUEST_ATTRIBUTES: nested}, syntax)).values["RequestedProcedureID"] == "RP-1"

    def test_without_one_in_the_requests_the_top_level_counts(self) -> None:
        nested = sequence(REQUEST_ATTRIBUTES, [item(element(0x00321060, "LO", b"CT"))])
        assert read(ct({REQUEST_ATTRIBUTES: nested})).values["RequestedProcedureID"] == "RP-TOP"

    def test_a_top_level_one_that_does_not_count_is_not_noted_as_undecodable(self) -> None:
        nested = sequence(REQUEST_ATTRIBUTES, [item(element(0x00401001, "SH", b"RP-1"))])
        plain: dict[int, tuple[str, bytes] | bytes | None] = {0x00080005: None, 0x00080080: None, 0x00100010: None}
        for_pydicom = {0x00100020: ("ST", b"PID-1")}
        header = read(ct({**plain, **for_pydicom, REQUEST_ATTRIBUTES: nested, 0x00401001: ("SH", b"\xc9")}))
        assert (header.values["RequestedProcedureID"], header.undecodable) == ("RP-1", ())

    def test_the_same_tag_in_another_sequence_is_none_of_it(self) -> None:
        other = sequence(0x00082112, [item(element(0x00401001, "SH", b"RP-X") + element(0x00100020, "LO", b"P-X"))])
        values = read(ct({0x00082112: other, 0x00401001: None})).values
        assert "RequestedProcedureID" not in values
        assert values["PatientID"] == "PID-1"


class TestProcedureCode:
    """Of Procedure Code Sequence (0008,1032) the first code counts; it describes a study and decides on nothing."""

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    @pytest.mark.parametrize("undefined", [True, False])
    def test_the_first_item_with_a_code_counts(self, syntax: str, undefined: bool) -> None:
        codes = [
            item(element(0x00080105, "CS", b"X ", syntax), syntax, undefined=undefined),
            code_item(b"CTTHX\0", b"99L ", b"CT Thorax", syntax, undefined=undefined),
            code_item(b"OTHER ", b"99L ", b"Other", syntax, undefined=undefined),
        ]
        nested = sequence(PROCEDURE_CODE, codes, syntax, undefined=undefined)
        header = read(ct({PROCEDURE_CODE: nested}, syntax))
        assert header.values["ProcedureCodeSequence"] == "CTTHX\\99L\\CT Thorax"
        assert header.doubt is None
        for_pydicom: tuple[str, bytes] = ("ST", b"PID-1")
        doubted = read(ct({PROCEDURE_CODE: nested, 0x00100020: for_pydicom}, syntax))
        assert doubted.values == header.values

    def test_without_a_code_the_attribute_is_absent(self) -> None:
        for items in ([], [item(b"")]):
            assert "ProcedureCodeSequence" not in read(ct({PROCEDURE_CODE: sequence(PROCEDURE_CODE, items)})).values

    def test_a_sequence_that_cannot_be_read_costs_nothing_else(self) -> None:
        known = read(ct()).values
        too_long = sequence(PROCEDURE_CODE, [code_item(b"C" * 70_000, b"99L ", b"CT", IMPLICIT)], IMPLICIT)
        assert read(ct({PROCEDURE_CODE: too_long}, IMPLICIT)).values == known | {"TransferSyntaxUID": IMPLICIT}
        assert read(ct({PROCEDURE_CODE: element(PROCEDURE_CODE, "SQ", b"no item here")})).values == known

    def test_a_describing_text_that_does_not_fit_its_character_set_is_not_noted(self) -> None:
        plain: dict[int, tuple[str, bytes] | bytes | None] = {0x00080080: None, 0x00100010: None}
        header = read(ct({0x00080005: ("CS", b"ISO_IR 192"), 0x00180010: ("LO", b"M\xfc"), **plain}))
        assert header.values["ContrastBolusAgent"] == "M\ufffd"
        assert header.undecodable == ()


class TestCharacterSets:
    def test_bytes_that_do_not_fit_come_as_replacement_characters_and_are_noted(self) -> None:
        header = read(ct({0x00080005: ("CS", b"ISO_IR 192"), 0x00100010: ("PN", b"M\xfcller"), 0x00080080: None}))
        assert header.values["PatientName"] == "M\ufffdller"
        assert header.undecodable == ("PatientName",)

    @pytest.mark.parametrize("declared", [None, ("CS", b""), ("CS", b"ISO_IR 6"), ("CS", b"ISO_IR 999")])
    def test_bytes_outside_ascii_need_a_character_set_that_is_known(self, declared: tuple[str, bytes] | None) -> None:
        header = read(ct({0x00080005: declared}))
        assert header.values["PatientName"] == "Müller^Jörg"
        assert header.undecodable == ("InstitutionName", "PatientName")

    def test_code_extensions_are_followed(self) -> None:
        name = b"Yamada^Tarou=\x1b$B;3ED\x1b(B^\x1b$BB@O:\x1b(B"
        header = read(ct({0x00080005: ("CS", b"\\ISO 2022 IR 87"), 0x00100010: ("PN", name), 0x00080080: None}))
        assert header.values["PatientName"] == "Yamada^Tarou=山田^太郎"
        assert header.undecodable == ()

    def test_an_escape_that_was_not_declared_is_noted(self) -> None:
        assert "PatientName" in read(ct({0x00100010: ("PN", b"\x1b$B;3ED\x1b(B")})).undecodable

    def test_a_codec_that_is_no_character_set_makes_nothing_that_cannot_be_stored(self) -> None:
        header = read(ct({0x00080005: ("CS", b"unicode_escape"), 0x00100010: ("PN", b"\\ud800\xfc")}))
        assert header.values["PatientName"].encode("utf-8")
        assert "PatientName" in header.undecodable

    def test_a_flood_of_character_sets(self) -> None:
        assert refusal(ct({0x00080005: ("CS", b"\\" * 60_000)})).reason is Reason.UNREADABLE

    def test_a_backslash_inside_a_multi_byte_character_separates_nothing(self) -> None:
        header = read(ct({0x00080005: ("CS", b"GB18030"), 0x00100020: ("LO", b"\x95\x5c"), 0x00100010: None,
                          0x00080080: None}))  # fmt: skip
        assert header.values["PatientID"] == b"\x95\x5c".decode("gb18030")


class TestRanges:
    def test_a_small_header_takes_one_request_and_no_pixels(self) -> None:
        source = Memory(ct({0x7FE00010: ("OW", bytes(500_000))}))
        read_header(source)
        assert source.spans == [(0, 16 * KIB)]

    def test_a_short_object_is_asked_for_exactly(self) -> None:
        source = Memory(ct())
        read_header(source)
        assert source.spans == [(0, len(source.data))]

    def test_a_big_unwanted_value_is_jumped_over(self) -> None:
        source = Memory(ct({0x00091010: ("OB", bytes(1_000_000)), 0x7FE00010: ("OW", bytes(100_000))}))
        assert read_header(source).values == CT_VALUES
        assert len(source.spans) == 2
        assert source.bytes_read == 32 * KIB

    def test_so_is_one_inside_a_sequence_of_undefined_length(self) -> None:
        nested = sequence(0x00091010, [item(element(0x00091011, "OB", bytes(1_000_000)))])
        source = Memory(ct({0x00091010: nested, 0x7FE00010: ("OW", bytes(100_000))}))
        assert read_header(source).values == CT_VALUES
        assert source.bytes_read == 32 * KIB

    def test_a_header_of_many_small_elements_is_read_on(self) -> None:
        private = b"".join(element(0x00110000 + n, "LO", b"x" * 60) for n in range(0x1000, 0x1400))
        source = Memory(ct({0x00111000: private, 0x7FE00010: ("OW", bytes(1_000_000))}))
        assert read_header(source).values == CT_VALUES
        assert len(source.spans) == 3
        assert source.spans[0][1] == source.spans[1][0]

    def test_a_header_behind_more_bytes_than_allowed_is_given_up(self) -> None:
        private = b"".join(element(0x00110000 + n, "LO", b"x" * 60) for n in range(0x1000, 0x2000))
        source = Memory(ct({0x00111000: private, 0x7FE00010: ("OW", bytes(1_000_000))}))
        with pytest.raises(HeaderError) as caught:
            read_header(source, max_bytes=100 * KIB)
        assert caught.value.reason is Reason.HEADER_TOO_LONG
        assert source.bytes_read == 100 * KIB

    @pytest.mark.parametrize("first_range", [16, 100, 333, 700, 4096])
    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED])
    def test_the_size_of_the_first_range_changes_nothing(self, syntax: str, first_range: int) -> None:
        data = deflated() if syntax == DEFLATED else ct(syntax=syntax)
        assert read(data, first_range=first_range) == read(data)


class TestPrefetch:
    """Bytes that are fetched with the first range, since headers of the same folder needed them."""

    BLOB: ClassVar = {0x00091010: ("OB", bytes(100_000)), 0x7FE00010: ("OW", bytes(500_000))}

    def test_a_header_reaches_to_the_end_of_its_last_range(self) -> None:
        source = Memory(ct(self.BLOB))
        assert read_header(source).reach == source.spans[-1][1] > 100_000
        assert read(ct()).reach == 0

    @pytest.mark.parametrize("data", [ct(BLOB), ct(BLOB, IMPLICIT), ct(BLOB | {0x00100020: ("LO", b"PID\0\0-1")})])
    def test_one_request_of_as_many_bytes_is_enough(self, data: bytes) -> None:
        header, source = read(data), Memory(data)
        assert read_header(source, prefetch=header.reach) == header
        assert source.spans == [(0, header.reach)]

    def test_what_it_does_not_hold_is_asked_for_as_without_it(self) -> None:
        data = ct(self.BLOB)
        alone, source = Memory(data), Memory(data)
        reach = read_header(alone).reach
        assert read_header(source, prefetch=reach - 1).reach == reach
        assert source.spans == [(0, reach - 1), alone.spans[1]]

    def test_it_is_no_more_than_the_object_and_no_less_than_the_first_range(self) -> None:
        source = Memory(ct())
        read_header(source, prefetch=1 << 20)
        read_header(source, first_range=300, prefetch=200)
        assert source.spans[:2] == [(0, len(source.data)), (0, 300)]

    def test_bytes_behind_the_ranges_are_not_looked_at(self) -> None:
        """The element behind the first range is out of order, which would be found if it was parsed."""
        behind = element(0x00431001, "OB", bytes(20_000)) + element(0x00200010, "SH", b"late")
        data = ct({0x00431001: behind, 0x7FE00010: None})
        assert read(data, first_range=32 * KIB).doubt
        assert read(data) == read(data, prefetch=32 * KIB)
        assert not read(data).doubt


class TestOrder:
    def test_a_value_out_of_order_is_taken_where_it_is_here(self) -> None:
        late = element(0x00420010, "ST", b"Report") + element(0x0020000D, "UI", b"1.2.3\0")
        assert read(ct({0x0020000D: None, 0x00420010: late})).values == CT_VALUES

    @pytest.mark.parametrize("undefined", [True, False])
    def test_so_is_one_behind_a_sequence(self, undefined: bool) -> None:
        behind = sequence(0x00540220, [item(b"")], undefined=undefined) + element(0x0020000D, "UI", b"1.2.3\0")
        assert read(ct({0x0020000D: None, 0x00540220: behind})).values == CT_VALUES

    @pytest.mark.parametrize("undefined", [True, False])
    def test_and_requests_that_stand_out_of_order(self, undefined: bool) -> None:
        requests = sequence(REQUEST_ATTRIBUTES, [item(element(0x00401001, "SH", b"RP-1"))], undefined=undefined)
        late = element(0x00420010, "ST", b"Report") + requests
        assert read(ct({0x00420010: late})).values["RequestedProcedureID"] == "RP-1"


class TestNoPart10:
    def test_nothing(self) -> None:
        assert refusal(b"").reason is Reason.EMPTY_OBJECT

    @pytest.mark.parametrize(
        ("data", "detail"),
        [
            (b"\xff\xd8\xff\xe0\0\x10JFIF" + bytes(900), "JPEG"),
            (b"%PDF-1.7\n", "PDF"),
            (b"exported by the old archive\n", "text"),
            (b"PK\x03\x04" + bytes(100), "ZIP"),
            (bytes(range(1, 200)), "unknown content"),
            (b"x", "text"),
            (bytes(10_000), "unknown content"),
        ],
    )
    def test_something_else(self, data: bytes, detail: str) -> None:
        error = refusal(data)
        assert (error.reason, error.detail) == (Reason.NOT_DICOM, detail)

    @pytest.mark.parametrize("data", [b"\x08\0\x16\0??\xff\xff" + bytes(99), b"x" * 100 + b"DICM" + b"y" * 99])
    def test_what_begins_like_a_data_set_is_a_damaged_one(self, data: bytes) -> None:
        assert refusal(data).reason is Reason.UNREADABLE

    def test_a_gzip_stream(self) -> None:
        assert refusal(gzip.compress(ct())).reason is Reason.GZIP_ENCODED

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    def test_a_data_set_without_preamble_still_says_whose_it_is(self, syntax: str) -> None:
        error = refusal(b"".join(elements(syntax=syntax)))
        assert error.reason is Reason.NO_PREAMBLE
        assert error.values["StudyInstanceUID"] == "1.2.3"

    def test_a_meta_group_without_preamble(self) -> None:
        assert refusal(ct()[132:]).reason is Reason.NO_PREAMBLE
        assert refusal(ct()[128:]).reason is Reason.NO_PREAMBLE

    @pytest.mark.parametrize("sop_class", [b"1.2.840.10008.1.3.10", b"1.2.3\0"])
    def test_a_directory_by_its_class_or_its_records(self, sop_class: bytes) -> None:
        records = sequence(0x00041220, [item(element(0x00041430, "CS", b"PATIENT "))])
        assert refusal(meta(sop_class=sop_class) + records).reason is Reason.DICOMDIR

    def test_a_directory_without_records(self) -> None:
        data = meta(sop_class=b"1.2.840.10008.1.3.10") + element(0x00041130, "CS", b"SET1")
        assert refusal(data).reason is Reason.DICOMDIR


class TestCutObjects:
    def test_cut_in_the_meta_group(self) -> None:
        assert refusal(ct()[:200]).reason is Reason.TRUNCATED

    def test_cut_behind_the_meta_group(self) -> None:
        assert refusal(meta()).reason is Reason.TRUNCATED

    def test_cut_in_the_pixels_but_it_says_whose_they_are(self) -> None:
        error = refusal(ct()[:-50])
        assert error.reason is Reason.TRUNCATED
        assert error.values == CT_VALUES

    def test_cut_in_pixels_that_were_never_read(self) -> None:
        assert refusal(ct({0x7FE00010: ("OW", bytes(500_000))})[:-1]).reason is Reason.TRUNCATED

    def test_cut_in_the_fragment_of_compressed_pixels(self) -> None:
        table = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        fragment = struct.pack("<HHI", 0xFFFE, 0xE000, 90_000) + bytes(90_000)
        end = struct.pack("<HHI", 0xFFFE, 0xE0DD, 0)
        whole = ct({0x7FE00010: element(0x7FE00010, "OB", table + fragment + end, length=UNDEFINED)}, JPEG)
        assert read(whole).values["PatientID"] == "PID-1"
        assert refusal(whole[:-40_000]).reason is Reason.TRUNCATED

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    def test_cut_in_a_sequence_behind_the_wanted_attributes(self, syntax: str) -> None:
        behind = sequence(0x00540220, [item(element(0x00080100, "SH", b"X" * 40, syntax), syntax)], syntax)
        assert refusal(ct({0x00540220: behind, PIXEL_DATA: None}, syntax)[:-30]).reason is Reason.TRUNCATED

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    @pytest.mark.parametrize("tag", [0x00091001, 0x00100020, 0x00431001])
    @pytest.mark.parametrize("last", [None, 0x00401001])
    def test_a_whole_object_in_which_one_length_is_wrong_is_not_cut(
        self, tag: int, syntax: str, last: int | None
    ) -> None:
        """Behind the element come others, to the pixels or, without any, exactly to the end."""
        wrong: dict[int, Any] = {tag: element(tag, "UN", b"x" * 10, syntax, length=0x7FFFFFF0)}
        if last is not None:
            wrong |= {PIXEL_DATA: None, 0x00420010: ("ST", b"Report")}
        error = refusal(ct(wrong, syntax))
        if last is not None and tag == 0x00431001:
            assert error.reason is Reason.TRUNCATED, "nothing follows"
            return
        assert (error.reason, error.detail[:37]) == (Reason.UNREADABLE, "an element declares more bytes than t")
        assert error.values["SOPInstanceUID"] == "1.2.3.1.1"
        assert refusal(ct(wrong, syntax), first_range=64).reason is Reason.UNREADABLE

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    def test_a_length_that_is_one_too_long_does_not_make_a_whole_object_a_cut_one(self, syntax: str) -> None:
        for length in (3, 5, 7):
            wrong = ct({0x00100040: element(0x00100040, "CS", b"O ", syntax, length=length)}, syntax)
            assert refusal(wrong).reason is Reason.UNREADABLE

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    def test_a_wrong_length_within_a_sequence_of_a_whole_object(self, syntax: str) -> None:
        nested = element(0x00081150, "UI", b"1.2", syntax) + element(0x00081155, "UN", b"", syntax, length=0x7FFFFFF0)
        whole = ct({0x00081140: sequence(0x00081140, [item(nested, syntax)], syntax)}, syntax)
        assert refusal(whole).reason is Reason.UNREADABLE
        assert refusal(whole[:400]).reason is Reason.TRUNCATED

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    def test_the_pixels_of_an_icon_are_not_the_end_of_an_object_that_is_cut_behind_them(self, syntax: str) -> None:
        icon = item(element(PIXEL_DATA, "OW", bytes(64), syntax), syntax, undefined=False)
        icons = sequence(0x00880200, [icon] * 3, syntax, undefined=False)
        whole = ct({0x00880200: icons}, syntax)
        behind = whole.index(icons) + len(icons) - len(icon)
        for end in (behind - 5, behind + 10):
            assert refusal(whole[:end]).reason is Reason.TRUNCATED

    def test_a_bad_nested_element_of_a_whole_object_without_pixels(self) -> None:
        """pydicom comes to the object's end, and only then to what it cannot read."""
        endless = element(0x00401001, "SQ", b"", length=UNDEFINED)
        request = sequence(0x00400275, [item(endless, undefined=False)], undefined=False)
        report = ct({0x00400275: request, 0x00401001: None, PIXEL_DATA: None})
        assert refusal(report).reason is Reason.UNREADABLE

    @pytest.mark.parametrize("tag", [0x00091001, 0x00431001])
    def test_two_gib_declared_in_a_small_object(self, tag: int) -> None:
        broken = ct({tag: element(tag, "UN", b"", length=0x7FFFFFF0)})
        tracemalloc.start()
        try:
            error = refusal(broken)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert error.reason is Reason.UNREADABLE
        assert error.values["SOPInstanceUID"] == "1.2.3.1.1"
        assert peak < 4_000_000

    def test_two_gib_wanted_in_a_big_object_cost_no_more_than_others(self) -> None:
        start = ct({0x00100020: element(0x00100020, "UN", b"", length=0x7FFFFFF0)})
        source = Huge(start, claimed=3 << 30)
        with pytest.raises(HeaderError):
            read_header(source)
        assert source.bytes_read <= 16 << 20

    def test_an_object_with_a_hole(self) -> None:
        error = refusal(meta() + b"".join(elements()[:8]) + bytes(100_000))
        assert (error.reason, error.detail) == (Reason.UNREADABLE, "zeros where an element should be")

    def test_the_end_behind_a_whole_element_is_an_end(self) -> None:
        assert "RequestedProcedureID" not in read(ct({0x00401001: None, 0x7FE00010: None})).values

    def test_a_sequence_without_its_end(self) -> None:
        endless = element(0x00091010, "SQ", item(element(0x00091011, "LO", b"x")), length=UNDEFINED)
        assert refusal(meta() + endless).reason is Reason.TRUNCATED

    def test_padding_of_zeros_behind_the_last_element_is_none(self) -> None:
        report = ct({0x7FE00010: None, 0x00420010: ("ST", b"Report")})
        assert read(report + b"\0\0\0").values == CT_VALUES
        assert read(report + bytes(1000)).values == CT_VALUES
        assert refusal(report + b"\x43\0\1").reason is Reason.TRUNCATED

    def test_a_cut_deflated_stream(self) -> None:
        data = deflated({0x00091010: ("OB", random.Random(1).randbytes(5000))})
        assert refusal(data[:-3000]).reason is Reason.TRUNCATED


UIDS = {"SOPInstanceUID": "1.2.3.1.1", "StudyInstanceUID": "1.2.3", "SeriesInstanceUID": "1.2.3.1"}


class TestUidsBeforeTheDamage:
    """What stands before the place where a header breaks off still names the study."""

    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    def test_of_a_header_that_is_cut_behind_them(self, syntax: str) -> None:
        whole = ct({0x00200010: ("SH", b"STUDY " * 40)}, syntax)
        error = refusal(whole[: whole.index(b"STUDY STUDY") + 9])
        assert error.reason is Reason.TRUNCATED
        assert {name: error.values.get(name) for name in UIDS} == UIDS

    def test_of_a_header_that_is_too_long(self) -> None:
        private = b"".join(element(0x00210000 + n, "LO", b"x" * 60) for n in range(0x1000, 0x2000))
        error = refusal(ct({0x00211000: private}), max_bytes=100 * KIB)
        assert error.reason is Reason.HEADER_TOO_LONG
        assert error.values["StudyInstanceUID"] == "1.2.3"

    def test_not_of_one_that_is_cut_within_them(self) -> None:
        whole = ct()
        error = refusal(whole[: whole.index(b"\x20\0\x0d\0UI") + 10])
        assert "StudyInstanceUID" not in error.values
        assert error.values["SOPInstanceUID"] == "1.2.3.1.1"


class TestPixels:
    @pytest.mark.parametrize("syntax", [EXPLICIT, IMPLICIT, BIG_ENDIAN])
    def test_an_object_that_ends_before_them_is_known_to(self, syntax: str) -> None:
        assert not read(ct(syntax=syntax)).ends_without_pixels
        assert read(ct({PIXEL_DATA: None}, syntax)).ends_without_pixels
        assert read(ct({PIXEL_DATA: None, 0x00401001: None}, syntax)).ends_without_pixels
        assert read(ct({PIXEL_DATA: None, 0x00420010: ("ST", b"Report")}, syntax)).ends_without_pixels

    def test_pydicom_and_the_scanner_say_the_same(self) -> None:
        odd = {0x00100020: ("LO", b"PID\0\0-1")}  # for pydicom
        for more in ({}, {PIXEL_DATA: None}):
            header = read(ct(odd | more))
            assert header.doubt
            assert header.ends_without_pixels is bool(more)
        behind = odd | {PIXEL_DATA: None, 0x00420010: ("ST", b"Report")}
        assert read(ct(behind) + bytes(20)).ends_without_pixels

    def test_what_is_not_here_is_not_said(self) -> None:
        """Nothing more is asked for: the pixels may come behind it."""
        data = ct({0x00431001: ("OB", bytes(90_000)), PIXEL_DATA: None, 0x00540220: ("OB", bytes(10))})
        assert not read(data).ends_without_pixels


class TestHostileObjects:
    def test_noise_behind_the_prefix(self) -> None:
        noise = random.Random(1).randbytes(5000)
        assert refusal(b"\0" * 128 + b"DICM" + noise).reason in {Reason.UNREADABLE, Reason.TRUNCATED}

    @pytest.mark.parametrize("tag", [0x00091010, 0x00400275])
    def test_sequences_nested_without_end(self, tag: int) -> None:
        nested = b""
        for _ in range(2000):
            nested = sequence(tag, [item(nested)])
        error = refusal(ct({tag: nested}))
        assert error.reason is Reason.UNREADABLE
        assert "nested" in error.detail

    def test_nesting_that_makes_pydicom_recurse_too_far(self) -> None:
        nested = b""
        for _ in range(600):
            nested = sequence(0x00400275, [item(nested)])
        error = refusal(ct({0x00400275: sequence(0x00400275, [item(nested)], undefined=False)}))
        assert (error.reason, error.detail) == (Reason.UNREADABLE, "RecursionError")

    def test_a_stream_that_inflates_without_end_costs_no_memory(self) -> None:
        bomb = deflated({0x00091010: ("OB", bytes(64 << 20))})
        assert len(bomb) < 1 << 20
        tracemalloc.start()
        try:
            error = refusal(bomb)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert error.reason is Reason.HEADER_TOO_LONG
        assert peak < 80 << 20

    def test_a_stream_that_is_none(self) -> None:
        assert refusal(meta(DEFLATED) + b"\xff" * 500).reason is Reason.UNREADABLE

    def test_items_where_none_may_be(self) -> None:
        stray = struct.pack("<HHI", 0xFFFE, 0xE000, 0)
        assert refusal(ct({0x00091010: stray})).reason is Reason.UNREADABLE
        ending = struct.pack("<HHI", 0xFFFE, 0xE00D, 0)
        assert refusal(ct({0x00091010: ending})).reason is Reason.UNREADABLE

    def test_a_sequence_of_something_else(self) -> None:
        odd = element(0x00091010, "SQ", element(0x00091011, "LO", b"x"), length=UNDEFINED)
        assert refusal(ct({0x00091010: odd})).reason is Reason.UNREADABLE

    def test_a_flood_of_empty_items_costs_no_memory(self) -> None:
        many = sequence(0x00400275, [item(b"", undefined=False)] * 50_000)
        tracemalloc.start()
        try:
            assert refusal(ct({0x00400275: many})).reason is Reason.UNREADABLE
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert peak < 10 << 20

    def test_a_flood_of_elements_costs_no_time(self) -> None:
        flood = element(0x00091010, "UN", b"") * 250_000
        assert refusal(ct({0x00091010: flood})).detail == "more than 200000 elements"
        nested = sequence(0x00091010, [item(element(0x00091011, "CS", b"") * 250_000)])
        assert refusal(ct({0x00091010: nested})).detail == "a sequence has more than 200000 elements"

    def test_pydicom_says_nothing_and_details_hold_no_values(self, caplog: pytest.LogCaptureFixture) -> None:
        odd = ct({0x00100020: ("LO", b"CANARY" * 60), 0x00080020: ("DA", b"CANARY"), 0x00200011: ("IS", b"CANARY"),
                  0x00080018: ("UI", b"CANARY"), 0x00080005: ("CS", b"CANARY")})  # fmt: skip
        with warnings.catch_warnings(record=True) as warned, caplog.at_level(logging.DEBUG, logger="pydicom"):
            warnings.simplefilter("always")
            assert read(odd).values["PatientID"].startswith("CANARY")
            error = refusal(odd[:-10])
            assert logging.getLogger("pydicom").level == logging.DEBUG  # as it was before
        assert not warned
        assert not caplog.records
        assert "CANARY" not in f"{error} {error!r} {error.args}"
