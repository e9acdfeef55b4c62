"""Cuts of a range of keys of which S3 has listed a part: a key behind which about half of the rest lies.

Keys are read as numbers. The digits are the characters that the listed keys have had, so that a cut lies among keys of
the same form: numbers, dates, hashes, UIDs. How fast the numbers have grown from page to page says how far it is to a
key; it is a guess, and a wrong one costs a request, never an object.
"""

from __future__ import annotations

from bisect import bisect_right
from itertools import takewhile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

_DIGITS = 16  # behind the characters that two keys share
_LONGEST = 1024  # bytes of a key, as S3 takes it


class Cut(NamedTuple):
    """A place to cut a range."""

    key: str  # the last key of the first part, whether or not there is such an object
    pages: int  # that are left of the whole range, about


class Stretch(NamedTuple):
    """What S3 has listed of a range, and where the range ends."""

    first: str  # a listed key
    last: str  # the last listed key
    pages: int  # listed between these two
    upto: str | None  # the last key of the range; None if only the prefix bounds it


class Alphabet:
    """The characters of the keys below a prefix, in S3's order.

    Parameters
    ----------
    prefix
        What all keys begin with.
    """

    def __init__(self, prefix: str) -> None:
        self._prefix = prefix
        self._characters: list[str] = []

    def learn(self, keys: Iterable[str]) -> None:
        """Note the characters of some keys."""
        found: set[str] = set().union(*keys)
        if not found.issubset(self._characters):
            self._characters = sorted(found.union(self._characters))

    def find_cut(self, stretch: Stretch, most_pages: int) -> Cut | None:
        """Return where to cut the rest of a range; None if nothing can be said.

        Parameters
        ----------
        stretch
            The range.
        most_pages
            The cut lies at most so many pages behind the last listed key.
        """
        first, last, pages, upto = stretch
        listed = _count_shared(first, last)
        shared = min(listed, _count_shared(last, upto or self._prefix))
        digits = listed - shared + _DIGITS
        begin, here = (self._to_number(key[shared:], digits) for key in (first, last))
        end = self._base**digits if upto is None else self._to_number(upto[shared:], digits)
        if here <= begin or end <= here:
            return None
        step = min((end - here) // 2, (here - begin) * most_pages // pages)
        key = last[:shared] + self._to_text(here + step, digits)
        if key <= last or (upto is not None and upto <= key) or len(key.encode()) > _LONGEST:
            return None
        return Cut(key, (end - here) * pages // (here - begin))

    @property
    def _base(self) -> int:
        return len(self._characters) + 1  # the lowest digit is the end of a key

    def _to_number(self, text: str, digits: int) -> int:
        """Return the number of the first characters of a text; a higher text has a higher number, or the same."""
        number = 0
        for position in range(digits):
            digit = bisect_right(self._characters, text[position]) if position < len(text) else 0
            number = number * self._base + digit
        return number

    def _to_text(self, number: int, digits: int) -> str:
        found: list[int] = []
        for _ in range(digits):
            number, digit = divmod(number, self._base)
            found.append(digit)
        return "".join(self._characters[digit - 1] for digit in takewhile(bool, reversed(found)))


def _count_shared(one: str, other: str) -> int:
    """Return the number of characters with which both texts begin."""
    pairs = enumerate(zip(one, other, strict=False))
    return next((number for number, (a, b) in pairs if a != b), min(len(one), len(other)))
