"""The plans that databases make: they find rows by their indexes, however large the listing is.

The ledger of a test is small, and PostgreSQL reads a small table as a whole wherever it may.
"""

from __future__ import annotations

import re
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
from sqlalchemy import Engine, create_engine, event

from airlock.ledger import Claim, Ledger, upgrade
from airlock.ledger.arrivals import scope
from airlock.ledger.frames import _stream_rows
from airlock.ledger.instances import SCOPE
from airlock.records import study_key
from tests.unit.airlock.ledger import samples
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from sqlalchemy import Connection

LARGE = ("arrivals", "words", "verdicts")
NAMES = [str(number) for number in range(3_000)]
WHOLE_GATES = re.compile(r"Seq Scan on gates\b|SCAN gates(?! USING INDEX ix_gates_held)")


@contextmanager
def explained(*, with_rows: bool = False) -> Iterator[list[str]]:
    """Collect the plans of all statements within the block; with the rows that they visit, those of queries only."""
    plans: list[str] = []

    def explain(connection: Connection, cursor: Any, statement: str, parameters: Any, *more: Any) -> None:
        is_of_many_rows = more[-1]
        explains = ("SELECT",) if with_rows else ("SELECT", "INSERT", "UPDATE", "DELETE", "WITH")
        if statement.startswith(explains) and not is_of_many_rows:
            question = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
            question += " ANALYZE" * with_rows
            with closing(cursor.connection.cursor()) as own:
                own.execute(f"{question} {statement}", parameters)
                plans.append("\n".join(row[-1] for row in own))

    event.listen(Engine, "before_cursor_execute", explain)
    try:
        yield plans
    finally:
        event.remove(Engine, "before_cursor_execute", explain)


def count_visits(plans: list[str]) -> int:
    """Return how many rows all nodes of some plans have returned, in all loops."""
    return sum(
        int(rows) * int(loops) for rows, loops in re.findall(r"actual time=\S+ rows=(\d+) loops=(\d+)", "".join(plans))
    )


def analyze(url: str) -> None:
    """Give PostgreSQL statistics of the ledger."""
    engine = create_engine(url, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.exec_driver_sql("VACUUM (ANALYZE)")
    engine.dispose()


@pytest.fixture
def filled(postgres_ledger: str) -> Iterator[Ledger]:
    """A ledger with settled arrivals, of which PostgreSQL has statistics."""
    with Ledger.open(postgres_ledger) as ledger:
        samples.begin(ledger, "a", "b", "c")
        ledger.claim(NIGHTLY, "a", samples.arrivals(*NAMES))
        ledger.settle(NIGHTLY, "a", samples.dispositions(*NAMES))
        ledger.close_run("a", "audited", {})
        ledger.claim(NIGHTLY, "c", samples.arrivals("underway"))
        analyze(postgres_ledger)
        yield ledger


def list_scans(plans: list[str]) -> list[str]:
    """Return the plans that read all rows of a large table: one by one, or all of an index."""
    return [plan for plan in plans if any(map(reads_whole_table, split_nodes(plan)))]


def split_nodes(plan: str) -> list[str]:
    """Return the nodes of a plan, each with its conditions."""
    return re.split(r"\n(?=\s*->)", plan)


def reads_whole_table(node: str) -> bool:
    name, *conditions = node.splitlines()
    if not re.search(rf" (?:on|using \w+ on) (?:{'|'.join(LARGE)})\b", name):
        return False
    return "Seq Scan" in name or ("Index" in name and not any(map(selects_rows, conditions)))


def selects_rows(condition: str) -> bool:
    """Return whether a condition on an index is about more than the pipeline, which most arrivals may share."""
    return "Index Cond" in condition and re.sub(r"\w*\.?pipeline = [^)]+", "", condition).count("=") > 0


@pytest.mark.parametrize(
    ("plan", "whole"),
    [
        ("Seq Scan on arrivals  (cost=1)", True),
        ("Merge Join  (cost=1)\n  ->  Index Only Scan using pk_arrivals on arrivals arrivals_1  (cost=1)", True),
        ("Nested Loop\n  ->  Index Only Scan using pk_arrivals on arrivals\n        Index Cond: (a = b)", False),
        ("Index Only Scan using pk_arrivals on arrivals\n  Index Cond: (pipeline = 'nightly'::text)", True),
        ("Index Only Scan using pk_arrivals on arrivals\n  Index Cond: ((a = b) AND (pipeline = 'x'::text))", False),
        ("Nested Loop\n  ->  Seq Scan on staged_1  (cost=1)", False),
        ("Insert on arrivals  (cost=1)\n  ->  Seq Scan on staged_1", False),
    ],
)
def test_a_scan_of_a_whole_table_is_found_in_a_plan(plan: str, whole: bool) -> None:
    assert list_scans([plan]) == [plan] * whole


def test_a_claim_reads_no_arrival_that_it_does_not_list(filled: Ledger) -> None:
    with explained() as plans:
        claim = filled.claim(NIGHTLY, "b", samples.arrivals(*NAMES, "underway", "new"))
    assert claim == Claim(settled=len(NAMES), claimed_elsewhere=1)
    assert any("arrivals" in plan for plan in plans)
    assert list_scans(plans) == []


def test_nor_does_a_claim_of_new_objects_alone(filled: Ledger) -> None:
    with explained() as plans:
        filled.claim(NIGHTLY, "b", samples.arrivals(*(f"new-{name}" for name in NAMES)))
    assert list_scans(plans) == []


def test_nor_does_a_plan(filled: Ledger) -> None:
    with explained() as plans, filled.find_unclaimed(NIGHTLY, samples.arrivals(*NAMES, "underway", "new")) as found:
        assert found.arrivals == 1
    assert list_scans(plans) == []


def test_nor_do_the_verdicts_and_words_of_a_small_run(filled: Ledger) -> None:
    names = NAMES[:20]
    filled.claim(NIGHTLY, "b", samples.arrivals(*(f"new-{name}" for name in names)))
    with explained() as plans:
        with filled.at_once(SCOPE, scope(NIGHTLY)) as at_once:
            staged = at_once.stage_verdicts(samples.verdicts(*((f"new-{name}", "1.study") for name in names)))
            at_once.claim_instances(STORE, NIGHTLY, "b", staged)
            at_once.record_verdicts(STORE, NIGHTLY, "b", staged)
        filled.settle(NIGHTLY, "b", samples.dispositions(*(f"new-{name}" for name in names)))
    assert list_scans(plans) == []


def test_nor_do_words_about_replaced_files_and_their_new_contents(
    filled: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airlock.ledger.frames.fetch_frames", _stream_rows)
    versions = [pl.concat([samples.content(f"replaced {name}", number) for name in NAMES[:5]]) for number in (1, 2)]
    samples.begin(filled, "d")
    for run, rows, study in zip("bd", versions, ("1.study", None), strict=True):
        filled.claim(NIGHTLY, run, rows)
        said = samples.verdicts(*((name, "1.study") for name in rows["key"]), verdict="quarantine")
        named = {"study_instance_uid": pl.lit(study, pl.String), "sop_instance_uid": pl.lit(None, pl.String)}
        filled.record_verdicts(STORE, NIGHTLY, run, said.with_columns(rows["arrival_id"], **named))
    with explained() as plans:
        for run, rows, study in zip("bd", versions, ("1.study", None), strict=True):
            own = samples.dispositions(*rows["key"], word="quarantined", study_uid=study)
            filled.settle(NIGHTLY, run, own.with_columns(rows["arrival_id"], sop_instance_uid=pl.lit(None, pl.String)))
            assert filled.find_replaced(NIGHTLY, rows["arrival_id"]).is_empty()
    assert any("Update on successors" in plan for plan in plans)
    assert list_scans(plans) == []


def test_studies_that_waves_share_are_counted_without_comparing_each_file_with_each(postgres_ledger: str) -> None:
    files = {"a": [(f"a{n}", f"2.{n % 4}") for n in range(8_000)], "b": [("b", "2.0")]}
    with Ledger.open(postgres_ledger) as ledger:
        samples.begin(ledger, *files)
        for run, pairs in files.items():
            ledger.claim(NIGHTLY, run, samples.arrivals(*(name for name, _ in pairs)))
            ledger.record_verdicts(STORE, NIGHTLY, run, samples.verdicts(*pairs))
        with explained(with_rows=True) as plans:
            assert ledger.count_shared_studies(NIGHTLY, "a", {"b"}) == 1
    assert 0 < count_visits(plans) < 10 * 8_000  # PostgreSQL knows nothing of the tables


def test_nor_does_a_look_at_what_was_taken_under_some_keys(filled: Ledger) -> None:
    with explained() as plans:
        assert filled.find_predecessors(NIGHTLY, "archive", samples.arrivals(*NAMES[:20])["key"], "c", []).height == 20
    assert list_scans(plans) == []


def test_a_pipeline_without_statistics_is_not_taken_for_one_row_when_keys_are_looked_up(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL would read the arrivals of the pipeline, and all its words again for each of them."""
    upgrade(postgres_url)
    monkeypatch.setattr("airlock.ledger.frames.fetch_frames", _stream_rows)
    with Ledger.open(postgres_url) as ledger, explained() as plans:
        samples.begin(ledger, "a")
        ledger.claim(NIGHTLY, "a", samples.arrivals(*NAMES))
        ledger.find_predecessors(NIGHTLY, "archive", samples.arrivals(*NAMES[:20])["key"], "a", [])
    assert [plan for plan in plans if re.search(r"Seq Scan on arrivals.*\n *Filter: .*pipeline", plan)] == []


@pytest.fixture
def gated(url: str) -> Iterator[Ledger]:
    """A ledger in which a run has released nearly all of many studies, and holds five, of one file each."""
    studies = pl.Series("subject", [f"2.{name}" for name in NAMES])
    held = studies.head(5).to_list()
    words = pl.when(pl.col("study_instance_uid").is_in(held)).then(pl.lit("held")).otherwise(pl.lit("released"))
    with Ledger.open(url) as ledger:
        samples.begin(ledger, "a")
        ledger.claim(NIGHTLY, "a", samples.arrivals(*NAMES))
        own = samples.dispositions(*NAMES).with_columns(study_instance_uid=studies)
        ledger.settle(NIGHTLY, "a", own.with_columns(disposition=words))
        decided = studies.to_frame().with_columns(
            subject_key=pl.col("subject").map_elements(study_key, return_dtype=pl.String),
            gate=pl.when(pl.col("subject").is_in(held)).then(pl.lit("hold")).otherwise(pl.lit("release")),
            reason=pl.when(pl.col("subject").is_in(held)).then(pl.lit("study_held")),
        )
        ledger.record_gates(STORE, "a", decided)
        if url.startswith("postgresql"):
            analyze(url)
        yield ledger


def test_what_is_held_is_found_by_the_index_of_holds(gated: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("airlock.ledger.frames.fetch_frames", _stream_rows)  # by statements that can be explained
    with explained() as plans:
        held = gated.held()
        counted = gated.unreleased(held)
    assert (held.height, counted.height) == (5, 5)
    assert any("ix_gates_held" in plan for plan in plans)
    assert [plan for plan in plans if WHOLE_GATES.search(plan)] == []
    assert list_scans(plans) == []
    assert not any("arrivals" in plan for plan in plans), "and no arrival is read"


def _say_twice(ledger: Ledger, run_key: str) -> None:
    """Let a run hold as many further files as the ledger has, and then for another reason: each has two words."""
    names = [f"{name} again" for name in NAMES]
    samples.begin(ledger, run_key)
    ledger.claim(NIGHTLY, run_key, samples.arrivals(*names))
    for reason in ("study_in_flight", "study_held"):
        ledger.settle(NIGHTLY, run_key, samples.dispositions(*names, word="held").with_columns(reason=pl.lit(reason)))


def test_what_waits_for_a_file_is_found_by_the_words_about_files(
    gated: Ledger, url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("airlock.ledger.frames.fetch_frames", _stream_rows)
    held = samples.dispositions(*NAMES[:5], word="held").with_columns(study_instance_uid="2." + pl.Series(NAMES[:5]))
    gated.settle(NIGHTLY, "a", held.with_columns(reason=pl.lit("waiting_for_file")))
    decided = held.select(subject="study_instance_uid", gate="disposition", reason=pl.lit("waiting_for_file"))
    decided = decided.with_columns(gate=pl.lit("hold"), subject_key=pl.col("subject"))
    gated.record_gates(STORE, "a", decided)
    lost = samples.dispositions(*NAMES[5:10], word="quarantined").with_columns(
        reason=pl.lit("object_gone"), sop_instance_uid=pl.lit(None, pl.String)
    )
    samples.begin(gated, "lost")
    gated.claim(NIGHTLY, "lost", samples.arrivals(*(f"{name} lost" for name in NAMES[5:10])))
    ids = gated.held_by(NIGHTLY, "lost").select("arrival_id", "key")
    gated.settle(NIGHTLY, "lost", lost.with_columns(ids))
    _say_twice(gated, "b")
    if url.startswith("postgresql"):
        analyze(url)
    with explained() as plans:
        assert gated.waiting_studies(STORE, NIGHTLY, "c").height == 5
    about = [plan for plan in plans if "ix_words_reason" in plan or "ix_words_group" in plan]
    assert len(about) == 2
    assert not [plan for plan in plans if "Seq Scan on gates" in plan]
    assert list_scans(plans) == []


STAGED_SCAN = re.compile(r"Seq Scan on staged.* rows=(?!1 )")  # PostgreSQL knows that one staged row is one


def reads_staged_again_and_again(plan: str) -> bool:
    """Return whether a nested loop reads a staged table as a whole for each row of another table."""
    lines = [(len(line) - len(line.lstrip()), line) for line in plan.splitlines() if "cost=" in line]
    for place, (depth, line) in enumerate(lines):
        if STAGED_SCAN.search(line):
            above = max((n for n in range(place) if lines[n][0] < depth), default=0)
            if "Nested Loop" in lines[above][1] and place > above + 1:
                return True
    return False


def test_a_staged_table_is_not_read_for_each_row_of_a_table_without_statistics(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """PostgreSQL takes the rows of a new pipeline or data store for one row until it has new statistics."""
    upgrade(postgres_url)
    monkeypatch.setattr("airlock.ledger.frames.fetch_frames", _stream_rows)  # by a statement that can be explained
    pairs = [(name, f"1.{name}") for name in NAMES]
    own = samples.verdicts(*((name, "1.study") for name in NAMES))
    with Ledger.open(postgres_url) as ledger, explained() as plans:
        samples.begin(ledger, "a", "b")
        ledger.claim(NIGHTLY, "b", samples.arrivals(*(f"earlier {name}" for name in NAMES)))
        ledger.claim(NIGHTLY, "a", samples.arrivals(*NAMES))
        for _ in range(2):  # the second time validate was cleared
            with ledger.at_once(SCOPE, scope(NIGHTLY)) as at_once:
                staged = at_once.stage_verdicts(own)
                at_once.claim_instances(STORE, NIGHTLY, "a", staged)
                at_once.record_verdicts(STORE, NIGHTLY, "a", staged)
        ledger.record_imported(STORE, "a", samples.imports(*pairs), samples.study(), samples.series())
        ledger.settle(NIGHTLY, "a", samples.dispositions(*NAMES))
        ledger.drop_instances(STORE, "a", samples.uids(*(uid for _, uid in pairs)))
    assert any("Update on instances" in plan for plan in plans)
    assert [plan for plan in plans if reads_staged_again_and_again(plan)] == []
