"""Release: a person's answer with name and reason, and what the ledger then knows of the documents."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest

from airlock.ccda.audit import audit as audit_conversions
from airlock.ccda.records import FOLDER
from airlock.ccda.release import REVIEWED, find_approved, prepare_documents
from airlock.clinical.audit import audit
from airlock.clinical.normalize import normalize
from airlock.clinical.parse import parse
from airlock.clinical.validate import validate
from airlock.ledger import ReviewAnswer
from airlock.stages.resources import DISPOSITIONS
from airlock.stages.review import ReviewError, answer
from airlock.storage.spool import Partitions
from airlock_local.sample.ccda.documents import ccd
from tests.unit.airlock.ccda.world import Left, names, normalized, validated, words
from tests.unit.airlock.ccda.world import ended as converted
from tests.unit.airlock.clinical.books import Store, patient, rejected
from tests.unit.airlock.clinical.books import ended as imported
from tests.unit.airlock.clinical.books import words as unit_words
from tests.unit.airlock.world import frame

if TYPE_CHECKING:
    from airlock.ledger import ReviewRecord
    from airlock.pipelines import CcdaPipeline
    from airlock.run import Run
    from tests.unit.airlock.world import World

YES = ReviewAnswer(True, "A. Clinician", "read all of them")
NO = ReviewAnswer(False, "A. Clinician", "the medications are wrong")


def held(world: World, *resources: Any) -> Run[CcdaPipeline]:
    """Return a run whose document became these resources (two patients unless given), of which p3 fails at first."""
    audit = {"read_back_sample": 0, "manifest_wait_seconds": 0}
    run = normalized(world, {"a.xml": ccd(1)}, audit=audit)
    converted(world, run, {"a.xml": Left(list(resources) or [patient("p1"), patient("p2")])})
    leg = run.within(FOLDER)
    for shard in audit_conversions(run):
        parse(leg, shard)
    validate(leg, None)
    normalize(leg, run.pipeline.healthlake)
    imported(world, leg, {"Patient/p3": rejected(500)})
    audited(run)
    return run


def audited(run: Run[CcdaPipeline]) -> dict[str, tuple[str, str | None]]:
    """Audit a run again, with what has been approved of it, and return the words on its resources."""
    leg = run.within(FOLDER)
    assert audit(leg, Store(), find_approved(leg), partial(prepare_documents, run)).balanced
    return unit_words(leg)


def waiting(run: Run[CcdaPipeline]) -> list[ReviewRecord]:
    return run.ledger.open_reviews({run.pipeline.name})


def opened(run: Run[CcdaPipeline], person: str = YES.decided_by) -> list[ReviewRecord]:
    """Return what waits for an answer, after a person has opened its samples."""
    for one in waiting(run):
        for key in one.samples:
            run.ledger.open_sample(one.number, key, person)
    return waiting(run)


def document(run: Run[CcdaPipeline]) -> str:
    """Return the arrival id of the only document."""
    (rows,) = run.within(FOLDER).workspace.find_parts("dispositions", DISPOSITIONS)
    return str(rows["arrival_id"].unique().item())


def answered(run: Run[CcdaPipeline], given: ReviewAnswer = YES) -> None:
    opened(run, given.decided_by)
    answer(run.s3, run.pipeline, run.ledger, waiting(run), given)


def completed(world: World, run: Run[CcdaPipeline]) -> None:
    """Import what had failed by a further job."""
    imported(world, run.within(FOLDER), generation=1)


WAITS = ("held", "awaiting_review")
RELEASED = ("released", None)
THREE = [patient("p1"), patient("p2"), patient("p3")]


class TestAnswers:
    def test_a_run_is_one_question_and_an_approval_releases_it(self, world: World) -> None:
        run = held(world, *THREE)
        assert find_approved(run) is None
        (asked,) = waiting(run)
        assert (asked.reason, asked.subjects, asked.is_group) == ("awaiting_review", 2, True)
        assert asked.samples == {document(run): document(run)}
        answered(run)
        assert audited(run) == {
            "Patient/p1": RELEASED,
            "Patient/p2": RELEASED,
            "Patient/p3": ("failed", "server_error"),
        }
        assert (waiting(run), run.ledger.answered_runs(run.pipeline.name)) == ([], [])

    def test_a_repeated_audit_asks_the_same_question(self, world: World) -> None:
        run = held(world)
        before = waiting(run)
        assert set(audited(run).values()) == {WAITS}
        assert waiting(run) == before

    def test_what_is_kept_held_stays_so_and_is_not_asked_again(self, world: World) -> None:
        run = held(world)
        answered(run, NO)
        assert set(audited(run).values()) == {WAITS}
        assert waiting(run) == []

    def test_an_audit_again_keeps_a_release(self, world: World) -> None:
        run = held(world)
        answered(run)
        audited(run)
        decisions = run.ledger.gates_of(run.pipeline.datastore_id, run.key)
        assert set(audited(run).values()) == {RELEASED}
        assert run.ledger.gates_of(run.pipeline.datastore_id, run.key).equals(decisions)

    def test_an_answer_that_an_earlier_version_has_taken_counts(self, world: World) -> None:
        run = held(world)
        asked = pl.concat(run.workspace.find_parts(f"asked/{waiting(run)[0].seen[:16]}", REVIEWED))
        run.workspace.write("approved", REVIEWED, asked)
        run.workspace.write_json("review.json", {"approved": True})
        assert set(audited(run).values()) == {RELEASED}


class TestWhatIsApproved:
    def test_resources_imported_after_an_approval_make_the_run_wait_again(self, world: World) -> None:
        run = held(world, *THREE)
        answered(run)
        audited(run)
        completed(world, run)
        assert audited(run) == {"Patient/p1": WAITS, "Patient/p2": WAITS, "Patient/p3": WAITS}
        (asked,) = waiting(run)
        assert asked.question == {"resources": 3, "samples": {document(run): document(run)}}
        assert set(audited(run).values()) == {WAITS}, "asked is not answered"
        with pytest.raises(ReviewError, match=r"about 3 patients, files or resources, .* Open at least 1"):
            answer(run.s3, run.pipeline, run.ledger, [asked], YES)
        answered(run)
        assert set(audited(run).values()) == {RELEASED}

    def test_an_approval_counts_no_longer_once_a_later_question_is_answered_with_keep(self, world: World) -> None:
        run = held(world, *THREE)
        answered(run)  # and nobody has applied it when the third resource comes
        completed(world, run)
        audited(run)
        answered(run, NO)
        imported(world, run.within(FOLDER), {"Patient/p3": rejected(500)}, generation=2)
        assert audited(run) == {"Patient/p1": WAITS, "Patient/p2": WAITS, "Patient/p3": ("failed", "server_error")}

    def test_an_answer_is_refused_where_more_waits_than_it_was_asked_for(self, world: World) -> None:
        run = held(world, *THREE)
        seen = opened(run)
        completed(world, run)
        audited(run)
        with pytest.raises(ReviewError, match="have changed since it was asked"):
            answer(run.s3, run.pipeline, run.ledger, seen, YES)
        assert find_approved(run) is None


def recorded(run: Run[CcdaPipeline]) -> None:
    """Record the documents as the transaction does that settles."""
    with Partitions(1) as partitions:
        prepare_documents(run, partitions).record(run.ledger)


def decided(run: Run[CcdaPipeline], reason: str | None = None, **units: list[tuple[int | None, str]]) -> None:
    """Write the last words on each document's units: line and disposition; all have the same reason."""
    arrival = {name.removesuffix(".xml"): key for key, name in names(run).items()}
    rows: list[dict[str, Any]] = [
        {"arrival_id": arrival[name], "line": line, "disposition": word, "reason": reason}
        for name, each in units.items()
        for line, word in each
    ]
    run.within(FOLDER).workspace.write("dispositions", DISPOSITIONS, frame(rows, DISPOSITIONS))
    recorded(run)


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
        recorded(run)
        assert later(world, 1) == {"1.xml": ("accept", None)}

    @pytest.mark.parametrize("reason", ["job_unfinished", "job_not_started", "undecided"])
    def test_one_on_which_the_run_has_not_decided_stays_claimed(self, world: World, reason: str) -> None:
        run = normalized(world, {"a.xml": ccd(1)})
        decided(run, reason, a=[(None, "failed")])
        assert later(world, 1) == {"1.xml": ("quarantine", "instance_claimed")}

    def test_telling_it_again_changes_nothing(self, world: World) -> None:
        run = normalized(world, {"a.xml": ccd(1), "b.xml": ccd(2)})
        for _ in range(2):
            decided(run, a=[(1, "released")], b=[(1, "failed")])
        keys = pl.DataFrame({"resource_type": ["ClinicalDocument"], "resource_id": ["1.2.840.99999.1|doc-1"]})
        assert world.ledger.known_resources(f"{'a' * 32}/1", keys).height == 1
