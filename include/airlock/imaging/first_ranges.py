"""The size of an object's first range: as set for its prefix, or else as learnt from the headers of its folder.

The files of a folder mostly come from one scanner, so their headers are about equally long. Where values of 100 KB
precede the last wanted attribute, a first range that holds them saves every object a second request.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from airlock.dicom.header import KIB, MIB

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from airlock.pipelines import ParseSettings

    Row = tuple[Any, ...]

LARGEST = 256 * KIB  # of a learnt range; a second request takes less time than more bytes
_IN_FLIGHT = 64 * MIB  # of learnt ranges at most; a task takes two to three times the memory
ASKED_FIRST = 2  # objects of a folder: after one alone, a folder of all kinds would follow its first kind
_HEADERS = 16  # of a folder that are remembered
_FOLDERS = 4_096  # that are remembered, in 4 MB; more than begin in the arrivals that are read ahead
_STEP = 4 * KIB  # a learnt range is a multiple of it, since the texts of a series differ in length


class Sizes(NamedTuple):
    """The bytes of an object's first two ranges."""

    first: int
    second: int


class _Folder:
    """What is known of a folder: how many of its objects were begun, and its last headers."""

    __slots__ = ("begun", "extents", "learnt")

    def __init__(self) -> None:
        self.begun = 0
        self.extents: deque[int] = deque(maxlen=_HEADERS)
        self.learnt = 0  # bytes of a first range; 0 if the smallest one does


class FirstRanges:
    """The sizes of first ranges.

    Parameters
    ----------
    settings
        The ranges by prefix, which count before learnt ones, and the smallest range.
    """

    def __init__(self, settings: ParseSettings) -> None:
        self._smallest = settings.first_range_kib * KIB
        self._largest = min(LARGEST, _IN_FLIGHT // settings.in_flight)
        by_prefix = sorted(settings.first_ranges, key=lambda first: len(first.prefix), reverse=True)
        self._by_prefix = [(first.prefix, first.kib * KIB) for first in by_prefix]
        self._folders: dict[str, _Folder] = {}

    def find(self, key: str) -> Sizes:
        """Return the sizes of an object's first two ranges; a learnt one says nothing of the second."""
        for prefix, size in self._by_prefix:
            if key.startswith(prefix):
                return Sizes(size, size)
        folder = self._folders.get(_folder_of(key))
        return Sizes(folder.learnt if folder and folder.learnt else self._smallest, self._smallest)

    def learn(self, key: str, extent: int) -> None:
        """Remember the ``Header.extent`` of an object."""
        folder = self._folders.get(_folder_of(key))
        if folder is None:
            return
        folder.extents.append(extent)
        if folder.learnt or extent > self._smallest:
            folder.learnt = self._choose(folder.extents)

    def _choose(self, extents: deque[int]) -> int:
        """Return the range that holds each long header up to the limit, if most headers are long; otherwise 0."""
        long = [extent for extent in extents if extent > self._smallest]
        if len(extents) < ASKED_FIRST or 2 * len(long) <= len(extents):
            return 0
        ranges = [-(-extent // _STEP) * _STEP for extent in long]
        return max((size for size in ranges if size <= self._largest), default=0)

    def ask_first(self, rows: Iterable[Row], key_of: Callable[[Row], str], ahead: int) -> Iterator[Row]:
        """Yield rows of arrivals in their order, but the first ones of each folder earlier.

        Parameters
        ----------
        rows
            Rows of arrivals.
        key_of
            Returns the key of a row.
        ahead
            The number of rows that are read ahead.
        """
        waiting: deque[Row] = deque()
        for row in rows:
            if self._begins_folder(_folder_of(key_of(row))):
                yield row
                continue
            waiting.append(row)
            if len(waiting) > ahead:
                yield waiting.popleft()
        yield from waiting

    def _begins_folder(self, name: str) -> bool:
        """Count an object of a folder, and return whether it is one of the first ones."""
        folder = self._folders.get(name)
        if folder is None:
            if len(self._folders) == _FOLDERS:
                del self._folders[next(iter(self._folders))]
            folder = self._folders[name] = _Folder()
        folder.begun += 1
        return folder.begun <= ASKED_FIRST


def _folder_of(key: str) -> str:
    return key.rpartition("/")[0]
