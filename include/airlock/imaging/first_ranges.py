"""The size of an object's first range: as set for its prefix, or else as learnt from the headers of its folder.

The files of a folder mostly come from one scanner, so their headers are about equally long. Where values of 100 KB
precede the last wanted attribute, a first range that holds them saves every object a second request. It saves requests
only: parse looks at the bytes that it would have asked for without it.
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
_FOLDERS = 4_096  # that are remembered, in 6 MB; more than begin in the arrivals that are read ahead
_STEP = 4 * KIB  # a learnt range is a multiple of it, since the texts of a series differ in length


class Sizes(NamedTuple):
    """The sizes of an object's ranges, as of ``header_plan``."""

    first_range: int
    prefetch: int = 0


class _Folder:
    """What is known of a folder: how many of its objects were begun, and how far its last headers reached."""

    __slots__ = ("begun", "learnt", "reaches")

    def __init__(self, sizes: Sizes) -> None:
        self.begun = 0
        self.reaches: deque[int] = deque(maxlen=_HEADERS)
        self.learnt = sizes


class FirstRanges:
    """The sizes of first ranges.

    Parameters
    ----------
    settings
        The ranges by prefix, which count before learnt ones, and the smallest range.
    """

    def __init__(self, settings: ParseSettings) -> None:
        self._unlearnt = Sizes(settings.first_range_kib * KIB)
        self._largest = min(LARGEST, _IN_FLIGHT // settings.in_flight)
        by_prefix = sorted(settings.first_ranges, key=lambda first: len(first.prefix), reverse=True)
        self._by_prefix = [(first.prefix, Sizes(first.kib * KIB)) for first in by_prefix]
        self._folders: dict[str, _Folder] = {}

    def find(self, key: str) -> Sizes:
        """Return the sizes of an object's ranges."""
        for prefix, sizes in self._by_prefix:
            if key.startswith(prefix):
                return sizes
        folder = self._folders.get(_folder_of(key))
        return folder.learnt if folder else self._unlearnt

    def learn(self, key: str, reach: int) -> None:
        """Remember the ``Header.reach`` of an object."""
        folder = self._folders.get(_folder_of(key))
        if folder is None:
            return
        folder.reaches.append(reach)
        if reach or folder.learnt.prefetch:
            folder.learnt = self._unlearnt._replace(prefetch=self._choose(folder.reaches))

    def _choose(self, reaches: deque[int]) -> int:
        """Return the bytes that hold all long headers up to the limit, if most headers are long; otherwise 0."""
        long = [reach for reach in reaches if reach]
        if len(reaches) < ASKED_FIRST or 2 * len(long) <= len(reaches):
            return 0
        rounded = [-(-reach // _STEP) * _STEP for reach in long]
        return max((size for size in rounded if size <= self._largest), default=0)

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
            folder = self._folders[name] = _Folder(self._unlearnt)
        folder.begun += 1
        return folder.begun <= ASKED_FIRST


def _folder_of(key: str) -> str:
    return key.rpartition("/")[0]
