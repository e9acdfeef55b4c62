"""A cut lies behind what was listed and before the end, near the middle where keys grow evenly."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from airlock.storage.key_cuts import Alphabet, Stretch

FAR = 10**9  # pages
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)


def alphabet(*keys: str, prefix: str = "in/") -> Alphabet:
    made = Alphabet(prefix)
    made.learn(keys)
    return made


@settings(max_examples=100)
@given(st.lists(TEXT, min_size=2, max_size=6, unique=True), st.none() | TEXT, st.integers(1, 99), st.integers(1, 500))
def test_it_lies_between_what_was_listed_and_the_end(
    names: list[str], end: str | None, pages: int, most_pages: int
) -> None:
    keys = sorted(f"in/{name}" for name in names)
    upto = None if end is None else f"in/{end}"
    if upto is not None and upto <= keys[-1]:
        upto = None
    cut = alphabet(*keys).find_cut(Stretch(keys[0], keys[-1], pages, upto), most_pages)
    assert cut is None or (keys[-1] < cut.key and (upto is None or cut.key < upto) and cut.key.startswith("in/"))


@pytest.mark.parametrize(("upto", "least", "most"), [("in/008000", 3000, 6000), ("in/100000", 20_000, 80_000)])
def test_numbers_are_cut_near_their_middle(upto: str, least: int, most: int) -> None:
    keys = [f"in/{n:06}" for n in range(0, 1001, 7)]
    cut = alphabet(*keys).find_cut(Stretch(keys[0], keys[-1], 10, upto), FAR)
    assert cut is not None
    assert f"in/{least:06}" < cut.key < f"in/{most:06}"


def test_what_has_no_end_is_cut_as_far_away_as_may_be() -> None:
    keys = [f"in/{n:06}" for n in range(0, 1001, 7)]
    cut = alphabet(*keys).find_cut(Stretch(keys[0], keys[-1], 10, None), 40)
    assert cut is not None
    assert "in/003000" < cut.key < "in/006000"
    assert cut.pages > 10_000


def test_the_rest_is_estimated_by_how_fast_keys_have_grown() -> None:
    keys = [f"in/{n:04x}" for n in range(0, 4096, 5)]
    cut = alphabet(*keys).find_cut(Stretch(keys[0], keys[-1], 16, "in/ffff"), FAR)
    assert cut is not None
    assert 200 < cut.pages < 400  # 240 by the values of the keys; the alphabet has other characters too


def test_nothing_is_said_of_what_has_not_grown_or_has_no_room() -> None:
    known = alphabet("in/aaa", "in/aab")
    assert known.find_cut(Stretch("in/aaa", "in/aaa", 5, None), FAR) is None
    assert known.find_cut(Stretch("in/aaa", "in/aab", 5, "in/aab!"), FAR) is None
    assert alphabet().find_cut(Stretch("in/aaa", "in/aab", 5, None), FAR) is None


def test_a_key_that_s3_would_refuse_is_no_cut() -> None:
    long = "in/" + "ä" * 508
    assert alphabet(f"{long}a", f"{long}b").find_cut(Stretch(f"{long}a", f"{long}b", 5, None), 1) is None
    short = long[:400]
    assert alphabet(f"{short}a", f"{short}b").find_cut(Stretch(f"{short}a", f"{short}b", 5, None), 1) is not None
