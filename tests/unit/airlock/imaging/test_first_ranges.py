"""The first range of an object: the one set for its prefix, or the one that the headers of its folder have needed."""

from __future__ import annotations

import random
from itertools import count

import pytest

from airlock.imaging.first_ranges import ASKED_FIRST, LARGEST, FirstRanges, Sizes
from airlock.pipelines import ParseSettings

KIB = 1024
SMALLEST = Sizes(ParseSettings().first_range_kib * KIB)
LONG = 100_000


def learnt(*reaches: int, settings: ParseSettings | None = None) -> FirstRanges:
    """Return the ranges after headers of this reach in the folder ``in/mr``; 0 is a short header."""
    ranges = FirstRanges(settings or ParseSettings())
    ask(ranges, ["in/mr/1.dcm"])
    for reach in reaches:
        ranges.learn("in/mr/1.dcm", reach)
    return ranges


def prefetch(*reaches: int, settings: ParseSettings | None = None) -> int:
    return learnt(*reaches, settings=settings).find("in/mr/2.dcm").prefetch


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
        assert FirstRanges(self.SETTINGS).find(key) == Sizes(kib * KIB)

    def test_it_counts_before_the_headers_of_the_folder(self) -> None:
        assert learnt(*[LONG] * 20, settings=self.SETTINGS).find("in/mr/1.dcm") == Sizes(64 * KIB)


class TestByFolder:
    def test_it_holds_the_longest_header_and_hardly_more(self) -> None:
        assert LONG + 5_000 <= prefetch(LONG, LONG + 5_000, LONG - 5_000) < LONG + 5_000 + 4 * KIB

    def test_it_is_that_of_the_folder_alone(self) -> None:
        ranges = learnt(LONG, LONG)
        assert {ranges.find(key) for key in ("in/mr/deeper/2.dcm", "in/2.dcm", "in/ct/2.dcm")} == {SMALLEST}

    @pytest.mark.parametrize("reaches", [(), (LONG,), (0, LONG), (LONG, 0), (LONG, LONG, 0, 0)])
    def test_unless_most_headers_are_long_it_is_the_smallest(self, reaches: tuple[int, ...]) -> None:
        assert learnt(*reaches).find("in/mr/2.dcm") == SMALLEST

    def test_it_follows_the_folder_s_last_headers(self) -> None:
        assert prefetch(*[0] * 1_000, *[LONG] * 9) >= LONG
        assert prefetch(*[LONG] * 1_000, *[0] * 9) == 0

    def test_a_header_beyond_the_limit_is_left_to_a_second_request(self) -> None:
        assert prefetch(LARGEST, LARGEST) == LARGEST
        assert prefetch(LARGEST + 1, LARGEST + 1) == 0
        assert LONG <= prefetch(LONG, LARGEST + 1, LARGEST + 1) < LONG + 4 * KIB

    def test_the_limit_is_lower_with_many_requests_in_flight(self) -> None:
        settings = ParseSettings(in_flight=512)
        assert prefetch(LONG, LONG, 128 * KIB, settings=settings) == 128 * KIB
        assert prefetch(*[128 * KIB + 1] * 2, settings=settings) == 0

    def test_no_headers_make_it_larger_than_the_limit(self) -> None:
        noise = random.Random(1)
        ranges = learnt()
        for _ in range(2_000):
            ranges.learn("in/mr/1.dcm", int(noise.lognormvariate(11, 2)))
            assert 0 <= ranges.find("in/mr/1.dcm").prefetch <= LARGEST

    def test_only_so_many_folders_are_remembered(self) -> None:
        ranges = learnt(LONG, LONG)
        ask(ranges, [f"other/{number}/1.dcm" for number in range(4_095)])
        assert ranges.find("in/mr/1.dcm").prefetch >= LONG
        ask(ranges, ["other/one-more/1.dcm"])
        assert ranges.find("in/mr/1.dcm") == SMALLEST
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
