"""The report of a search: the findings as timelines, the figures, and the points at which runs were killed."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from tests.explore.explorer import describe
from tests.explore.sites import find_unreached

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from tests.explore.explorer import Finding, Search

SHOWN = 20  # points that were never reached


def find_findings(found: list[Search]) -> dict[str, Finding]:
    """Return the findings of several processes, one of each kind."""
    return {name: finding for search in found for name, finding in search.findings.items()}


def report(seed: int, found: list[Search]) -> Iterator[str]:
    """Yield the lines of the report on the searches of several processes."""
    findings = find_findings(found)
    for finding in findings.values():
        yield f"\nhistory {finding.number} of seed {seed} breaks"
        yield from describe(finding)
    histories = sum(search.histories for search in found)
    rate = sum(search.histories / search.seconds for search in found if search.seconds)
    kinds = _add(search.kinds for search in found)
    yield f"\n{histories} histories ({', '.join(f'{number} {kind}' for kind, number in kinds.most_common())})"
    cpu = sum(search.cpu_seconds for search in found)
    yield f"{rate:.1f} histories a second in {len(found)} processes, {histories / (cpu or 1):.1f} per second of CPU"
    yield from _points(found)
    yield f"{len(findings)} kinds of violations"
    seen = _add(search.seen for search in found)
    yield from (f"  in {number} histories: invariant {name}" for name, number in seen.most_common())


def _points(found: list[Search]) -> Iterator[str]:
    """Yield how many of the points at which a run can be killed were reached so, and which never."""
    reached = _names(search.coverage.reached for search in found)
    killed = _names(search.coverage.killed for search in found)
    waited = _names(search.coverage.waited for search in found)
    once, twice = (sum(killed[name] >= times for name in reached) for times in (1, 2))
    yield f"{len(reached)} points exist; a run was killed at {once} of them, at {twice} twice or more,"
    yield f"  and waited at {sum(name in waited for name in reached)} while others went on"
    never = sorted(name for name in reached if killed[name] < 2)
    unreached = find_unreached({name.rpartition(" ")[2] for name in reached})
    for title, names in (("killed less than twice", never), ("calls of the ledger that no history reached", unreached)):
        if names:
            more = [f"  and {len(names) - SHOWN} more"] if len(names) > SHOWN else []
            yield from (f"{title}: {len(names)}", *(f"  {name}" for name in names[:SHOWN]), *more)


def _names(counters: Iterable[Counter[Any]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for counter in counters:
        for site, number in counter.items():
            found[str(site)] += number
    return found


def _add(counters: Iterable[Counter[str]]) -> Counter[str]:
    found: Counter[str] = Counter()
    for counter in counters:
        found.update(counter)
    return found
