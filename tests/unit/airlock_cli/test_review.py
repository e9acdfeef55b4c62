"""``airlock review`` as a person calls it."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import polars as pl
import pytest
import yaml

from airlock.ledger.reviews import ASKED
from airlock.records import study_key
from airlock_cli.caller import find_caller
from tests.unit.airlock.ledger.samples import NIGHTLY, STORE, uids
from tests.unit.airlock_cli.conftest import STUDY

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from typer.testing import Result

    from airlock.ledger import Ledger

WHY = "compared with the source"


@pytest.fixture(autouse=True)
def asked(told: Ledger, s3: Any, pipelines: Path, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Four reviews of one reason and site, and one of another; their numbers. The environment says that Ada asks."""
    monkeypatch.setenv("LOGNAME", "ada")
    rows = [
        (f"1.{each}", study_key(f"1.{each}"), site, reason, "study_incomplete", f"{each}", '{"subjects": 1}')
        for each, (reason, site) in enumerate([*[("truncated", "lakeview")] * 4, ("service_warning", "")])
    ]
    asked = pl.DataFrame(rows, schema=ASKED, orient="row")
    people = {"assignee": "the archive team", "deputy": None}
    told.ask_reviews(NIGHTLY, STORE, "a", asked, decided=None, released=uids(), **people)
    found = {one.subject: one.number for one in told.open_reviews({NIGHTLY})}
    return [found[f"1.{each}"] for each in range(5)]


def test_reviews_are_listed_without_identifiers(airlock: Callable[..., Result], asked: list[int]) -> None:
    listed: dict[str, Any] = json.loads(airlock("review", "list", "--json").stdout)
    assert listed["schema"] == "airlock.reviews/1"
    assert {row["number"] for row in listed["reviews"]} == set(asked)
    one = next(row for row in listed["reviews"] if row["number"] == asked[0])
    assert (one["subject_key"], one["for"], one["reasons"]) == (
        study_key("1.0"),
        "the archive team",
        ["study_incomplete"],
    )
    assert f"airlock review answer {asked[0]}" in one["what_to_do"]
    narrowed = json.loads(airlock("review", "list", NIGHTLY, "--reason", "service_warning", "--json").stdout)
    assert [row["number"] for row in narrowed["reviews"]] == asked[4:]
    shown = airlock("review", "list")
    assert shown.exit_code == 0
    assert study_key("1.3") in shown.stdout


def test_an_empty_list_is_said(airlock: Callable[..., Result]) -> None:
    nothing = airlock("review", "list", NIGHTLY, "--reason", "not_dicom")
    assert (nothing.exit_code, nothing.stderr.strip()) == (0, "No review waits for an answer.")


def test_an_approval_counts_and_says_who_releases_it(
    airlock: Callable[..., Result], asked: list[int], told: Ledger
) -> None:
    answered = airlock("review", "answer", str(asked[4]), "--approve", "--why", WHY)
    assert answered.exit_code == 0, answered.stderr
    assert "1 review is approved. The next run of nightly__review" in answered.stderr
    assert told.answered_runs(NIGHTLY) == [("a", "scheduled__a")]
    again = airlock("review", "answer", str(asked[4]), "--keep-held", "--why", "no")
    assert (again.exit_code, f"was answered by {find_caller()} at" in again.stderr) == (1, True)
    shown = json.loads(airlock("review", "show", str(asked[4]), "--json").stdout)["reviews"][0]
    assert (shown["answered_by"], shown["why"]) == (find_caller(), WHY)
    assert shown["state"] == "approved; the next review run releases it"


def test_several_are_answered_at_once_after_three_were_opened(
    airlock: Callable[..., Result], asked: list[int], told: Ledger
) -> None:
    bulk = ("review", "answer", "--pipeline", NIGHTLY, "--reason", "truncated", "--site", "lakeview", "--why", WHY)
    dry = airlock(*bulk, "--approve", "--dry-run")
    assert (dry.exit_code, "4 reviews would be answered. Nothing is recorded." in dry.stderr) == (0, True)
    refused = airlock(*bulk, "--keep-held")
    assert (refused.exit_code, "Open at least 3" in refused.stderr) == (1, True)
    for number in asked[:3]:
        assert airlock("review", "show", str(number)).exit_code == 0
    kept = airlock(*bulk, "--keep-held")
    assert (kept.exit_code, "4 reviews are answered: what they are about stays held." in kept.stderr) == (0, True)
    assert [one.number for one in told.open_reviews({NIGHTLY})] == asked[4:]


def test_a_review_about_many_is_answered_after_its_samples_were_opened(
    airlock: Callable[..., Result], asked: list[int], told: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    question = json.dumps({"subjects": 900, "samples": {"a" * 16: STUDY}})
    row = ("group/not_dicom/", "b" * 16, "", "not_dicom", "not_dicom", "seen", question)
    people = {"assignee": None, "deputy": None, "decided": uids(), "released": uids()}
    told.ask_reviews(NIGHTLY, STORE, "a", pl.DataFrame([row], schema=ASKED, orient="row"), **people)
    (number,) = [str(one.number) for one in told.open_reviews({NIGHTLY}) if one.is_group]
    one = json.loads(airlock("review", "show", number, "--json").stdout)["reviews"][0]
    assert (one["samples"], one["subjects"]) == (["a" * 16], 900)
    refused = airlock("review", "answer", number, "--approve", "--why", WHY)
    assert (refused.exit_code, "you have opened 0 of its samples" in refused.stderr) == (1, True)
    unknown = airlock("review", "show", number, "c" * 16)
    assert (unknown.exit_code, "names no hold" in unknown.stderr) == (1, True)
    opened = airlock("review", "show", number, "a" * 16)
    assert (opened.exit_code, "HELD in nightly" in opened.stdout) == (0, True), opened.stderr
    first = airlock("review", "answer", number, "--approve", "--why", WHY)
    assert (first.exit_code, "it stays held until another person approves it too" in first.stderr) == (0, True)
    one = json.loads(airlock("review", "list", NIGHTLY, "--reason", "not_dicom", "--json").stdout)["reviews"][0]
    assert (one["needs_second_person"], one["first_approval"]) == (True, find_caller())
    again = airlock("review", "answer", number, "--approve", "--why", WHY)
    assert (again.exit_code, "another person has to approve it too" in again.stderr) == (1, True)
    assert told.answered_runs(NIGHTLY) == []
    monkeypatch.setattr("airlock_cli.review.find_caller", lambda: "a colleague")
    airlock("review", "show", number, "a" * 16)
    second = airlock("review", "answer", number, "--approve", "--why", WHY)
    assert (second.exit_code, "1 review is approved." in second.stderr) == (0, True), second.stderr
    assert told.answered_runs(NIGHTLY) == [("a", "scheduled__a")]


def test_only_assignees_may_answer_whatever_name_the_environment_gives(
    airlock: Callable[..., Result], asked: list[int], pipelines: Path
) -> None:
    file = pipelines / "nightly.yaml"
    content = yaml.safe_load(file.read_text()) | {"review": {"by": "the team", "assignees": ["ada"]}}
    file.write_text(yaml.safe_dump(content))
    refused = airlock("review", "answer", str(asked[0]), "--approve", "--why", WHY)
    assert (refused.exit_code, "Only these may answer reviews of nightly: ada" in refused.stderr) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "status", "said"),
    [
        (("show", "999999"), 1, "There is no review 999999"),
        (("list", "nigthly"), 2, "did you mean nightly"),
        (("answer", "--approve", "--why", WHY), 2, "Name the reviews"),
        (("answer", "999999", "--approve", "--why", WHY), 1, "There is no review 999999"),
        (("answer", "1", "--approve", "--why", " "), 2, "--why is empty"),
        (("answer", "--pipeline", NIGHTLY, "--reason", "other", "--keep-held", "--why", WHY), 1, "No review waits"),
    ],
)
def test_what_cannot_be_done_is_said(
    airlock: Callable[..., Result], arguments: tuple[str, ...], status: int, said: str
) -> None:
    refused = airlock("review", *arguments)
    assert (refused.exit_code, said in refused.stderr) == (status, True), refused.stderr
