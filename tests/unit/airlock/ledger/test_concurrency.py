"""Real processes at once, on both databases."""

from __future__ import annotations

import multiprocessing
import os
import signal
from typing import TYPE_CHECKING, Any

import polars as pl

from airlock.ledger import Ledger, upgrade
from airlock.records import CONTRACTS
from tests.ledger_rows import count_arrivals, count_instances, read_dispositions
from tests.unit.airlock.ledger.samples import (
    NIGHTLY,
    SEEN_AT,
    STORE,
    arrivals,
    begin,
    claims,
    dispositions,
    held_after,
    ids,
    ids_of,
    uids,
)

if TYPE_CHECKING:
    from collections.abc import Callable
    from multiprocessing.synchronize import Barrier

# Each process is forked from one that has imported this module, which takes it a second, and has done nothing else.
FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload([__name__])

NAMES = [str(number) for number in range(2_000)]
PROCESSES = 3


def _begin_together(barrier: Barrier, results: Any, work: Callable[..., Any], arguments: tuple[Any, ...]) -> None:
    barrier.wait(60)
    results.put(work(*arguments))


def at_once(work: Callable[..., Any], *calls: tuple[Any, ...]) -> list[Any]:
    """Run a function in one process per call, all released at the same moment, and return their results."""
    barrier, results = FORKS.Barrier(len(calls)), FORKS.Queue()
    started = [FORKS.Process(target=_begin_together, args=(barrier, results, work, call)) for call in calls]
    for process in started:
        process.start()
    found = [results.get(timeout=90) for _ in calls]
    for process in started:
        process.join(30)
    assert [process.exitcode for process in started] == [0] * len(calls)
    return found


def _claim(url: str, run: str, names: list[str]) -> tuple[set[str], int]:
    with Ledger.open(url) as ledger:
        claim = ledger.claim(NIGHTLY, run, arrivals(*names))
        return ids(ledger.held_by(NIGHTLY, run)), claim.claimed_elsewhere


def test_processes_that_claim_one_listing_never_both_get_an_arrival(url: str) -> None:
    runs = [f"run{number}" for number in range(PROCESSES)]
    with Ledger.open(url) as ledger:
        begin(ledger, *runs)
    # Each lists in another order, and each sees something that the others do not.
    calls = [(url, run, [*NAMES[:: (-1) ** place], f"only-{run}"]) for place, run in enumerate(runs)]
    held = at_once(_claim, *calls)
    every = [arrival for arrivals_held, _ in held for arrival in arrivals_held]
    assert len(every) == len(set(every)) == len(NAMES) + PROCESSES
    assert all(len(own) + elsewhere == len(NAMES) + 1 for own, elsewhere in held)


def _claim_instances(url: str, run: str, name: str) -> int:
    with Ledger.open(url) as ledger:
        return ledger.claim_instances(STORE, NIGHTLY, run, claims(*((name, f"1.{n}") for n in range(500)))).height


def test_processes_that_claim_the_same_instances_share_them_out_without_one_to_spare(url: str) -> None:
    runs = [f"run{number}" for number in range(PROCESSES)]
    with Ledger.open(url) as ledger:
        begin(ledger, *runs)
        for run in runs:
            ledger.claim(NIGHTLY, run, arrivals(run))
        refused = at_once(_claim_instances, *((url, run, run) for run in runs))
        assert sorted(refused) == [0, 500, 500]
        assert count_instances(ledger, STORE) == {"claimed": 500}


def _claim_resources(url: str, run: str) -> dict[str, int]:
    with Ledger.open(url) as ledger:
        wanted = pl.select(resource_id=pl.int_range(500).cast(pl.String)).select(
            "resource_id",
            resource_type=pl.lit("Patient"),
            arrival_id=pl.lit(ids(arrivals(run)).pop()),
            content_digest=pl.lit(run),
            clock=pl.lit(None, pl.String),
            patient=pl.lit(None, pl.String),
        )
        taken = ledger.claim_resources(STORE, NIGHTLY, run, wanted)
        return dict(taken["claimed_by"].value_counts().iter_rows())


def test_of_processes_that_claim_the_same_resources_one_gets_them_all(url: str) -> None:
    runs = [f"run{number}" for number in range(PROCESSES)]
    with Ledger.open(url) as ledger:
        begin(ledger, *runs)
        for run in runs:
            ledger.claim(NIGHTLY, run, arrivals(run))
        told = at_once(_claim_resources, *((url, run) for run in runs))
        winner = next(run for run in runs if {run: 500} in told)
        assert sorted(told, key=len) == [{}, {winner: 500}, {winner: 500}]


def _revise(url: str, run: str) -> int:
    with Ledger.open(url) as ledger:
        first = pl.DataFrame([("1.study", "key", 0, "", "")], schema=CONTRACTS, orient="row")

        def next_one(known: pl.DataFrame) -> pl.DataFrame:
            return (known if known.height else first).with_columns(pl.col("revision") + 1)

        return int(ledger.revise_contracts(STORE, run, uids("1.study"), next_one)["revision"][0])


def test_processes_that_revise_one_contract_build_on_each_other(url: str) -> None:
    runs = [f"run{number}" for number in range(PROCESSES)]
    with Ledger.open(url) as ledger:
        begin(ledger, *runs)
    assert sorted(at_once(_revise, *((url, run) for run in runs))) == list(range(1, PROCESSES + 1))


def _upgrade(url: str) -> bool:
    upgrade(url)
    Ledger.open(url).dispose()
    return True


def test_processes_that_upgrade_at_once_all_end_with_a_ledger(empty_url: str) -> None:
    assert all(at_once(_upgrade, *[(empty_url,)] * PROCESSES))


def _settle(url: str, run: str, names: list[str]) -> int:
    with Ledger.open(url) as ledger:
        for name in names:
            ledger.settle(NIGHTLY, run, dispositions(name))
        return read_dispositions(ledger, NIGHTLY, run).height


def test_writers_wait_for_each_other_rather_than_fail(url: str) -> None:
    shares = {run: [f"{run}-{number}" for number in range(20)] for run in ("run0", "run1", "run2")}
    with Ledger.open(url) as ledger:
        begin(ledger, *shares)
        for run, names in shares.items():
            ledger.claim(NIGHTLY, run, arrivals(*names))
        assert at_once(_settle, *((url, run, names) for run, names in shares.items())) == [20, 20, 20]
        assert count_arrivals(ledger, NIGHTLY) == {"released": 60}


def _die_in_the_middle(url: str, run: str) -> None:
    """Claim, and be killed before the transaction is committed."""
    ledger = Ledger.open(url)
    with ledger._writing("arrivals of nightly") as connection:
        from airlock.ledger.frames import insert_missing, stage
        from airlock.ledger.tables import arrivals as table
        from airlock.records import ARRIVALS

        rows = stage(connection, arrivals(*NAMES[:10]), ARRIVALS, ["arrival_id"])
        constants = {"pipeline": NIGHTLY, "run_key": run, "claimed_at": SEEN_AT}
        assert insert_missing(connection, table, rows, ["arrival_id", "pipeline"], site="", **constants) == 10
        os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_killed_in_a_transaction_leaves_no_trace_and_no_lock(url: str) -> None:
    with Ledger.open(url) as ledger:
        begin(ledger, "dies", "lives")
        process = FORKS.Process(target=_die_in_the_middle, args=(url, "dies"))
        process.start()
        process.join(60)
        assert process.exitcode == -signal.SIGKILL
        assert ids(held_after(ledger, "lives", arrivals(*NAMES[:10]))) == ids_of(NAMES[:10])
        assert ledger.held_by(NIGHTLY, "dies").is_empty()
