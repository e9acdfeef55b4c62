"""The first range of an object: the one set for its prefix, or the one that the headers of its folder have needed."""

from __future__ import annotations

import random
from itertools import count

import pytest

from airlock.imaging.first_ranges import ASKED_FIRST, LARGEST, FirstRanges
from airlock.pipelines import ParseSettings

KIB = 1024
SMALLEST = ParseSettings().first_range_kib * KIB
LONG = 100_000


def learnt(*extents: int, settings: ParseSettings | None = None) -> FirstRanges:
    """Return the ranges after headers of these extents in the folder ``in/mr``."""
    ranges = FirstRanges(settings or ParseSettings())
    ask(ranges, ["in/mr/1.dcm"])
    for extent in extents:
        ranges.learn("in/mr/1.dcm", extent)
    return ranges


def ask(ranges: FirstRanges, keys: list[str], ahead: int = 100) -> list[str]:
    return list(ranges.ask_first(keys, str, ahead))


class TestByPrefix:
    SETTINGS = ParseSettings.model_validate(
        {"first_range_kib": 8, "first_ranges": [{"prefix": "in/", "kib": 32}, {"prefix": "in/mr/", "kib": 64}]}
    )

    @pytest.mark.parametrize(
        ("key", "kib"),
        [("in/mr/1.dcm", 64), ("in/ct/1.dcm", 32), ("in/mr.dcm", 32), ("b/in/mr/1.dcm", 8), ("IN/1.dcm", 8)],
    )
    def test_the_longest_prefix_counts(self, key: str, kib: int) -> None:
        assert FirstRanges(self.SETTINGS).find(key).first == kib * KIB

    def test_it_counts_before_the_headers_of_the_folder(self) -> None:
        assert learnt(*[LONG] * 20, settings=self.SETTINGS).find("in/mr/1.dcm").first == 64 * KIB


class TestByFolder:
    def test_it_holds_the_longest_header_and_hardly_more(self) -> None:
        size = learnt(LONG, LONG + 5_000, LONG - 5_000).find("in/mr/2.dcm").first
        assert LONG + 5_000 <= size < LONG + 5_000 + 4 * KIB

    def test_the_second_range_is_as_small_as_ever(self) -> None:
        assert learnt(LONG, LONG).find("in/mr/2.dcm").second == SMALLEST
        assert learnt(LONG, LONG, settings=TestByPrefix.SETTINGS).find("in/mr/2.dcm").second == 64 * KIB

    def test_headers_that_fill_it_do_not_make_it_grow(self) -> None:
        """Small elements may follow the header, and more of them are read if a range has more of them."""
        ranges = learnt(LONG, LONG)
        size = ranges.find("in/mr/2.dcm").first
        for _ in range(100):
            ranges.learn("in/mr/2.dcm", size)
        assert ranges.find("in/mr/2.dcm").first == size

    def test_it_is_that_of_the_folder_alone(self) -> None:
        ranges = learnt(LONG, LONG)
        assert {ranges.find(key).first for key in ("in/mr/deeper/2.dcm", "in/2.dcm", "in/ct/2.dcm")} == {SMALLEST}

    @pytest.mark.parametrize("extents", [(), (LONG,), (3_000, LONG), (LONG, 3_000), (LONG, LONG, 3_000, 3_000)])
    def test_unless_most_headers_are_long_it_is_the_smallest(self, extents: tuple[int, ...]) -> None:
        assert learnt(*extents).find("in/mr/2.dcm").first == SMALLEST

    def test_it_follows_the_folder_s_last_headers(self) -> None:
        assert learnt(*[3_000] * 1_000, *[LONG] * 9).find("in/mr/2.dcm").first > LONG
        assert learnt(*[LONG] * 1_000, *[3_000] * 9).find("in/mr/2.dcm").first == SMALLEST

    def test_a_header_beyond_the_limit_is_left_to_a_second_request(self) -> None:
        assert learnt(LARGEST, LARGEST).find("in/mr/2.dcm").first == LARGEST
        assert learnt(LARGEST + 1, LARGEST + 1).find("in/mr/2.dcm").first == SMALLEST
        assert LONG <= learnt(LONG, LARGEST + 1, LARGEST + 1).find("in/mr/2.dcm").first < LONG + 4 * KIB

    def test_the_limit_is_lower_with_many_requests_in_flight(self) -> None:
        settings = ParseSettings(in_flight=512)
        assert learnt(LONG, LONG, 128 * KIB, settings=settings).find("in/mr/2.dcm").first == 128 * KIB
        assert learnt(*[128 * KIB + 1] * 2, settings=settings).find("in/mr/2.dcm").first == SMALLEST

    def test_no_headers_make_it_larger_than_the_limit(self) -> None:
        noise = random.Random(1)
        ranges = learnt()
        for _ in range(2_000):
            ranges.learn("in/mr/1.dcm", int(noise.lognormvariate(11, 2)))
            assert SMALLEST <= ranges.find("in/mr/1.dcm").first <= LARGEST

    def test_it_is_never_smaller_than_the_setting(self) -> None:
        settings = ParseSettings(first_range_kib=512)
        assert learnt(*[LARGEST] * 5, settings=settings).find("in/mr/2.dcm").first == 512 * KIB

    def test_only_so_many_folders_are_remembered(self) -> None:
        ranges = learnt(LONG, LONG)
        ask(ranges, [f"other/{number}/1.dcm" for number in range(4_095)])
        assert ranges.find("in/mr/1.dcm").first > LONG
        ask(ranges, ["other/one-more/1.dcm"])
        assert ranges.find("in/mr/1.dcm").first == SMALLEST
        ranges.learn("in/mr/1.dcm", LONG)  # the answer of an object whose folder is forgotten


class TestOrder:
    KEYS = tuple(f"in/{folder:02}/{number:03}.dcm" for folder in range(30) for number in range(40))

    def test_every_row_comes_once(self) -> None:
        shuffled = random.Random(2).sample(self.KEYS, len(self.KEYS))
        assert sorted(ask(FirstRanges(ParseSettings()), shuffled)) == list(self.KEYS)

    def test_a_folder_is_begun_so_many_rows_before_its_turn(self) -> None:
        order = ask(FirstRanges(ParseSettings()), list(self.KEYS), ahead=100)
        for folder in range(3, 30):  # the first ones have less than 100 rows before them
            turns = [order.index(f"in/{folder:02}/{number:03}.dcm") for number in range(40)]
            begun, rest = turns[:ASKED_FIRST], turns[ASKED_FIRST:]
            assert rest[0] - begun[-1] >= 100
            assert rest == sorted(rest)

    def test_no_more_rows_are_read_ahead(self) -> None:
        read = count()
        rows = (f"in/1/{number}" for number in read)
        asked = FirstRanges(ParseSettings()).ask_first(rows, str, 100)
        for _ in range(500):
            next(asked)
        assert next(read) <= 500 + 100 + 1
