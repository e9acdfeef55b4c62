"""The versions that this package works with, checked at import where no installer has compared them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version


@dataclass(frozen=True)
class Wanted:
    """
    A distribution and the versions of it that are known to work.

    Attributes
    ----------
    distribution : str
        Its name in the package index.
    lowest : tuple of int
        The first version that works.
    below : tuple of int
        The first version that is not known to work.
    reason : str
        What fails with older ones, as a sentence.
    """

    distribution: str
    lowest: tuple[int, ...]
    below: tuple[int, ...]
    reason: str


WANTED = (
    Wanted(
        "apache-airflow-core",
        (3, 3, 1),
        (3, 4),
        "Older ones have no task state store, in which a task keeps its job over retries.",
    ),
    Wanted(
        "apache-airflow-providers-amazon",
        (9, 39),
        (10,),
        "With older ones no task can wait for a job in the triggerer.",
    ),
)


def require_versions(wanted: tuple[Wanted, ...] = WANTED) -> None:
    """
    Refuse versions with which tasks would fail later, hours into a run.

    Parameters
    ----------
    wanted : tuple of Wanted
        What is compared with what is installed.

    Raises
    ------
    ImportError
        With the distribution, the version that is installed, and the command that installs another.
    """
    for item in wanted:
        try:
            found = version(item.distribution)
        except PackageNotFoundError:
            found = "none"
        if not item.lowest <= _numbers(found) < item.below:
            name, lowest, below = item.distribution, _dotted(item.lowest), _dotted(item.below)
            raise ImportError(
                f"healthaws works with {name} from {lowest}, below {below}; {name} {found} is installed. {item.reason} "
                f"Install '{name}>={lowest},<{below}'."
            )


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"\d+", text)[:3])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))
