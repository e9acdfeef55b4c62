"""Release: a person's answer with name and reason, and what the ledger then knows of the documents."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ccda.records import FOLDER
from airlock.ccda.release import Review, ReviewError, find_review, record_documents, record_review
from airlock.clinical.records import DISPOSITIONS, GATES
from tests.ccda_documents import ccd
from tests.unit.airlock.ccda.world import names, normalized, validated, words
from tests.unit.airlock.world import frame

if TYPE_CHECKING:
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from tests.unit.airlock.world import World

YES = Review(True, "A. Clinician", "read all of them", "2026-11-24T02:00:00+00:00")


def waiting(world: World) -> Run[CcdaPipeline]:
    """Return a run two of whose patients wait for a review, while a third is held for another reason."""
    run = normalized(world, {"a.xml": ccd(1)})
    rows = [
        {"subject": "Patient/p1", "gate": "hold", "reason": "awaiting_review"},
        {"subject": "Patient/p2", "gate": "hold", "reason": "awaiting_review"},
        {"subject": "Patient/p3", "gate": "hold", "reason": "patient_held"},
    ]
    gates = [row | {"subject_key": f"key of {row['subject']}"} for row in rows]
    run.ledger.record_gates(run.pipeline.datastore_id, run.key, frame(gates, GATES))
    return run


def released(run: Run[CcdaPipeline]) -> dict[str, bool]:
    return dict(run.ledger.gates_of(run.pipeline.datastore_id, run.key).select("subject", "released").iter_rows())


class TestAnswers:
    def test_an_approval_overrides_what_waited_for_it_and_nothing_else(self, world: World) -> None:
        run = waiting(world)
        assert find_review(run) is None
        record_review(run, YES)
        assert released(run) == {"Patient/p1": True, "Patient/p2": True, "Patient/p3": False}
        assert find_review(run) == find_review(run.within(FOLDER)) == YES

    @pytest.mark.parametrize(("person", "why"), [("", "read"), ("A. Clinician", ""), (" ", "\n"), ("A", " ")])
    def test_an_approval_without_a_person_or_a_reason_is_none(self, world: World, person: str, why: str) -> None:
        run = waiting(world)
        with pytest.raises(ReviewError, match="needs a person and a reason: clear review and answer it again"):
            record_review(run, Review(True, person, why, "2026-11-24T02:00:00+00:00"))
        assert set(released(run).values()) == {False}
        assert find_review(run) is None

    def test_a_refusal_is_kept_and_releases_nothing(self, world: World) -> None:
        run = waiting(world)
        no = Review(False, "", "", "2026-11-24T02:00:00+00:00")
        record_review(run, no)
        assert set(released(run).values()) == {False}
        assert find_review(run) == no

    def test_an_answer_given_twice_counts_once(self, world: World) -> None:
        run = waiting(world)
        record_review(run, YES)
        record_review(run, YES)
        assert released(run) == {"Patient/p1": True, "Patient/p2": True, "Patient/p3": False}


def decided(run: Run[CcdaPipeline], **units: list[tuple[int | None, str]]) -> None:
    """Write the last words on each document's units: line and disposition."""
    arrival = {name.removesuffix(".xml"): key for key, name in names(run).items()}
    rows: list[dict[str, Any]] = [
        {"arrival_id": arrival[name], "line": line, "disposition": word}
        for name, each in units.items()
        for line, word in each
    ]
    run.within(FOLDER).workspace.write("dispositions", DISPOSITIONS, frame(rows, DISPOSITIONS))
    record_documents(run)


def later(world: World, *numbers: int) -> dict[str, tuple[str, str | None]]:
    return words(validated(world, {f"{number}.xml": ccd(number) for number in numbers}, "two"))


class TestDocuments:
    @pytest.mark.parametrize(
        ("units", "known"),
        [
            ([(1, "released"), (2, "released")], True),
            ([(1, "held"), (2, "duplicate")], True),
            ([(1, "released"), (2, "failed")], False),
            ([(1, "released"), (2, "quarantined")], False),
            ([(None, "quarantined")], False),
            ([(None, "duplicate")], False),
        ],
    )
    def test_one_is_converted_again_unless_all_of_it_is_in_the_data_store(
        self, world: World, units: list[tuple[int | None, str]], known: bool
    ) -> None:
        run = normalized(world, {"a.xml": ccd(1)})
        decided(run, a=units)
        expected = ("duplicate", "duplicate_same_content") if known else ("accept", None)
        assert later(world, 1) == {"1.xml": expected}

    def test_one_without_a_word_gives_its_claim_back(self, world: World) -> None:
        run = normalized(world, {"a.xml": ccd(1), "b.xml": ccd(2)})
        decided(run, a=[(1, "released")])
        assert later(world, 1, 2) == {"1.xml": ("duplicate", "duplicate_same_content"), "2.xml": ("accept", None)}

    def test_a_run_that_broke_off_gives_all_claims_back(self, world: World) -> None:
        run = normalized(world, {"a.xml": ccd(1)})
        record_documents(run)
        assert later(world, 1) == {"1.xml": ("accept", None)}

    def test_telling_it_again_changes_nothing(self, world: World) -> None:
        run = normalized(world, {"a.xml": ccd(1), "b.xml": ccd(2)})
        for _ in range(2):
            decided(run, a=[(1, "released")], b=[(1, "failed")])
        keys = pl.DataFrame({"resource_type": ["ClinicalDocument"], "resource_id": ["1.2.840.99999.1|doc-1"]})
        assert world.ledger.known_resources(f"{'a' * 32}/1", keys).height == 1
