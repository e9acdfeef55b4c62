"""What a clinical audit settles, it settles at once: killed anywhere, or overtaken, it leaves no half state."""

from __future__ import annotations

import json
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.clinical import settle
from airlock.clinical.audit import audit
from airlock.clinical.contracts import ClinicalContract
from airlock.ledger.database import reading
from airlock.ledger.tables import releases
from airlock.records import subject_key
from airlock.storage.s3uri import S3Uri
from tests.ledger_rows import read_dispositions
from tests.unit.airlock.clinical.books import STORE, Store, audited, delivered, ended, observation, patient, words

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from airlock.ledger import Ledger
    from airlock.pipelines import ClinicalPipeline
    from airlock.run import Run
    from tests.unit.airlock.world import World

    Audited = Run[ClinicalPipeline]

RELEASED, PATIENT_HELD = ("released", None), ("held", "patient_held")
_MOST_CALLS = 38  # of an audit, that write
_WRITES = {
    "at_once",
    "close_open",
    "close_run",
    "drop_resource_claims",
    "forget_resources",
    "note_open",
    "open_run",
    "record_gates",
    "record_imported_resources",
    "record_releases",
    "revise_contracts",
    "settle",
    "settle_origins",
    "settle_parked",
}
NO_READ_BACK: dict[str, Any] = {"audit": {"read_back_sample": 0}}


class WorkerKilled(BaseException):
    """The end of a worker."""


class MortalLedger:
    """A ledger whose worker is killed at the writing call with this number, also within a transaction."""

    def __init__(self, ledger: Ledger, calls: Iterator[int], last: int) -> None:
        self._ledger, self._calls, self._last = ledger, calls, last

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._ledger, name)

        def call(*args: Any, **given: Any) -> Any:
            if name in _WRITES and next(self._calls) == self._last:
                raise WorkerKilled
            return self._enter(found(*args, **given)) if name == "at_once" else found(*args, **given)

        return call

    @contextmanager
    def _enter(self, block: Any) -> Iterator[Any]:
        with block as inner:
            yield MortalLedger(inner, self._calls, self._last)


def is_killed_at(run: Audited, last: int) -> bool:
    """Audit a run until its worker is killed; return whether it makes so many writing calls."""
    ledger: Any = MortalLedger(run.ledger, count(1), last)
    try:
        audit(replace(run, ledger=ledger), Store())
    except WorkerKilled:
        return True
    return False


def find_released(world: World, name: str) -> set[str]:
    """Return the resources in the released contract of a patient; none without one."""
    with reading(world.ledger._engine) as connection:
        known = releases.c.subject_key == subject_key(STORE, name)
        uris = connection.scalars(releases.select().with_only_columns(releases.c.payload_uri).where(known)).all()
    texts = [world.s3.get(S3Uri.parse(uri)) for uri in uris]
    return {one.reference for text in texts for one in ClinicalContract.model_validate_json(text).resources}


def list_payloads(world: World, run: Audited) -> set[str]:
    return {key for key in world.keys(str(run.workspace.root.join("contracts", ""))) if "/revision-" in key}


@pytest.mark.parametrize("step", [5, pytest.param(1, marks=pytest.mark.proof)])
def test_an_audit_killed_at_any_call_leaves_nothing_half_done_for_another_run(world: World, step: int) -> None:
    audited(world, "zero", {"a.ndjson": [patient(f"p{number}") for number in range(1, _MOST_CALLS)]})
    for last in range(1, _MOST_CALLS, step):
        name, own, other = f"Patient/p{last}", f"Observation/a{last}", f"Observation/b{last}"
        one = delivered(world, f"one-{last}", {"a.ndjson": [observation(f"a{last}", f"p{last}")]}, **NO_READ_BACK)
        ended(world, one)
        if not is_killed_at(one, last):
            break
        settled = read_dispositions(world.ledger, "records", one.key).height == 1
        assert find_released(world, name) == ({name, own} if settled else {name}), last
        assert world.ledger.gates_of(STORE, one.key).is_empty() is not settled, last
        two, _ = audited(world, f"two-{last}", {"b.ndjson": [observation(f"b{last}", f"p{last}")]})
        assert words(two) == {other: RELEASED}, last
        assert find_released(world, name) == ({name, own, other} if settled else {name, other}), last
        audit(one, Store())
        assert words(one) == {own: RELEASED}, last
        assert find_released(world, name) == {name, own, other}, last
        assert len(list_payloads(world, one)) <= 1, last
    assert len(_WRITES) < last < _MOST_CALLS - step


def overtaken(monkeypatch: pytest.MonkeyPatch, overtake: Callable[[], object]) -> None:
    """Let another run act between the decisions of the next audit and its transaction."""
    write, done = settle.write_payloads, []

    def first(*args: Any) -> Any:
        if not done:
            done.append(True)
            overtake()
        return write(*args)

    monkeypatch.setattr(settle, "write_payloads", first)


def test_a_doubt_that_comes_after_the_decision_holds_the_patient(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    audited(world, "zero", {"a.ndjson": [patient("p1")]})
    one = delivered(world, "one", {"a.ndjson": [observation("o1", "p1")]}, **NO_READ_BACK)
    ended(world, one)
    bad = {"b.ndjson": [observation("o2", "p1")]}
    overtaken(monkeypatch, lambda: audited(world, "two", bad, {"Observation/o2": None}))
    found = audit(one, Store())
    assert words(one) == {"Observation/o1": PATIENT_HELD}
    assert found.report["dispositions"] == {"held": 1}
    assert find_released(world, "Patient/p1") == {"Patient/p1"}


def test_a_contract_revised_after_the_decision_is_revised_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    audited(world, "zero", {"a.ndjson": [patient("p1")]})
    one = delivered(world, "one", {"a.ndjson": [observation("o1", "p1")]}, **NO_READ_BACK)
    ended(world, one)
    overtaken(monkeypatch, lambda: audited(world, "two", {"b.ndjson": [observation("o2", "p1")]}))
    audit(one, Store())
    assert find_released(world, "Patient/p1") == {"Patient/p1", "Observation/o1", "Observation/o2"}
    (payload,) = list_payloads(world, one)  # that of the abandoned round is removed
    assert payload.endswith("revision-000003.json")


def test_contracts_are_made_once_where_nobody_else_acts(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a contract says of held and closed resources is foreseen, so that the locks are held once."""
    rounds = []
    settled = settle._settle_with
    monkeypatch.setattr(settle, "_settle_with", lambda *args: rounds.append(1) or settled(*args))
    audited(world, "one", {"a.ndjson": [patient("p1"), observation("o1", "p1")]}, {"Observation/o1": None})
    audited(world, "two", {"b.ndjson": [patient("p1", active=False), observation("o1", "p1")]})
    changed = patient("p1", active=True)
    audited(world, "three", {"c.ndjson": [changed, observation("o2", "p1"), "no JSON"]})
    assert len(rounds) == 3


def test_a_contract_that_counts_newer_stopped_content_is_made_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    rounds = []
    settled = settle._settle_with
    monkeypatch.setattr(settle, "_settle_with", lambda *args: rounds.append(1) or settled(*args))
    order = {"source": {"order": {"across_keys": "last_updated"}}}
    for number, (day, more) in enumerate([(2, {"colour": "blue"}), (1, {}), (3, {})]):
        seen = {"meta": {"lastUpdated": f"2026-11-0{day}T00:00:00Z"}}
        lines = [patient("p1", gender=("male", "female", "other")[number]), observation("o1", "p1") | seen | more]
        audited(world, f"run-{number}", {"a.ndjson": lines}, **order)
    assert len(rounds) == 3


def test_a_stopped_line_that_is_mended_after_the_decision_is_not_noted(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    audited(world, "zero", {"a.ndjson": [patient("p1")]})
    lines = [observation("o1", "p1"), observation("o2", "p1", colour="blue")]
    one = delivered(world, "one", {"a.ndjson": lines}, **NO_READ_BACK)
    ended(world, one)
    overtaken(monkeypatch, lambda: audited(world, "two", {"b.ndjson": [observation("o2", "p1")]}))
    audit(one, Store())
    assert world.ledger.open_of_patients(STORE, pl.Series(["Patient/p1"])).is_empty()


def test_a_run_whose_books_do_not_balance_keeps_its_claims(world: World) -> None:
    one = delivered(world, "one", {"a.ndjson": [patient("p1")]}, **NO_READ_BACK)
    ended(world, one)
    index = one.workspace.root.join("arrivals/index.json")
    before = world.s3.get(index)
    world.s3.put(index, json.dumps(json.loads(before) | {"shards": []}).encode())
    assert not audit(one, Store()).balanced
    assert world.ledger.gates_of(STORE, one.key)["reason"].unique().to_list() == ["run_unbalanced"]
    two, _ = audited(world, "two", {"b.ndjson": [patient("p1", active=False)]})
    assert words(two) == {"Patient/p1": ("quarantined", "instance_claimed")}
    world.s3.put(index, before)
    audit(one, Store())
    assert words(one) == {"Patient/p1": RELEASED}
