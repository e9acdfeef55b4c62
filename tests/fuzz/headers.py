"""Mutated headers, read by the scanner and by pydicom: ``MUTATIONS=100000 python -m tests.fuzz.headers``.

Mutation number n is the same in every run, so that a difference can be looked at alone: ``ONLY=n``.
"""

from __future__ import annotations

import faulthandler
import os
import random
import resource
import struct
import sys
import time
import zlib
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from pydicom.charset import python_encoding
from pydicom.datadict import dictionary_VR
from pydicom.valuerep import EXPLICIT_VR_LENGTH_16, EXPLICIT_VR_LENGTH_32

from airlock.dicom.errors import HeaderError
from airlock.dicom.header import TAGS, parse, quiet_pydicom
from airlock.dicom.magic import is_part10
from airlock.dicom.ranged import BlockFile, NeedBytes
from airlock.dicom.scanner import Scanner
from airlock.dicom.text import strip
from tests.unit.airlock.dicom.objects import (
    BIG_ENDIAN,
    DEFLATED,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    UNDEFINED,
    element,
    elements,
    item,
    meta,
    sequence,
)
from tests.unit.airlock.dicom.oracle import FILES, pydicom_values

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from random import Random

SMALL = 40_000  # bytes of the shipped files that are mutated
HEADER = 4096  # bytes in which most damage is done
PATIENCE = 60  # seconds, and one more for every twenty mutations, before the program shows where it hangs
TIMES = (1, 1, 1, 1, 2, 2, 3)  # how much damage of a kind
NUMBERS = frozenset(keyword for keyword, tag in TAGS.items() if dictionary_VR(tag) == "IS")
IN_DATA_SET = [tag for keyword, tag in TAGS.items() if keyword != "TransferSyntaxUID"]
VRS = [vr.encode() for vr in sorted(EXPLICIT_VR_LENGTH_16 | EXPLICIT_VR_LENGTH_32)] + [b"??", b"\0\0", b"ZZ", b"sq"]
LENGTHS = (0, 1, 2, 7, 8, 63, 64, 1000, 0x7FFF, 0xFFFE, 0xFFFF, 0x10000, 0x7FFFFFFF, 0xFFFFFFFE, UNDEFINED)
CHARACTER_SETS = [*python_encoding, "ISO_IR 999", "\\ISO 2022 IR 87", "ISO_IR 100\\ISO 2022 IR 126", "latin-1", " "]
VALUES = (
    b"", b" ", b"\0", b"  \0\0", b"a\\b", b"A \\ B \\", b"\\", b"x\0y", b"\x1b$B;3ED\x1b(B", b"=", b"A^B=C==", b" lead",
    b"1.2.3", b"1.2.3\0", b"1.2.3 \0", b"1.2\\1.3", b"+12", b"1.5", b" 7 ", b"20260301", b"M\xfcller", "Мир".encode(),
    "山田".encode("gb18030"), "ﾔﾏﾀﾞ".encode("shift_jis"), "\ufffd".encode(), b"\x95\x5c", b"\xff\xfe", b"x" * 70,
)  # fmt: skip


class Seed(NamedTuple):
    """A sound object: its parts in order, the first of which ends with the file meta group."""

    syntax: str
    parts: tuple[bytes, ...]

    def join(self, parts: list[bytes]) -> bytes:
        """Return the object that is made of these parts instead."""
        if self.syntax != DEFLATED:
            return b"".join(parts)
        packer = zlib.compressobj(wbits=-15)
        return parts[0] + packer.compress(b"".join(parts[1:])) + packer.flush()


def rich(syntax: str, *, undefined: bool, plain: bool = False) -> Seed:
    """Return a CT with sequences of one kind and private elements, in a syntax; ``plain`` with ASCII only."""
    inner = EXPLICIT if syntax in {DEFLATED, JPEG} else syntax
    request = element(0x00321060, "LO", b"CT ", inner) + element(0x00401001, "SH", b"RP-1", inner)
    code = sequence(0x00400008, [item(element(0x00080100, "SH", b"X ", inner), inner, undefined=undefined)], inner,
                    undefined=undefined)  # fmt: skip
    requests = [item(request, inner, undefined=undefined), item(code, inner, undefined=undefined)]
    references = [item(element(0x00081155, "UI", b"1.2.9 ", inner), inner, undefined=undefined) for _ in range(2)]
    changes: dict[int, tuple[str, bytes] | bytes | None] = {
        0x00081140: sequence(0x00081140, references, inner, undefined=undefined),
        0x00090010: ("LO", b"ACME 1"),
        0x00091001: ("UN", bytes(300)),
        0x00400275: sequence(0x00400275, requests, inner, undefined=undefined),
        0x00420010: ("ST", b"Report"),
        0x00540220: sequence(0x00540220, references, inner, undefined=undefined),
    }
    if plain:
        changes |= {0x00080005: None, 0x00080080: ("LO", b"Klinik"), 0x00100010: ("PN", b"Muller^Jorg==")}
    if syntax == JPEG:
        fragments = item(b"", undefined=False) + item(bytes(90), undefined=False)
        changes[0x7FE00010] = sequence(0x7FE00010, [fragments]).replace(b"SQ", b"OB", 1)
    return Seed(syntax, (meta(syntax), *elements(changes, inner)))


def seeds() -> list[Seed]:
    """Return what is mutated: written objects of all transfer syntaxes, and the small ones that pydicom ships."""
    written = [
        rich(syntax, undefined=undefined, plain=plain)
        for syntax in (EXPLICIT, IMPLICIT, BIG_ENDIAN, DEFLATED, JPEG)
        for undefined in (False, True)
        for plain in (False, True)
    ]
    contents = (path.read_bytes() for path in FILES if path.stat().st_size <= SMALL)
    shipped = [Seed("", (content[:132], content[132:])) for content in contents if is_part10(content)]
    return written + shipped


def _place(rng: Random, parts: list[bytes]) -> int:
    return rng.randrange(1, len(parts))


def _delete(rng: Random, parts: list[bytes], _: str) -> None:
    if len(parts) > 2:
        del parts[_place(rng, parts)]


def _duplicate(rng: Random, parts: list[bytes], _: str) -> None:
    parts.insert(_place(rng, parts), parts[_place(rng, parts)])


def _swap(rng: Random, parts: list[bytes], _: str) -> None:
    one, other = _place(rng, parts), _place(rng, parts)
    parts[one], parts[other] = parts[other], parts[one]


def _insert(rng: Random, parts: list[bytes], syntax: str) -> None:
    tag = rng.choice([*TAGS.values(), 0x00081140, 0x00091010, 0x00400275, 0xFFFEE000, 0xFFFEE00D, rng.getrandbits(32)])
    vr = rng.choice(VRS[:-4]).decode()
    parts.insert(_place(rng, parts), element(tag, vr, rng.choice(VALUES), syntax))


def _edit_value(rng: Random, parts: list[bytes], syntax: str) -> None:
    tag = rng.choice(IN_DATA_SET)
    others = [part for part in parts[1:] if _tag(part, syntax) != tag]
    parts[1:] = _sorted([*others, element(tag, dictionary_VR(tag), rng.choice(VALUES), syntax)], syntax)


def _edit_character_set(rng: Random, parts: list[bytes], syntax: str) -> None:
    declared = element(0x00080005, "CS", rng.choice(CHARACTER_SETS).encode(), syntax)
    parts[1:] = [declared, *(part for part in parts[1:] if _tag(part, syntax) != 0x00080005)]


def _edit_vr(rng: Random, parts: list[bytes], _: str) -> None:
    place = _place(rng, parts)
    parts[place] = parts[place][:4] + rng.choice(VRS) + parts[place][6:]


def _edit_length(rng: Random, parts: list[bytes], syntax: str) -> None:
    place = _place(rng, parts)
    part, order = parts[place], ">" if syntax == BIG_ENDIAN else "<"
    length = rng.choice([*LENGTHS, len(part) - 7, max(0, len(part) - 9), max(0, len(part) - 12)])
    if syntax == IMPLICIT:
        parts[place] = part[:4] + struct.pack("<I", length) + part[8:]
    elif part[4:6].decode("latin-1") in EXPLICIT_VR_LENGTH_32:
        parts[place] = part[:8] + struct.pack(order + "I", length) + part[12:]
    else:
        parts[place] = part[:6] + struct.pack(order + "H", length & 0xFFFF) + part[8:]


def _nest(rng: Random, parts: list[bytes], syntax: str) -> None:
    place, undefined = _place(rng, parts), rng.random() < 0.5
    tag = rng.choice([0x00081140, 0x00400275, 0x00091010])
    parts[place] = sequence(tag, [item(parts[place], syntax, undefined=undefined)], syntax, undefined=undefined)


def _sorted(parts: list[bytes], syntax: str) -> list[bytes]:
    return sorted(parts, key=lambda part: _tag(part, syntax))


def _tag(part: bytes, syntax: str) -> int:
    group, number = struct.unpack_from(">HH" if syntax == BIG_ENDIAN else "<HH", part)
    return int(group << 16 | number)


def _flip(rng: Random, data: bytearray) -> None:
    for _ in range(rng.choice(TIMES)):
        data[_offset(rng, data)] ^= 1 << rng.randrange(8)


def _overwrite(rng: Random, data: bytearray) -> None:
    start = _offset(rng, data)
    data[start : start + 4] = rng.choice([rng.randbytes(4), b"\xff" * 4, bytes(4), b"\xfe\xff\x0d\xe0", b"SQ\0\0"])


def _cut(rng: Random, data: bytearray) -> None:
    del data[_offset(rng, data) :]


def _lose(rng: Random, data: bytearray) -> None:
    start = _offset(rng, data)
    del data[start : start + rng.randint(1, 12)]


def _gain(rng: Random, data: bytearray) -> None:
    start = _offset(rng, data)
    data[start:start] = rng.randbytes(rng.randint(1, 12))


def _offset(rng: Random, data: bytearray) -> int:
    """Return an offset behind the prefix, mostly behind the file meta group too."""
    start = rng.choice([132, 300, 300, 300])
    end = min(len(data), rng.choice([1000, HEADER, len(data)]))
    return rng.randrange(start, end) if start < end else len(data) - 1


OF_PARTS: tuple[Callable[[Random, list[bytes], str], None], ...] = (
    _delete, _duplicate, _swap, _insert, _edit_value, _edit_character_set, _edit_vr, _edit_length, _nest,
)  # fmt: skip
OF_BYTES: tuple[Callable[[Random, bytearray], None], ...] = (_flip, _overwrite, _cut, _lose, _gain)


def mutated(number: int, of: list[Seed]) -> bytes:
    """Return mutation ``number``: one to three kinds of damage to a seed."""
    rng = random.Random(number)
    seed = rng.choice([seed for seed in of if bool(seed.syntax) is (number % 4 > 0)])
    parts = list(seed.parts)
    inner = EXPLICIT if seed.syntax in {DEFLATED, JPEG} else seed.syntax
    bytewise = not seed.syntax or rng.random() < 0.3
    if seed.syntax and (not bytewise or rng.random() < 0.3):
        for mutate in rng.choices(OF_PARTS, k=rng.choice(TIMES)):
            mutate(rng, parts, inner)
        if rng.random() < 0.8:
            parts[1:] = _sorted(parts[1:], inner)
    data = bytearray(seed.join(parts))
    if bytewise:
        for damage in rng.choices(OF_BYTES, (6, 2, 1, 1, 1), k=rng.choice(TIMES)):
            damage(rng, data)
    return bytes(data)


@dataclass
class Tally:
    """What became of the mutations.

    Parameters
    ----------
    fall_back
        Whether pydicom reads what the scanner doubts, too; it may raise nothing but ``HeaderError``.
    """

    fall_back: bool = False
    read: int = 0
    refused_by_dcmread: int = 0
    doubts: Counter[str] = field(default_factory=Counter)
    differences: list[str] = field(default_factory=list)

    def take(self, number: int, data: bytes) -> None:
        """Read one object with both."""
        if not is_part10(data):
            self.doubts["no_preamble"] += 1
            return
        scanner = Scanner(whole(data))
        found = scanner.values()
        if found is None:
            self.doubts[str(scanner.doubt)] += 1
            if self.fall_back:
                with suppress(HeaderError):
                    parse(whole(data))
            return
        self.read += 1
        self._compare(number, data, found, ends_without_pixels=scanner.ends_without_pixels)

    def _compare(self, number: int, data: bytes, found: dict[str, str], *, ends_without_pixels: bool) -> None:
        try:
            header = parse(whole(data))
        except HeaderError as error:
            self.differences.append(f"mutation {number}: pydicom under the guard refuses it, {error}")
            return
        if header.values != found or header.undecodable:
            self._note(number, "pydicom under the guard", header.values, found)
        if ends_without_pixels and not header.ends_without_pixels:
            self.differences.append(f"mutation {number}: pydicom under the guard finds pixels, or no end")
        pieces = in_pieces(data, 1 + number % 500, 1 + number % 60)
        if pieces != found:
            self._note(number, "itself in pieces", pieces or {}, found)
        self._compare_with_dcmread(number, data, found)

    def _compare_with_dcmread(self, number: int, data: bytes, found: dict[str, str]) -> None:
        ours = comparable(found)
        try:
            expected = comparable(pydicom_values(data))
            if expected != ours:  # nested pixels end the reading before the others, and some stand behind the pixels
                expected = comparable(pydicom_values(data, stop_before_pixels=False))
        except Exception:  # noqa: BLE001  (a value that is no number, or damage behind the wanted ones)
            self.refused_by_dcmread += 1
            return
        if expected != ours:
            self._note(number, "dcmread", expected, ours)

    def _note(self, number: int, who: str, expected: dict[str, str], found: dict[str, str]) -> None:
        differ = [name for name in TAGS if expected.get(name) != found.get(name)]
        told = ", ".join(f"{name} {found.get(name)!r}, not {expected.get(name)!r}" for name in differ)
        self.differences.append(f"mutation {number}: the scanner finds other than {who}: {told or 'undecodable'}")


def in_pieces(data: bytes, first: int, step: int) -> dict[str, str] | None:
    """Return what the scanner reads if at first so many bytes are here, and with each request so many more at least."""
    file = BlockFile(len(data))
    file.add(0, data[:first])
    scanner = Scanner(file)
    while True:
        try:
            return scanner.values()
        except NeedBytes as need:
            span = need.span
        start = file.here_from(span.start)
        assert start < span.end <= len(data)
        file.add(start, data[start : max(span.end, start + step)])


def comparable(values: Mapping[str, str]) -> dict[str, str]:
    """Return texts without what sets the project's form apart from pydicom's.

    That has each of several values without padding, U+FFFD for a NUL, and the spaces before an integer string, which
    pydicom drops.
    """
    stripped = {keyword: strip(text) for keyword, text in values.items()}
    return stripped | {keyword: text.strip() for keyword, text in stripped.items() if keyword in NUMBERS}


def whole(data: bytes) -> BlockFile:
    """Return an object all of whose bytes are here."""
    file = BlockFile(len(data))
    file.add(0, data)
    return file


def fuzz(numbers: range, *, fall_back: bool = False) -> Tally:
    """Read these mutations."""
    of, tally = seeds(), Tally(fall_back)
    with quiet_pydicom():
        for number in numbers:
            tally.take(number, mutated(number, of))
    return tally


def main() -> int:
    """Print what became of the mutations; return 1 if any was read otherwise than by pydicom."""
    only = os.environ.get("ONLY")
    numbers = range(int(only), int(only) + 1) if only else range(int(os.environ.get("MUTATIONS", "100000")))
    started = time.perf_counter()
    faulthandler.dump_traceback_later(PATIENCE + len(numbers) // 20, exit=True)
    tally = fuzz(numbers, fall_back=True)
    faulthandler.cancel_dump_traceback_later()
    mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    seconds = time.perf_counter() - started
    lines = [
        f"{len(numbers)} mutations of {len(seeds())} seeds, {seconds:.0f} s, {mib:.0f} MiB at most",
        f"{tally.read:7} read by the scanner; of these {tally.refused_by_dcmread} that dcmread refuses",
        *(f"{count:7} left to pydicom: {doubt}" for doubt, count in tally.doubts.most_common()),
        f"{len(tally.differences):7} differences",
        *tally.differences[:20],
    ]
    sys.stdout.write("\n".join(lines) + "\n")
    return 1 if tally.differences else 0


if __name__ == "__main__":
    sys.exit(main())
